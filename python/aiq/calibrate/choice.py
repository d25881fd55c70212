"""The profile of this machine: a calibrated one if there is one, else one that is made now."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aiq import cache, machine, runtimes
from aiq.calibrate.brief_calibration import brief
from aiq.calibrate.this_machine import NAME, quick
from aiq.errors import BusyMachineError, HardwareError
from aiq.hardware import Hardware, builtin_folder, profile_files
from aiq.progress import Progress, silent

AUTO = "auto"
"""Name that means the profile of this machine wherever a profile is named."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A profile, and why it is this one.

    Attributes
    ----------
    hardware
        The profile.
    reason
        Why it was chosen for this machine; empty if it was named.
    """

    hardware: Hardware
    reason: str = ""


def choose(
    hw: str | Path | Hardware,
    runtime: str | None = None,
    progress: Progress | None = None,
    *,
    times: bool = True,
) -> Choice:
    """Return the profile that `hw` names; for ``auto`` that of this machine.

    Such a profile was measured on a machine with the same processor, instructions and number of
    threads. One that is calibrated for `runtime` is preferred, then the user's own. If there is
    none, the roofs of this machine are measured, in seconds. If none is calibrated for `runtime`,
    and that is installed, a brief calibration follows, of a minute or two. Both are made once and
    kept in the cache folder.

    Parameters
    ----------
    hw
        ``auto``, or what `Hardware.load` takes.
    runtime
        Name of the runtime of interest.
    progress
        Called with what is going on, steps done, and steps in all.
    times
        Whether times are to be predicted; otherwise no runtime is calibrated.

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
        calibrated = any(runtime in hardware.runtimes for _, hardware in found)
        if not found or (times and not calibrated and _is_installed(runtime)):
            wanted = runtime if times else None
            made = _measure(used, dict(found), wanted, progress or silent)
            if made is not None:
                return made
    path, hardware = max(found, key=lambda one: (runtime in one[1].runtimes, not _shipped(one[0])))
    where = "shipped with aiq" if _shipped(path) else str(path)
    return Choice(hardware, f"{where}, measured on such a processor with {used} threads")


def _is_installed(runtime: str | None) -> bool:
    """Whether `runtime` is one that can be calibrated here."""
    return runtime in runtimes.names() and runtime in runtimes.available()


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


def _measure(
    threads: int, found: Mapping[Path, Hardware], runtime: str | None, progress: Progress
) -> Choice | None:
    """Measure what the profiles that were found lack, and keep it in the user's own profile.

    Nothing is returned if a busy machine cannot be measured, but there are other profiles of it.
    """
    path = own_path(threads)
    own = found.get(path)
    if own is None:
        try:
            own = quick(progress, name=path.stem)
        except BusyMachineError as error:
            if found:
                return None
            raise BusyMachineError(
                f"No measured profile is of this machine, and it cannot be measured now. {error} "
                "Or name a profile that `aiq profiles` lists."
            ) from None
        _keep(own, path)
    measured = "its peaks were measured now"
    if _is_installed(runtime):
        assert runtime is not None
        try:
            own = brief(runtime, own, progress=progress)
        except BusyMachineError:
            measured = (
                f"its peaks only, as the machine is too busy to calibrate {runtime}; the next "
                "search tries again"
            )
        else:
            _keep(own, path)
            mean = 100 * own.runtimes[runtime].fit.mape
            measured = (
                f"{runtime} was calibrated briefly now (mean error {mean:.0f} %); "
                f"`aiq calibrate --runtime {runtime}` does it better, in some minutes"
            )
    return Choice(own, f"{measured}; kept in {path}")


def _keep(hardware: Hardware, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hardware.save(path)


def _shipped(path: Path) -> bool:
    return path.parent == builtin_folder()
