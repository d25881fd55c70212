"""Keep the current folder off ``sys.path`` until the user names a module, and put it last then.

Otherwise a file there, such as ``torchvision.py``, would be imported instead of the installed
package. This module imports only modules that Python has loaded already, so that it runs before any
other module could be replaced.
"""

import os
import sys


def leave_out_current_folder() -> None:
    """Remove the current folder from ``sys.path``; put it last if aiq itself is there."""
    here = _here()
    kept = [entry for entry in sys.path if _real(entry) != here]
    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
    sys.path[:] = [*kept, home] if home == here else kept
    os.environ["PYTHONSAFEPATH"] = "1"  # for processes that are started


def add_current_folder() -> None:
    """Put the current folder last on ``sys.path``, as a module that the user names may be there."""
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
    """Return the folder of an entry of ``sys.path``; ``None`` if it was deleted."""
    try:
        return os.path.realpath(entry) if entry else _here()
    except FileNotFoundError:  # a relative entry, in a folder that was deleted
        return None
