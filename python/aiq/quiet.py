"""Whether other programs use the processors while something is measured."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from aiq import machine
from aiq.errors import BusyMachineError
from aiq.progress import Progress, silent

T = TypeVar("T")

MOST = 0.1
"""Largest share of the processors' time that others take on a quiet machine."""

PATIENCE = 60.0
"""Seconds to wait for a quiet machine."""

WINDOW = 1.0
"""Seconds over which the load is read before a measurement."""


@dataclass(frozen=True, slots=True)
class Load:
    """The use of the processors of this process over some time.

    Attributes
    ----------
    others
        Share of their time that other processes and the hypervisor took, and in which a quota of
        the container stopped this process: 0 to 1; ``None`` if the system does not report it.
    own
        Processor time of this process over wall time, in processors.
    """

    others: float | None
    own: float

    @property
    def busy(self) -> bool:
        """Whether times measured meanwhile are not those of a quiet machine."""
        return self.others is not None and self.others > MOST

    def __str__(self) -> str:
        if self.others is None:
            return "the load of the machine is not known"
        share = f"{100 * self.others:.0f} %"
        return (
            f"other processes took {share} of the processors' time; this one kept "
            f"{self.own:.1f} processors busy"
        )


@dataclass(frozen=True, slots=True)
class _Ticks:
    """Seconds since some start: wall time, use of the processors, and use by this process."""

    wall: float
    used: float
    whole: float
    own: float
    stopped: float


def watch() -> Callable[[], Load]:
    """Return a function that returns the load from now until it is called."""
    before = _ticks()
    return lambda: _load(before, _ticks())


def wait(progress: Progress = silent) -> Load:
    """Return the load of the machine once it is quiet, or after `PATIENCE` seconds.

    Parameters
    ----------
    progress
        Called with ``("wait for a quiet machine", seconds waited, PATIENCE)`` while it is busy.
    """
    start = time.monotonic()
    while True:
        so_far = watch()
        time.sleep(WINDOW)
        load, waited = so_far(), time.monotonic() - start
        if not load.busy or waited >= PATIENCE:
            return load
        progress("wait for a quiet machine", round(waited), round(PATIENCE))


def require(*, force: bool, progress: Progress = silent) -> None:
    """Wait for a quiet machine; nothing is asked with `force`.

    Raises
    ------
    BusyMachineError
        If others still use the processors after `PATIENCE` seconds.
    """
    if not force:
        refuse(wait(progress))


def during(measure: Callable[[], T], *, force: bool, progress: Progress = silent) -> tuple[T, Load]:
    """Return what `measure` returns on a quiet machine, and the load meanwhile.

    Parameters
    ----------
    measure
        Function that measures.
    force
        Whether to measure on a busy machine, too.
    progress
        Called as by `wait`.

    Raises
    ------
    BusyMachineError
        If others use the processors, and nothing is to be forced.
    """
    require(force=force, progress=progress)
    so_far = watch()
    found = measure()
    load = so_far()
    if not force:
        refuse(load)
    return found, load


def refuse(load: Load) -> None:
    """Raise `BusyMachineError` if the machine was busy."""
    if load.busy:
        raise BusyMachineError(
            f"The machine is busy ({load}), so that measured times would be wrong; stop the other "
            "processes, or measure nevertheless with force=True (--force)."
        )


def _load(before: _Ticks, after: _Ticks) -> Load:
    wall = max(after.wall - before.wall, 1e-9)
    own, whole = after.own - before.own, after.whole - before.whole
    others = None
    if whole > 0:
        share = (after.used - before.used - own) / whole
        others = min(1.0, max(0.0, share) + max(0.0, after.stopped - before.stopped) / wall)
    return Load(others, own / wall)


def _ticks() -> _Ticks:
    used, whole = _processors()
    times = os.times()
    return _Ticks(time.monotonic(), used, whole, times.user + times.system, _stopped())


def _processors() -> tuple[float, float]:
    """Return the busy and the whole time of the processors that this process may use, in seconds.

    Both are 0 if the system does not report them.
    """
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    usable = {f"cpu{number}" for number in machine.processors()}
    used = whole = 0.0
    for line in lines:
        name, *fields = line.split()
        if name in usable:
            values = [int(field) for field in fields[:8]]  # user time includes guest time
            whole += sum(values)
            used += sum(values) - values[3] - values[4]  # idle, and waiting for a disk
    tick = os.sysconf("SC_CLK_TCK")
    return used / tick, whole / tick


def _stopped() -> float:
    """Return the seconds for which a quota of the container has stopped this process."""
    with suppress(OSError, ValueError):
        for line in Path("/sys/fs/cgroup/cpu.stat").read_text().splitlines():
            if line.startswith("throttled_usec "):
                return int(line.split()[1]) / 1e6
    return 0.0
