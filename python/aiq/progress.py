"""How long work says where it is."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is going on, how many steps of it are done, and how many there are."""


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing: the progress of a caller who did not ask for it."""
