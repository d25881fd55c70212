"""The command line: ``aiq ...``. Data goes to stdout, messages and progress to stderr."""

import sys
from typing import NoReturn

import typer
from rich.markup import escape

from aiq.cli import calibrate, measure, model, profiles, search
from aiq.cli.common import err
from aiq.errors import AiqError

app = typer.Typer(
    name="aiq",
    help="Which layers to quantise, to what, on this machine, and what it buys.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    search.demo,
    calibrate.calibrate,
    model.graph,
    model.sensitivity,
    search.search,
    measure.measure,
    measure.compare,
):
    app.command()(command)
app.add_typer(profiles.app, name="profiles")


def main() -> NoReturn:
    """Run the command line; a caller's mistake is one line on stderr and exit status 2."""
    try:
        app()
    except AiqError as error:
        err.print("[bold red]error:[/]", escape(str(error)), highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)
    sys.exit(0)
