"""The machine of a measurement: its description, its load, and its processors."""

import ctypes
import gc
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from aiq.errors import InputError

_PACKAGES = ("aiq", "torch", "torchao", "numpy", "onnxruntime", "openvino", "nncf")
_FLAGS = (
    ("avx2", "avx2"),
    ("avx512f", "avx512f"),
    ("avx_vnni", "avx_vnni"),
    ("avx512_vnni", "avx512_vnni"),
    ("avx512_bf16", "avx512_bf16"),
    ("avx512_fp16", "avx512_fp16"),
    ("amx_int8", "amx_int8"),
    ("amx_bf16", "amx_bf16"),
    ("asimddp", "dotprod"),
    ("i8mm", "i8mm"),
    ("bf16", "bf16"),
    ("sve", "sve"),
)
_TELLING = ("cpu", "isa", "limits")
_MORE = "cpu_id"  # older descriptions lack it
_LIMITS = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "MKL_ENABLE_INSTRUCTIONS",
)


def describe() -> dict[str, Any]:
    """Return a description of this machine for measurements, which can be written as JSON.

    Returns
    -------
    dict
        ``cpu`` (model name), ``cpu_id`` (its family and model as numbers, because clouds give
        different processors one name), ``cores`` (number that this process may use),
        ``threads_per_core``, ``isa`` (relevant instruction sets), ``hypervisor``, ``memory_gib``,
        ``os``, ``python``, and ``packages`` (installed versions). A value that the system does not
        report is ``None``. If environment variables limit the instruction sets of libraries,
        ``limits`` has their values.
    """
    info = _cpuinfo()
    flags = info.get("flags", info.get("Features", "")).split()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        **({"cpu_id": number} if (number := _cpu_id(info)) else {}),
        "cores": len(processors()) or os.cpu_count(),
        "threads_per_core": _threads_per_core(info),
        "isa": isa(),
        "hypervisor": "hypervisor" in flags if flags else None,
        "memory_gib": _memory_gib(),
        "os": platform.platform(),
        "python": sys.version.split()[0],
        "packages": {name: v for name in _PACKAGES if (v := _version(name)) is not None},
        **({"limits": found} if (found := limits()) else {}),
    }


def differences(described: Mapping[str, Any]) -> list[str]:
    """Return the properties that affect predictions and differ between this and another machine.

    Parameters
    ----------
    described
        Description by `describe` of the other machine, on which a profile was measured.

    Returns
    -------
    list of str
        Some of ``cpu``, ``isa`` and ``limits``. The number of cores is not compared, as a profile
        has its own number of threads.
    """
    here = describe()
    found = [key for key in _TELLING if described.get(key) != here.get(key)]
    if "cpu" not in found and _MORE in described and described[_MORE] != here.get(_MORE):
        found.insert(0, "cpu")
    return found


def isa() -> list[str]:
    """Return the relevant instruction sets that the system reports."""
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    return [name for flag, name in _FLAGS if flag in flags]


def limits() -> dict[str, str]:
    """Return the environment variables that limit the instruction sets of libraries."""
    return {name: os.environ[name] for name in _LIMITS if name in os.environ}


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu_id(info: dict[str, str]) -> str | None:
    """Return family and model of the processor, such as ``25.17``, or implementer and part."""
    for keys in (("cpu family", "model"), ("CPU implementer", "CPU part")):
        if all(key in info for key in keys):
            return ".".join(info[key] for key in keys)
    return None


def _threads_per_core(info: dict[str, str]) -> int | None:
    siblings, cores = info.get("siblings", ""), info.get("cpu cores", "")
    return int(siblings) // int(cores) if siblings.isdigit() and cores.isdigit() else None


def _memory_gib() -> float | None:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    return round(pages * size / 2**30, 1)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class Ticks:
    """Processor time since boot, in clock ticks over all processors."""

    total: int
    stolen: int


def cpu_ticks() -> Ticks | None:
    """Return the processor time since boot; ``None`` if ``/proc/stat`` is missing."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except (OSError, IndexError):
        return None
    values = [int(field) for field in fields[:8]]  # user time includes guest time
    return Ticks(sum(values), values[7]) if len(values) == 8 else None


def steal(before: Ticks | None, after: Ticks | None) -> float | None:
    """Return the fraction of processor time, 0 to 1, that the hypervisor gave to others."""
    if before is None or after is None or after.total <= before.total:
        return None
    return (after.stolen - before.stolen) / (after.total - before.total)


def processors() -> list[int]:
    """Return the processors that this process may use; none if the system does not report them."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def near_processors(count: int) -> list[int]:
    """Return processors for `count` threads, first the one on which this thread runs.

    Processes that compute at the same time usually get different ones, since the system puts busy
    threads on different processors. Processors are divided into blocks of `count`, so that every
    block has as many pairs of processors that share a core as the first one.
    """
    usable, current = processors(), _processor()
    index = usable.index(current) if current in usable else 0
    start = min(index // count, len(usable) // count - 1) * count
    return sorted(usable[start : start + count], key=lambda cpu: cpu != current)


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Compute with `count` threads on as many processors; by default with all usable ones.

    Threads that move between processors would disturb what is timed, so they stay on the
    `near_processors`. The context is the number of threads. At its end, the number of threads and
    the affinity of every thread are restored.

    Raises
    ------
    InputError
        If `count` is not between 1 and the number of processors this process may use.
    """
    import torch  # noqa: PLC0415 - `describe` works without it

    usable = processors()
    most = len(usable) or os.cpu_count() or 1
    wanted = most if count is None else count
    if not 1 <= wanted <= most:
        raise InputError(
            f"{wanted} threads were asked for, and this process may use {most} processors; "
            f"choose 1 to {most}."
        )
    before = torch.get_num_threads()
    affinity = _affinities() if wanted < len(usable) else {}
    chosen = set(near_processors(wanted))
    try:
        torch.set_num_threads(wanted)
        for task in affinity:
            _set_affinity(task, chosen)
        yield wanted
    finally:
        torch.set_num_threads(before)
        for task, cpus in affinity.items():
            _set_affinity(task, cpus)


def _processor() -> int | None:
    """Return the processor on which this thread runs; ``None`` if the system does not report it."""
    try:
        text = Path("/proc/thread-self/stat").read_text()
        return int(text.rpartition(")")[2].split()[36])  # the name before it may hold spaces
    except (OSError, IndexError, ValueError):
        return None


def _affinities() -> dict[int, set[int]]:
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            found[int(task.name)] = os.sched_getaffinity(int(task.name))
        except OSError:  # the thread has ended meanwhile
            continue
    return found


def _set_affinity(task: int, cpus: set[int]) -> None:
    try:
        os.sched_setaffinity(task, cpus)
    except OSError:  # the thread has ended meanwhile
        return


def peak_memory(call: Callable[[], object]) -> int | None:
    """Return the peak memory of this process in bytes while `call` runs.

    Free memory is returned to the system first, in whole pages. Memory that earlier work still
    holds counts, so compare processes rather than calls. It is ``None`` if the system does not
    report it.
    """
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    try:
        reset.write_text("5")
    except OSError:
        return None
    call()
    for line in status.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def caches() -> dict[str, float]:
    """Return cache level -> KiB over all processors that this process may use.

    Instruction caches are left out. It is empty if the system does not report caches.
    """
    found: dict[str, dict[str, float]] = {}
    for cpu in processors():
        for cache in Path(f"/sys/devices/system/cpu/cpu{cpu}/cache").glob("index*"):
            try:
                level, kind, size, shared = (
                    (cache / name).read_text().strip()
                    for name in ("level", "type", "size", "shared_cpu_list")
                )
            except OSError:
                continue
            if kind != "Instruction" and size[-1:] in _KIB and size[:-1].isdigit():
                # Processors that share a cache name the same processors.
                found.setdefault(f"L{level}", {})[shared] = int(size[:-1]) * _KIB[size[-1]]
    return {level: sum(found[level].values()) for level in sorted(found)}


_KIB = {"K": 1.0, "M": 1024.0, "G": 1024.0 * 1024.0}
