"""The folder that keeps what later calls need again: evaluations, calibrations, profiles.

It is the user's cache folder, or the one that the environment variable ``AIQ_CACHE`` names. Nothing
in it is ever run: there are SQLite files and tensors of numbers, JSON and YAML, each written
atomically.
"""

import os
import shutil
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

VARIABLE = "AIQ_CACHE"
"""Name of the environment variable with the path of the folder."""

EVALUATIONS, CALIBRATIONS, PROFILES = "evaluations", "calibration", "hw_profiles"
"""Names of the folders in it."""

MOST_BYTES = 2 * 2**30
"""Largest size of all evaluations: the files that were used least recently are removed first."""

IN_USE = 3600.0
"""Seconds for which a file that was used is not removed, as another process may still use it."""

_FILES = (".sqlite", ".json", ".safetensors")
"""Endings of the files of evaluations, of estimated drops, and of observed activations."""

_BESIDE = ("-wal", "-shm")
"""Endings of the files that SQLite keeps beside an open one."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What one folder of the cache holds.

    Attributes
    ----------
    name
        Name of the folder.
    files, size
        Number of its files, and their size in bytes.
    """

    name: str
    files: int
    size: int


def root() -> Path:
    """Return the folder, which need not exist."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else platformdirs.user_cache_path("aiq")


def folder(name: str) -> Path:
    """Return a folder of the cache, one of the names above."""
    return root() / name


def usable(name: str) -> Path | None:
    """Return a folder of the cache, made if need be; ``None`` and a warning if it is read-only."""
    found = folder(name)
    try:
        found.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=found):
            return found
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        warnings.warn(
            f"Nothing is kept: the cache folder cannot be written ({found}: {reason}); name "
            f"another one in the environment variable {VARIABLE}.",
            stacklevel=2,
        )
        return None


def usage() -> tuple[Kept, ...]:
    """Return what the cache holds, by folder."""
    found = []
    for name in (EVALUATIONS, CALIBRATIONS, PROFILES):
        sizes = [size for path in folder(name).glob("*") if (size := _size(path)) is not None]
        found.append(Kept(name, len(sizes), sum(sizes)))
    return tuple(found)


def clear() -> None:
    """Remove all that is kept."""
    for name in (EVALUATIONS, CALIBRATIONS, PROFILES):
        shutil.rmtree(folder(name), ignore_errors=True)


def trim(most: int = MOST_BYTES) -> None:
    """Remove the evaluations that were used least recently, until at most `most` bytes are kept."""
    files = []
    kept = folder(EVALUATIONS)
    for path in (path for ending in _FILES for path in kept.glob(f"*{ending}")):
        beside = [path.with_name(path.name + ending) for ending in _BESIDE]
        used = max((_used(each) for each in (path, *beside)), default=0.0)
        size = sum(_size(each) or 0 for each in (path, *beside))
        files.append((used, size, path, beside))
    total = sum(size for _, size, _, _ in files)
    for used, size, path, beside in sorted(files, key=lambda file: file[0]):
        if total <= most or time.time() - used < IN_USE:
            return
        # The write-ahead log first: SQLite must not find it beside a new file of the same name.
        for each in (*beside, path):
            each.unlink(missing_ok=True)
        total -= size


def touch(path: Path) -> None:
    """Mark a file as used now."""
    with suppress(OSError):
        os.utime(path)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:  # another process removed it
        return None


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
