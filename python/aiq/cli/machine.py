"""``aiq profiles`` and ``aiq calibrate``: what machines can do."""

from pathlib import Path
from typing import Annotated

import typer

from aiq import calibrate as calibration
from aiq import hardware
from aiq.cli.common import JsonOption, err, out, print_json, progress_bars
from aiq.report import tables


def profiles(
    name: Annotated[str | None, typer.Argument(help="Show this one (name or file).")] = None,
    json_: JsonOption = False,
) -> None:
    """List the hardware profiles, or show and validate one."""
    found = [hardware.Hardware.load(n) for n in ([name] if name else hardware.available())]
    if json_:
        print_json([hardware.to_document(profile) for profile in found])
    else:
        out.print(tables.profile(found[0]) if name else tables.profiles(found))


def calibrate(
    output: Annotated[Path, typer.Option("--output", "-o", help="The profile to write.")],
    runtime: Annotated[str, typer.Option(help="The runtime to measure.")] = "inductor",
    quick: Annotated[bool, typer.Option(help="Only the roofs, in a few seconds.")] = False,
) -> None:
    """Measure this machine and a runtime, and write a hardware profile; can be resumed."""
    with progress_bars() as progress:
        if quick:
            profile = calibration.quick(progress=progress)
        else:
            profile = calibration.calibrate(runtime, name=output.stem, progress=progress)
    profile.save(output)
    err.print(f"saved {output}")
    out.print(tables.profile(profile))
