"""The machine a number was taken on, and the versions of the software that took it."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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


def describe() -> dict[str, Any]:
    """Return what a reader needs to know about a measurement, ready for JSON.

    Returns
    -------
    dict
        ``cpu`` (model name), ``cores`` (usable by this process), ``threads_per_core``, ``isa``
        (the instruction sets that matter here), ``hypervisor``, ``memory_gib``, ``os``,
        ``python``, ``packages`` (installed versions). What the system does not tell is ``None``.
    """
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads_per_core": _threads_per_core(info),
        "isa": [name for flag, name in _FLAGS if flag in flags],
        "hypervisor": "hypervisor" in flags if flags else None,
        "memory_gib": _memory_gib(),
        "os": platform.platform(),
        "python": sys.version.split()[0],
        "packages": {name: v for name in _PACKAGES if (v := _version(name)) is not None},
    }


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
