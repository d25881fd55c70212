"""The command line: ``aiq ...``. Data goes to stdout, messages and progress to stderr."""

import os
import sys
from contextlib import suppress
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from aiq import userpath
from aiq._core import __version__
from aiq.cli import signals
from aiq.cli.commands import Commands
from aiq.cli.common import err
from aiq.errors import AiqError

app = typer.Typer(
    cls=Commands,
    name="aiq",
    help="Which layers to quantise, to what, on this machine, and what it buys.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(*, asked: bool) -> None:
    if asked:
        typer.echo(f"aiq {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda asked: _version(asked=asked),
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line; a caller's mistake is one line on stderr and exit status 2."""
    userpath.leave_out_current_folder()
    signals.catch()
    try:
        _run()
    except AiqError as error:
        _say(str(error))
        sys.exit(2)
    except OSError as error:
        place = "The output" if error.filename is None else str(error.filename)
        _say(
            f"{place} cannot be used ({error.strerror or error}); name another place, or free some "
            "space."
        )
        with suppress(OSError):  # what is still to be written would fail again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        _say("There is not enough memory; give a smaller --input, or smaller batches of data.")
        sys.exit(1)
    except KeyboardInterrupt as stop:
        signals.tell(stop)
        sys.exit(signals.EXIT_STATUS)
    sys.exit(0)


def _run() -> None:
    """Run a command, and write all that it printed: a full disk is an error of this run."""
    try:
        app()
    except SystemExit:
        sys.stdout.flush()
        raise


def _say(message: str) -> None:
    with suppress(OSError):
        err.print("[bold red]error:[/]", escape(message), highlight=False)
