"""A calibration of one or two minutes, for any network or for one kind of network."""

import time
from collections.abc import Sequence

import torch

from aiq import machine, runtimes
from aiq.calibrate import chains, programs
from aiq.calibrate.calibration import anchor, fitted, with_section
from aiq.calibrate.samples import Sample
from aiq.hardware import Hardware
from aiq.progress import Progress, silent

FORMATS = ("fp32", "w8a8")
COUNT = 3

SECONDS = 75.0
"""Seconds after which no further networks are compiled and timed."""


def brief(
    runtime: str,
    hardware: Hardware,
    family: str | None = None,
    count: int = COUNT,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Hardware:
    """Add the section of a runtime to a profile, from few networks.

    Without a family these are random networks of every kind, one of each in every format for which
    the runtime has kernels, as far as `SECONDS` allow. Predictions are rougher than those of
    `aiq.calibrate.calibrate`, and the section says by how much. With a family, networks of that
    family are predicted about as well, others worse or not at all.

    Parameters
    ----------
    runtime
        Name of the runtime.
    hardware
        Profile of this machine with PyTorch's present thread count.
    family
        Family of the networks that are timed, see `aiq.calibrate.chains`; ``None`` for all.
    count
        Networks of the family; each is timed in float32 and in int8 (w8a8).
    force
        Whether to measure on a busy machine, too. Otherwise the call waits for a quiet one.
    progress
        Called with the name of the stage, the steps done and the steps in all.

    Raises
    ------
    RuntimeUnavailableError
        If the runtime is not installed.
    BusyMachineError
        If other processes use the processors for longer than a minute.
    """
    report, engine = progress or silent, runtimes.get(runtime)
    names = (
        chains.program_names([fmt.name for fmt in programs.native(engine)], 1)
        if family is None
        else [f"{family}/{fmt}/{i}" for i in range(count) for fmt in FORMATS]
    )
    ticks = machine.cpu_ticks()
    found, noise = _timed(engine, names, report, force=force)
    stolen = machine.steal(ticks, machine.cpu_ticks()) or 0.0
    section = fitted(engine, found, noise, hardware)
    return with_section(hardware, section, torch.get_num_threads(), stolen)


def _timed(
    engine: runtimes.Runtime, names: Sequence[str], report: Progress, *, force: bool
) -> tuple[list[Sample], float]:
    """Return samples of the networks called `names`, and the largest noise of their times."""
    stage, began = f"time chains in {engine.name}", time.monotonic()
    found, noises = list[Sample](), list[float]()
    beside = anchor(engine)
    for first in range(0, len(names), programs.BUNDLE):
        report(stage, first, len(names))
        if found and time.monotonic() - began > SECONDS:
            break
        bundle = names[first : first + programs.BUNDLE]
        timed, noise = programs.samples(engine, bundle, beside, force=force, progress=report)
        found += timed
        noises.append(noise)
    report(stage, len(names), len(names))
    return found, max(noises)
