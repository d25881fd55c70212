"""The current folder on ``sys.path``: last, and only once a module of the user's is asked for.

A file there, say ``torchvision.py``, would otherwise be imported in place of the installed package.
Imports nothing but what Python has loaded already: it runs before anything else could be replaced.
"""

import os
import sys


def leave_out_current_folder() -> None:
    """Take the current folder off ``sys.path``; last where aiq itself is imported from it."""
    here = _here()
    kept = [entry for entry in sys.path if _real(entry) != here]
    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
    sys.path[:] = [*kept, home] if home == here else kept
    os.environ["PYTHONSAFEPATH"] = "1"  # processes that are started do not put it first either


def add_current_folder() -> None:
    """Put the current folder last on ``sys.path``: what the user names may be there."""
    here = _here()
    if here is not None and here not in map(_real, sys.path):
        sys.path.append(here)


def is_started_as_module() -> bool:
    """Whether this is ``python -m aiq``, which puts the current folder first."""
    named = (argument.removeprefix("-m").split(".")[0] for argument in sys.orig_argv[1:])
    return sys.argv[:1] == ["-m"] and "aiq" in named


def _here() -> str | None:
    """Return the current folder; ``None`` if it was deleted."""
    try:
        return os.path.realpath(os.curdir)
    except FileNotFoundError:
        return None


def _real(entry: str) -> str | None:
    """Return the folder that an entry of ``sys.path`` means."""
    try:
        return os.path.realpath(entry) if entry else _here()
    except FileNotFoundError:  # a relative entry, in a folder that was deleted
        return None
