"""Where the exceptions of exporters, compilers and runtimes become one of ours."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from aiq.errors import AiqError, RuntimeUnavailableError, printable

_MOST = 240
"""Characters of a foreign message that are shown."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

_PLACES = re.compile(
    r"(Exception from |Check '|While |set TORCH|For more|\[?File |Traceback)", re.IGNORECASE
)
"""Beginnings of lines that say where in somebody's source an exception was raised."""


@contextmanager
def door(runtime: str, action: str) -> Iterator[None]:
    """Raise as `RuntimeUnavailableError` what a runtime raises.

    Parameters
    ----------
    runtime
        Its name.
    action
        What it was to do; completes the sentence "Runtime X cannot ...".

    Raises
    ------
    RuntimeUnavailableError
        For every exception that is not one of `aiq.errors`. Interrupts and a lack of memory pass.
    """
    try:
        yield
    except (AiqError, MemoryError):
        raise
    except Exception as error:
        raise RuntimeUnavailableError(
            f"Runtime {runtime} cannot {action} ({reason(error)}); choose another runtime, or "
            "rewrite that part of the model."
        ) from error


def reason(error: BaseException) -> str:
    """Return what the first cause of an exception says, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines()]
    said = [line for line in lines if line and not _PLACES.match(line)] or [
        line for line in lines if line
    ]
    text = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    return printable(text, _MOST).rstrip(".:")
