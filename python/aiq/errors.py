"""The exceptions of aiq. Every message says what is wrong and what to do about it."""

import re


class AiqError(Exception):
    """Base of every error that aiq raises on purpose."""


class InputError(AiqError, ValueError):
    """An argument has the wrong type, shape or value."""


class FormatError(InputError):
    """A number format is unknown or impossible."""


class GraphError(AiqError):
    """The model cannot be exported to a graph."""


class HardwareError(AiqError):
    """A hardware profile is unknown, unreadable, or inconsistent."""


class DataError(AiqError):
    """A data set is missing, empty, corrupt, or does not fit the model."""


class InfeasibleError(AiqError):
    """No plan meets the budget; the message names the nearest feasible value."""


class NoPlanError(AiqError):
    """A limit ended the search before it found a plan, so there may be one."""


class BusyMachineError(AiqError):
    """Other processes use the processors, so that measured times would be wrong."""


class RuntimeUnavailableError(AiqError):
    """A runtime is not installed, or cannot run the model."""


class VerificationError(RuntimeUnavailableError):
    """The outputs of a compiled program differ from those of the graph it was made from."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during long work. The message says what was kept, and how to continue.

    Attributes
    ----------
    solution
        In `aiq.solver`, the best solution so far with its bound; otherwise ``None``.
    plan
        In `aiq.search`, the best `Plan` so far, whose `accuracy` is ``None`` if it was not
        measured; otherwise ``None``.
    trained
        In `aiq.finetune` and `aiq.finetune_search`, what they would have returned at that moment;
        otherwise ``None``.
    """

    def __init__(
        self,
        message: str,
        solution: object = None,
        plan: object = None,
        trained: object = None,
    ) -> None:
        super().__init__(message)
        self.solution, self.plan, self.trained = solution, plan, trained


def type_of(value: object) -> str:
    """Return the type of a value with its article, for a message: ``an int``, ``a list``."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def printable(text: str, most: int = 500) -> str:
    """Return text of any origin for a message: on one line of at most `most` characters."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: most + 1])
    return line if len(line) <= most else line[: most - 3] + "..."


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

_PLACES = re.compile(
    r"(Exception from |Check '|While |set TORCH|For more|\[?File |Traceback)", re.IGNORECASE
)
"""First words of lines that name the place in the source at which an exception was raised."""


def reason(error: BaseException) -> str:
    """Return type and first line of the original cause of a third-party exception.

    The result is one line of at most 240 characters, without a full stop.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines()]
    said = [line for line in lines if line and not _PLACES.match(line)] or [
        line for line in lines if line
    ]
    text = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    return printable(text, 240).rstrip(".:")
