"""A calibration of seconds, for one kind of network."""

import torch

from aiq import machine, runtimes
from aiq.calibrate import programs
from aiq.calibrate.calibration import anchor, fitted, with_section
from aiq.hardware import Hardware
from aiq.progress import Progress, silent

FORMATS = ("fp32", "w8a8")
COUNT = 3


def brief(
    runtime: str,
    hardware: Hardware,
    family: str,
    count: int = COUNT,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Hardware:
    """Add the section of a runtime to a profile, from a few networks of one family.

    Networks of the family are predicted about as well as by `aiq.calibrate.calibrate`, others worse
    or not at all.

    Parameters
    ----------
    runtime
        Name of the runtime.
    hardware
        Profile of this machine with PyTorch's present thread count.
    family
        Family of the networks that are timed, see `aiq.calibrate.chains`.
    count
        Networks; each is timed in float32 and in int8 (w8a8).
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
    stage = f"time chains in {engine.name}"
    names = [f"{family}/{fmt}/{i}" for i in range(count) for fmt in FORMATS]
    report(stage, 0, len(names))
    ticks = machine.cpu_ticks()
    found, noise = programs.samples(engine, names, anchor(engine), force=force, progress=report)
    stolen = machine.steal(ticks, machine.cpu_ticks()) or 0.0
    report(stage, len(names), len(names))
    section = fitted(engine, found, noise, hardware)
    return with_section(hardware, section, torch.get_num_threads(), stolen)
