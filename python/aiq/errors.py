"""What a caller can get wrong: every message says what is wrong and what to do about it."""


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
    """A limit ended the search before it found a plan; there may be one, or none."""


class RuntimeUnavailableError(AiqError):
    """A runtime is not installed, or cannot run what was asked of it."""


class VerificationError(RuntimeUnavailableError):
    """A compiled program does not compute what the graph that it was made from computes."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during long work; the message says what was kept, and how to go on.

    Attributes
    ----------
    solution
        Of `aiq.solver`: the best solution so far, with its bound; else ``None``.
    plan
        Of `aiq.search`: the best `Plan` so far, or ``None`` if there was none yet. Where nothing
        was measured of it, its `accuracy` is ``None``. Else ``None``.
    """

    def __init__(self, message: str, solution: object = None, plan: object = None) -> None:
        super().__init__(message)
        self.solution, self.plan = solution, plan


def printable(text: str, most: int = 500) -> str:
    """Return text from elsewhere as a message shows it: on one line, at most `most` characters."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: most + 1])
    return line if len(line) <= most else line[: most - 3] + "..."


def first_line(error: Exception, most: int = 200) -> str:
    """Return the first line of what an exception says, or its name if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0] if lines else type(error).__name__, most).rstrip(".")
