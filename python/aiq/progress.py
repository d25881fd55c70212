"""Reports of the progress of long work."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of the stage, the steps done, and the number of steps."""


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing: the progress of a caller who did not ask for it."""
