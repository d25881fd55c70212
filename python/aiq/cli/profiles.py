"""``aiq profiles``: the machines that aiq knows."""

from pathlib import Path
from typing import Annotated

import typer

from aiq import hardware
from aiq.cli import profile_tables as tables
from aiq.cli.common import JsonOption, err, out, print_json
from aiq.errors import HardwareError
from aiq.hardware import Hardware

app = typer.Typer(
    invoke_without_command=True,
    help="List hardware profiles, or show, validate and compare them.",
)
NameArgument = Annotated[str, typer.Argument(help="A profile's name, or a .yaml file.")]


@app.callback()
def profiles(context: typer.Context, json_: JsonOption = False) -> None:
    """List hardware profiles, or show, validate and compare them."""
    if context.invoked_subcommand is None:
        list_(json_)


@app.command("list")
def list_(json_: JsonOption = False) -> None:
    """List the profiles; a file that is not a profile is reported and left out."""
    found = []
    for name in hardware.profile_files():
        try:
            found.append(Hardware.load(name))
        except HardwareError as error:
            err.print(f"left out: {error}", markup=False, highlight=False)
    if json_:
        print_json([hardware.to_document(profile) for profile in found])
    else:
        out.print(tables.profiles(found))


@app.command()
def show(name: NameArgument, json_: JsonOption = False) -> None:
    """Show one profile: roofs, ridge points, runtimes, sources."""
    profile = Hardware.load(name)
    if json_:
        print_json(hardware.to_document(profile))
    else:
        out.print(tables.profile(profile))


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="A .yaml file.")], json_: JsonOption = False
) -> None:
    """Check that a file is a profile, and called like its name."""
    hardware.validate(file)
    if json_:
        print_json({"file": str(file), "valid": True})
    else:
        out.print(f"{file}: valid", markup=False, highlight=False, soft_wrap=True)


@app.command()
def compare(first: NameArgument, second: NameArgument, json_: JsonOption = False) -> None:
    """Set the numbers of two profiles side by side."""
    left, right = Hardware.load(first), Hardware.load(second)
    found = hardware.side_by_side(left, right)
    if json_:
        rows = [
            {"key": p.key, "first": p.first, "second": p.second, "ratio": p.ratio} for p in found
        ]
        print_json({"first": left.name, "second": right.name, "numbers": rows})
    else:
        title = f"{left.description}\n{right.description}"
        out.print(tables.pairs(title, (left.name, right.name), found))
