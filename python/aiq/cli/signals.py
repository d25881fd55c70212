"""Ctrl-C and SIGTERM: the first ends the work in good order, the second ends it at once."""

import functools
import shlex
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, ParamSpec

import typer

from aiq.cli.common import err
from aiq.errors import Interrupted

P = ParamSpec("P")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

EXIT_STATUS = 130
"""What a shell reports of a command that Ctrl-C ended."""


def catch() -> None:
    """Make SIGTERM what Ctrl-C is, and the next of either deadly.

    A signal that is ignored, as in a job in the background of a shell, stays so.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _first)


def _first(number: int, frame: FrameType | None) -> NoReturn:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    raise KeyboardInterrupt


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Make Ctrl-C in a command end it with a line about what was kept, and the status for it."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as stop:
            tell(stop)
            raise typer.Exit(EXIT_STATUS) from None

    return run


def tell(stop: KeyboardInterrupt) -> None:
    """Say on stderr what was kept, and the command that goes on."""
    if not isinstance(stop, Interrupted):
        err.print("interrupted; nothing was kept.")
        return
    command = shlex.join(["aiq", *sys.argv[1:]])
    err.print(f"interrupted: {stop}", markup=False, highlight=False, soft_wrap=True)
    err.print(f"To go on: {command}", markup=False, highlight=False, soft_wrap=True)
