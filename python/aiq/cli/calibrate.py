"""``aiq calibrate``: measure this machine."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from aiq import calibrate as calibration
from aiq import hardware, machine
from aiq.cli import profile_tables as tables
from aiq.cli.common import JsonOption, deliver, out, print_json, progress_bars
from aiq.errors import InputError
from aiq.files import check_target
from aiq.hardware import Hardware


def calibrate(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The profile to write, NAME.yaml.")
    ] = None,
    runtime: Annotated[
        list[str] | None, typer.Option(help="The runtime to measure (inductor); may be repeated.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads to measure with; default: all processors.")
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Time everything once more and take the mean: on a shared machine."
        ),
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Only the roofs, in a minute.")] = False,
    compare: Annotated[
        str | None, typer.Option(help="Measure the roofs and set them beside this profile's.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Measure this machine and a runtime, and write a hardware profile; can be resumed."""
    if compare is not None:
        _compare(Hardware.load(compare), json_)
        return
    if output is None:
        raise InputError("There is no file to write; name one with --output NAME.yaml.")
    name = hardware.name_of(output)  # a wrong name would be a pity after minutes of measuring
    check_target(output)
    with progress_bars() as progress:
        if quick:
            with machine.threads(threads):
                profile = replace(calibration.quick(progress=progress), name=name)
        else:
            measure = partial(
                calibration.calibrate, name=name, threads=threads, again=again, progress=progress
            )
            first, *others = runtime or ["inductor"]
            profile = measure(first)
            for other in others:
                profile = measure(other, add_to=profile)

    def show() -> None:
        if json_:
            print_json(hardware.to_document(profile))
        else:
            out.print(tables.profile(profile))

    deliver(show, profile.save, output)


def _compare(profile: Hardware, json_: bool) -> None:
    with progress_bars() as progress:
        pairs = calibration.compare(profile, progress)
    here = machine.describe()["cpu"]
    if json_:
        rows = [
            {"key": p.key, "profile": p.first, "here": p.second, "ratio": p.ratio} for p in pairs
        ]
        print_json({"profile": profile.name, "cpu": here, "numbers": rows})
    else:
        title = f"{profile.description}\n{here}, {profile.threads} threads"
        out.print(tables.pairs(title, (profile.name, "here"), pairs))
