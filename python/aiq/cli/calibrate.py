"""``aiq calibrate``: measure this machine."""

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

RuntimesOption = Annotated[
    list[str] | None,
    typer.Option(
        help="The runtime to measure (inductor), or llamacpp, openvino_decoder or "
        "onnxruntime_decoder for language models that write tokens; may be repeated."
    ),
]


def calibrate(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The profile to write, NAME.yaml; default: the one of this machine in the user's "
            "cache folder, which --hw auto finds.",
        ),
    ] = None,
    runtime: RuntimesOption = None,
    add_to: Annotated[
        str | None,
        typer.Option(
            help="Profile that gets the sections of the runtimes; its roofs are not measured again."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads; default: those of --add-to, or all processors.")
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
    force: Annotated[
        bool, typer.Option("--force", help="Measure although other processes use the machine.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Measure this machine and a runtime, and write a hardware profile; can be resumed."""
    known = None if add_to is None else Hardware.load(add_to)
    threads = known.threads if threads is None and known is not None else threads
    calibration.check_calibration(runtime or [], threads)
    if quick and runtime:
        raise InputError("--quick measures no runtime; leave --quick or --runtime out.")
    if compare is not None and (output is not None or runtime or quick):
        raise InputError(
            "--compare writes no profile and measures no runtime; leave --output, --runtime and "
            "--quick out."
        )
    if compare is not None:
        _compare(Hardware.load(compare), json_, force=force)
        return
    if output is None:
        with machine.threads(threads) as used:
            output = calibration.own_path(used)
        output.parent.mkdir(parents=True, exist_ok=True)
    name = hardware.profile_name(output)  # a wrong name would be a pity after minutes of measuring
    check_target(output)
    with progress_bars() as progress:
        if quick:
            with machine.threads(threads):
                profile = calibration.quick(progress, name=name, force=force)
        else:
            measure = partial(
                calibration.calibrate,
                name=name,
                threads=threads,
                again=again,
                force=force,
                progress=progress,
            )
            first, *others = runtime or ["inductor"]
            profile = measure(first, add_to=known)
            for other in others:
                profile = measure(other, add_to=profile)

    def show() -> None:
        if json_:
            print_json(hardware.to_document(profile))
        else:
            out.print(tables.profile(profile))

    deliver(show, profile.save, output)


def _compare(profile: Hardware, json_: bool, *, force: bool) -> None:
    with progress_bars() as progress:
        pairs = calibration.compare_roofs(profile, progress, force=force)
    here = machine.describe()["cpu"]
    if json_:
        rows = [
            {"key": p.key, "profile": p.first, "here": p.second, "ratio": p.ratio} for p in pairs
        ]
        print_json({"profile": profile.name, "cpu": here, "numbers": rows})
    else:
        title = f"{profile.description}\n{here}, {profile.threads} threads"
        out.print(tables.pairs(title, (profile.name, "here"), pairs))
