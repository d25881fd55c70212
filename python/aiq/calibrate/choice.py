"""The profile of this machine: a measured one if there is one, else one that is measured now."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiq import cache, machine
from aiq.calibrate.this_machine import NAME, quick
from aiq.errors import BusyMachineError, HardwareError
from aiq.hardware import Hardware, builtin_folder, profile_files
from aiq.progress import Progress, silent

AUTO = "auto"
"""What stands for the profile of this machine wherever a profile is named."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A profile, and why it is this one.

    Attributes
    ----------
    hardware
        The profile.
    reason
        Why it stands for this machine; empty if it was named.
    """

    hardware: Hardware
    reason: str = ""


def choose(
    hw: str | Path | Hardware, runtime: str | None = None, progress: Progress | None = None
) -> Choice:
    """Return the profile that `hw` names; for ``auto`` that of this machine.

    Such a profile was measured on a machine with the same processor, instructions and number of
    threads. One that is calibrated for `runtime` is preferred, then the user's own. If there is
    none, the roofs of this machine are measured, which takes seconds, and kept in the cache folder.

    Parameters
    ----------
    hw
        ``auto``, or what `Hardware.load` takes.
    runtime
        Name of the runtime of interest.
    progress
        Called with what is going on, steps done, and steps in all.

    Raises
    ------
    HardwareError
        If there is no such profile.
    BusyMachineError
        If this machine has to be measured and others use it.
    """
    if hw != AUTO:
        return Choice(Hardware.load(hw))
    threads = len(machine.processors()) or None
    with machine.threads(threads) as used:
        found = list(_measured_here(used))
        if not found:
            return _measure(used, progress or silent)
    path, hardware = max(found, key=lambda one: (runtime in one[1].runtimes, not _shipped(one[0])))
    where = "shipped with aiq" if _shipped(path) else str(path)
    return Choice(hardware, f"{where}, measured on such a processor with {used} threads")


def own_path(threads: int) -> Path:
    """Return where the profile of this machine is kept."""
    here = machine.describe()
    said = json.dumps([here["cpu"], here.get("cpu_id"), here["isa"], here.get("limits"), threads])
    digest = hashlib.sha256(said.encode()).hexdigest()[:8]
    return cache.folder(cache.PROFILES) / f"{NAME}_{digest}.yaml"


def _measured_here(threads: int) -> Iterator[tuple[Path, Hardware]]:
    """Yield the profiles that were measured on such a machine with this many threads."""
    host, number = re.compile(r"^  machine:", re.MULTILINE), f"\nthreads: {threads}\n"
    for name, path in profile_files().items():
        try:
            text = path.read_text(encoding="utf-8")
            if number not in text or not host.search(text):  # most are not: do not parse them
                continue
            hardware = Hardware.load(name)
        except (OSError, UnicodeDecodeError, HardwareError):  # `aiq profiles` names it
            continue
        if hardware.measured_on and not machine.differences(hardware.measured_on):
            yield path, hardware


def _measure(threads: int, progress: Progress) -> Choice:
    path = own_path(threads)
    try:
        hardware = quick(progress, name=path.stem)
    except BusyMachineError as error:
        raise BusyMachineError(
            f"No measured profile is of this machine, and it cannot be measured now. {error} Or "
            "name a profile that `aiq profiles` lists."
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    hardware.save(path)
    return Choice(hardware, f"its peaks were measured now, and are kept in {path}")


def _shipped(path: Path) -> bool:
    return path.parent == builtin_folder()
