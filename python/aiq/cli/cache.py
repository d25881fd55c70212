"""``aiq cache``: what is kept in the user's cache folder."""

from dataclasses import asdict

import typer

from aiq import cache as kept
from aiq.cli.common import JsonOption, out, print_json
from aiq.text import count, table

app = typer.Typer(
    invoke_without_command=True,
    help="Show what is kept in the user's cache folder, or empty it.",
)


@app.callback()
def cache(context: typer.Context, json_: JsonOption = False) -> None:
    """Show what is kept in the user's cache folder, or empty it."""
    if context.invoked_subcommand is None:
        _show(json_)


@app.command()
def clear(json_: JsonOption = False) -> None:
    """Remove all that is kept: evaluations, times of calibrations, profiles of this machine."""
    kept.clear()
    _show(json_)


def _show(json_: bool) -> None:
    found = kept.usage()
    if json_:
        print_json({"folder": str(kept.root()), "kept": [asdict(each) for each in found]})
        return
    out.print(f"{kept.root()}", markup=False, highlight=False, soft_wrap=True)
    rows = ((each.name, str(each.files), f"{count(each.size)}B") for each in found)
    out.print(table("", ["<kept", "files", "size"], rows))
    out.print(
        f"Of evaluations, at most {count(kept.MOST_BYTES)}B are kept: the least recently used are "
        "removed first.",
        highlight=False,
    )
