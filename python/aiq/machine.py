"""The machine a number was taken on: what it is, what it was doing, and its processors."""

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
_LIMITS = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "MKL_ENABLE_INSTRUCTIONS",
)


def describe() -> dict[str, Any]:
    """Return what a reader needs to know about a measurement, ready for JSON.

    Returns
    -------
    dict
        ``cpu`` (model name), ``cores`` (usable by this process), ``threads_per_core``, ``isa``
        (the instruction sets that matter here), ``hypervisor``, ``memory_gib``, ``os``,
        ``python``, ``packages`` (installed versions). What the system does not tell is ``None``.
        ``limits`` stands there only where the environment keeps libraries from using some of the
        instruction sets: variable and value.
    """
    info = _cpuinfo()
    flags = info.get("flags", info.get("Features", "")).split()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
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
    """Return what of another description (`describe`) a prediction hangs on and is different here.

    Parameters
    ----------
    described
        Of the machine that something was measured on.

    Returns
    -------
    list of str
        Some of ``cpu``, ``isa``, ``limits``. Not ``cores``: a profile says for how many threads it
        holds.
    """
    here = describe()
    return [key for key in _TELLING if described.get(key) != here.get(key)]


def isa() -> list[str]:
    """Return the instruction sets that matter here, those that the system tells of."""
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    return [name for flag, name in _FLAGS if flag in flags]


def limits() -> dict[str, str]:
    """Return what in the environment keeps libraries from using instruction sets, and its value."""
    return {name: os.environ[name] for name in _LIMITS if name in os.environ}


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


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
    """Return the processor time spent so far; ``None`` where ``/proc/stat`` is missing."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except (OSError, IndexError):
        return None
    values = [int(field) for field in fields[:8]]  # guest time is counted in user time already
    return Ticks(sum(values), values[7]) if len(values) == 8 else None


def steal(before: Ticks | None, after: Ticks | None) -> float | None:
    """Return the share of processor time that the hypervisor gave to others in between, 0..1."""
    if before is None or after is None or after.total <= before.total:
        return None
    return (after.stolen - before.stolen) / (after.total - before.total)


def processors() -> list[int]:
    """Return the processors that this process may use; none where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Compute with `count` threads, kept on as many processors; all usable ones by default.

    Yields the count. On leaving, the thread count and the affinity of every thread are as before.

    Raises
    ------
    InputError
        If `count` is not between 1 and the number of processors this process may use.
    """
    import torch  # noqa: PLC0415 - `describe` should not need it

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
    try:
        torch.set_num_threads(wanted)
        for task in affinity:
            _set_affinity(task, set(usable[:wanted]))
        yield wanted
    finally:
        torch.set_num_threads(before)
        for task, cpus in affinity.items():
            _set_affinity(task, cpus)


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
    """Return the most bytes of memory that this process held while `call` ran.

    What is free is given back to the system first, as far as it takes whole pages; what earlier
    work still holds counts, so compare processes, not calls. ``None`` where the system does not
    tell.
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
