"""The roofs of this machine as a hardware profile, and beside those of another profile."""

import datetime
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from aiq import machine, quiet
from aiq.calibrate import roofs
from aiq.formats import KERNEL_DTYPES
from aiq.hardware import Energy, Hardware, MemoryLevel, Pair
from aiq.progress import Progress, silent

NAME = "this_machine"
_LARGEST_KIB = 256 * 1024  # largest working set in KiB: beyond the last cache that a process gets


def quick(progress: Progress | None = None, *, name: str = NAME, force: bool = False) -> Hardware:
    """Measure the roofs of this machine with PyTorch's present thread count, in a few seconds.

    Parameters
    ----------
    progress
        Called with ``("measure this machine", steps done, steps in all)``.
    name
        Name of the profile.
    force
        Whether to measure on a busy machine, too. Otherwise the call waits for a quiet one.

    Returns
    -------
    Hardware
        A profile with the peak of each dtype that has a kernel here (float32 always) and the memory
        levels. It has no section for a runtime.

    Raises
    ------
    BusyMachineError
        If other processes use the processors for longer than a minute.
    """
    found = quiet_roofs(torch.get_num_threads(), progress or silent, _roofs, force=force)
    return as_hardware(found, machine.describe(), name)


def quiet_roofs(
    threads: int,
    report: Progress,
    measure: Callable[[int, Progress], dict[str, Any]],
    *,
    force: bool,
) -> dict[str, Any]:
    """Return what `measure` returns on a quiet machine; with `force`, with the load on any."""
    found, load = quiet.during(lambda: measure(threads, report), force=force, progress=report)
    return found if load.others is None else {**found, "others": roofs.four_digits(load.others)}


def compare_roofs(
    hardware: Hardware, progress: Progress | None = None, *, force: bool = False
) -> tuple[Pair, ...]:
    """Measure the roofs of this machine with a profile's threads, and pair them with the profile's.

    Parameters
    ----------
    hardware
        The profile to compare with.
    progress, force
        These are the parameters of `quick`.

    Returns
    -------
    tuple of Pair
        Peaks in GFLOP/s and bandwidths in GB/s: first that of the profile, second that of this
        machine.

    Raises
    ------
    InputError
        If the profile holds for more threads than this process may use.
    BusyMachineError
        If other programs keep the machine busy; see `quick`.
    """
    with machine.threads(hardware.threads):
        here = quick(progress, force=force)
    peaks = [
        Pair(f"compute.{dtype}.peak_gflops", peak, here.peak_gflops[dtype])
        for dtype, peak in hardware.peak_gflops.items()
        if dtype in here.peak_gflops
    ]
    levels = [
        Pair(f"memory.{level.level}.read_gbps", level.read_gbps, _bandwidth(here, level))
        for level in hardware.memory
    ]
    return (*peaks, *levels)


def _bandwidth(here: Hardware, level: MemoryLevel) -> float:
    """Return the bandwidth in GB/s that this machine reaches on working sets that fit `level`."""
    holds = [found for found in here.memory if found.size_kib >= 0.66 * level.size_kib]
    return (holds or here.memory[-1:])[0].read_gbps


def roofs_by_threads(threads: int, report: Progress) -> dict[str, Any]:
    """Measure the roofs with all threads and with one, and the parallel efficiency between them."""
    found = _roofs(threads, report)
    if threads > 1:
        with machine.threads(1):
            alone = _roofs(1, report)
        found["parallel_efficiency"] = {
            **{
                dtype: roofs.four_digits(peak / threads / alone["peaks"][dtype])
                for dtype, peak in found["peaks"].items()
            },
            "DRAM": roofs.four_digits(found["gbps"][-1] / threads / alone["gbps"][-1]),
        }
    return found


def _roofs(threads: int, report: Progress) -> dict[str, Any]:
    """Return the peak of each dtype in GFLOP/s and the bandwidth of each working set in GB/s."""
    sizes = roofs.working_sets(threads, _LARGEST_KIB)
    stage, total = "measure this machine", len(KERNEL_DTYPES) + len(sizes)
    report(stage, 0, total)
    peaks = {}
    for done, dtype in enumerate(KERNEL_DTYPES):
        rate = roofs.peak_gflops(dtype)
        if rate is not None:
            peaks[dtype] = roofs.four_digits(rate)
        report(stage, done + 1, total)
    speeds = []
    for done, kib in enumerate(sizes):
        speeds.append(roofs.four_digits(roofs.read_gbps(kib, threads)))
        report(stage, len(KERNEL_DTYPES) + done + 1, total)
    return {"threads": threads, "peaks": peaks, "kib": sizes, "gbps": speeds}


def as_hardware(found: Mapping[str, Any], host: Mapping[str, Any], name: str) -> Hardware:
    """Return measured roofs (`roofs_by_threads`) as a profile of the machine `host`."""
    sweep = roofs.Sweep(tuple(found["kib"]), tuple(found["gbps"]))
    limits = "".join(f", {key}={value}" for key, value in host.get("limits", {}).items())
    what = f"{host['cpu']}, {found['threads']} threads{limits}"
    return Hardware(
        name=name,
        description=f"{what}, as measured by aiq calibrate.",
        threads=found["threads"],
        peak_gflops=MappingProxyType(dict(found["peaks"])),
        memory=roofs.levels(sweep, (host["memory_gib"] or 16) * 2**20, machine.caches()),
        provenance=MappingProxyType(_provenance(host, found.get("others"))),
        parallel_efficiency=MappingProxyType(dict(found.get("parallel_efficiency", {}))),
        energy=Energy(),
    )


def _provenance(host: Mapping[str, Any], others: float | None) -> dict[str, Any]:
    busy = others is not None and others > quiet.MOST
    load = (
        [f"measured although other processes took {others:.0%} of the processors"] if busy else []
    )
    return {
        "method": "measured",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "sources": [
            "peaks: the fastest of PyTorch's products of 512x512 matrices, best of many runs",
            "memory: sums over working sets from 8 KiB a thread to 256 MiB in all, in equal shares",
            "cache sizes: those that the system reports",
            *load,
        ],
        "machine": dict(host),
    }
