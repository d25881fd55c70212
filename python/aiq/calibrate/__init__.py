"""Measure this machine: its roofs, and what a runtime makes of them."""

import datetime
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from aiq import machine
from aiq.calibrate import roofs
from aiq.hardware import Hardware

__all__ = ["quick"]

Progress = Callable[[str, int, int], None]

_NAME = "this_machine"
_LARGEST_KIB = 256 * 1024  # of a working set: beyond the last cache that a process gets


def quick(progress: Progress | None = None) -> Hardware:
    """Return the roofs of this machine for PyTorch's present thread count, in a few seconds.

    Parameters
    ----------
    progress
        Called with ``("measure this machine", steps done, steps in all)``.

    Returns
    -------
    Hardware
        Called ``this_machine``: the peak of each dtype that has a kernel here (float32 always),
        and the memory levels found. It has no section for a runtime.
    """
    return _measure_roofs(torch.get_num_threads(), progress or (lambda stage, done, total: None))


def _measure_roofs(threads: int, report: Progress) -> Hardware:
    sizes = roofs.working_sets(threads, _LARGEST_KIB)
    stage, total = "measure this machine", len(roofs.DTYPES) + len(sizes)
    report(stage, 0, total)
    peaks = {}
    for done, dtype in enumerate(roofs.DTYPES):
        rate = roofs.peak_gflops(dtype)
        if rate is not None:
            peaks[dtype] = float(f"{rate:.4g}")
        report(stage, done + 1, total)
    speeds = []
    for done, kib in enumerate(sizes):
        speeds.append(roofs.read_gbps(kib, threads))
        report(stage, len(roofs.DTYPES) + done + 1, total)
    host = machine.describe()
    sweep = roofs.Sweep(tuple(sizes), tuple(speeds))
    return Hardware(
        name=_NAME,
        description=f"{host['cpu']}, {threads} threads, as measured by aiq calibrate.",
        threads=threads,
        peak_gflops=MappingProxyType(peaks),
        memory=roofs.levels(sweep, (host["memory_gib"] or 16) * 2**20),
        provenance=MappingProxyType(_provenance(host)),
    )


def _provenance(host: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "method": "measured",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "sources": [
            "peaks: fastest of PyTorch's matrix products of 512x512, best of many",
            "memory: sums over working sets from 8 KiB a thread to 256 MiB, each thread its share",
        ],
        "machine": dict(host),
    }
