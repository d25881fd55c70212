"""A journal of evaluations on disk, so that an interrupted search evaluates nothing twice.

There is one SQLite file for each fingerprint of everything that determines a result. SQLite's
transactions make every record complete or absent, even after ``kill -9``. Threads and processes may
share a file.
"""

import os
import sqlite3
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aiq import cache
from aiq.errors import DataError, InputError, printable
from aiq.files import check_target

VERSION = 1
"""Version of the tables; increase it when they change."""

PATIENCE_SECONDS = 60.0
"""Longest time to wait for another process that locks the file."""

_MOST_BYTES = 2**28
"""Largest size of a record of a chunk."""

_ABOUT = "CREATE TABLE IF NOT EXISTS about (fingerprint TEXT UNIQUE)"
_SCORES = (
    "CREATE TABLE IF NOT EXISTS scores (plan TEXT, chunk INTEGER, check_sum INTEGER, data BLOB, "
    "PRIMARY KEY (plan, chunk))"
)


def check_folder(folder: str | Path) -> None:
    """Check, before any work is done, that a journal can be kept in a folder.

    Raises
    ------
    DataError
        If it is no path, or no file can be written there.
    """
    if not isinstance(folder, str | os.PathLike):
        raise DataError(
            f"cache is {folder!r:.50}; give the path of the folder in which evaluations are kept, "
            "or None to keep none."
        )
    try:
        check_target(Path(folder) / "evaluations.sqlite")
    except InputError as error:
        raise DataError(f"The folder of the journal cannot be used: {error}") from None


class Journal:
    """Records of float64 arrays under (plan, chunk).

    Parameters
    ----------
    folder
        Folder of the file.
    fingerprint
        Hash of everything that determines the results.

    Raises
    ------
    DataError
        If the folder cannot be used, or the file in it is not a journal of this fingerprint. The
        file is not changed then.
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        self.path = Path(folder) / f"evaluations-{fingerprint[:24]}.sqlite"
        self._lock = threading.Lock()
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not self.path.is_file():
                raise OSError("it is not a file")
            cache.touch(self.path)
            # Threads may share the connection, because the lock lets them use it one at a time.
            self._connection = sqlite3.connect(
                self.path, timeout=PATIENCE_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_BYTES)
            known = self._prepare(fingerprint)
            self._write_ahead()
            self._connection.execute("PRAGMA synchronous=NORMAL")
        if known != [(fingerprint,)]:
            raise DataError(
                f"{self._name} is of another model, data or version; give another folder."
            )

    def get(self, plan: str, chunk: int, samples: int | None = None) -> NDArray[np.float64] | None:
        """Return the record of a plan on a chunk: (3, samples), or ``None`` if there is none.

        Parameters
        ----------
        plan, chunk
            Key of the record, as it was given to `put`.
        samples
            Number of samples that the record must have; ``None`` for any number.

        Raises
        ------
        DataError
            If the file cannot be read, or the record is damaged.
        """
        with self._explained(), self._lock:
            row = self._connection.execute(
                "SELECT check_sum, data FROM scores WHERE plan = ? AND chunk = ?", (plan, chunk)
            ).fetchone()
        if row is None:
            return None
        check_sum, data = row
        if not isinstance(data, bytes) or zlib.crc32(data) != check_sum:
            raise self._damaged("a record is not what was written")
        found, rest = divmod(len(data), 3 * 8)
        if not found or rest or found != (samples or found):
            raise self._damaged("a record has another size than its samples")
        return np.frombuffer(data, np.float64).reshape(3, found)

    def put(self, plan: str, chunk: int, scores: NDArray[np.float64]) -> None:
        """Store the record of a plan on a chunk.

        Raises
        ------
        DataError
            If the file cannot be written.
        """
        data = np.ascontiguousarray(scores, np.float64).tobytes()
        with self._explained(), self._lock:
            self._connection.execute(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)",
                (plan, chunk, zlib.crc32(data), data),
            )

    def _write_ahead(self) -> None:
        """Let readers and a writer work at the same time.

        SQLite does not wait by itself if the file is locked here.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _prepare(self, fingerprint: str) -> list[tuple[str]]:
        """Create missing tables, and return the fingerprints in the file."""
        run = self._connection.execute
        with self._connection:  # one transaction, so other processes see all of it or none
            run("BEGIN IMMEDIATE")
            (version,) = run("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise DataError(
                    f"{self._name} was written by a newer version of aiq; update aiq, or give "
                    "another folder."
                )
            names = run("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
            if set(names.fetchall()) not in (set(), {("table", "about"), ("table", "scores")}):
                raise self._damaged("it has other tables")
            if version < VERSION:  # others are not written, as they may be damaged
                run(_ABOUT)
                run(_SCORES)
                run(
                    "INSERT INTO about SELECT ? WHERE NOT EXISTS (SELECT * FROM about)",
                    (fingerprint,),
                )
                run(f"PRAGMA user_version={VERSION}")
            return run("SELECT fingerprint FROM about").fetchall()

    @property
    def _name(self) -> str:
        return f"The journal {printable(str(self.path), 300)}"

    def _damaged(self, reason: str) -> DataError:
        return DataError(
            f"{self._name} is damaged ({reason}); move it to another place, or give another "
            "folder, and its evaluations are repeated."
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of SQLite and of the disk into `DataError`."""
        try:
            yield
        except sqlite3.Error as error:
            problem = _PROBLEMS.get(_code(error))
            if problem is None:
                raise self._damaged(str(error)) from None
            raise DataError(f"{self._name} {problem}, or give another folder.") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DataError(
                f"{self._name} cannot be used ({reason}); give another folder."
            ) from None


class LenientJournal:
    """A journal in the user's cache folder: where it fails, nothing more is kept, with a warning.

    Parameters
    ----------
    folder, fingerprint
        These are the parameters of `Journal`.
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        self._journal: Journal | None = None
        with self._allowed_to_fail():
            self._journal = Journal(folder, fingerprint)

    def get(self, plan: str, chunk: int, samples: int | None = None) -> NDArray[np.float64] | None:
        """Return the record of a plan on a chunk, or ``None`` if there is none."""
        with self._allowed_to_fail():
            return None if self._journal is None else self._journal.get(plan, chunk, samples)
        return None

    def put(self, plan: str, chunk: int, scores: NDArray[np.float64]) -> None:
        """Store the record of a plan on a chunk."""
        with self._allowed_to_fail():
            if self._journal is not None:
                self._journal.put(plan, chunk, scores)

    @contextmanager
    def _allowed_to_fail(self) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            self._journal = None
            warnings.warn(
                f"Evaluations are not kept any more. {error} `aiq cache clear` empties the user's "
                "cache folder.",
                stacklevel=2,
            )


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, which errors of the module itself do not have."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


_NOT_ALLOWED = "cannot be opened or written by this user; ask for the right to"
_PROBLEMS = {
    sqlite3.SQLITE_BUSY: "is locked by another process; wait until that is done",
    sqlite3.SQLITE_LOCKED: "is locked by another process; wait until that is done",
    sqlite3.SQLITE_PERM: _NOT_ALLOWED,
    sqlite3.SQLITE_READONLY: _NOT_ALLOWED,
    sqlite3.SQLITE_CANTOPEN: _NOT_ALLOWED,
    sqlite3.SQLITE_AUTH: _NOT_ALLOWED,
    sqlite3.SQLITE_FULL: "has no room to grow; free some space",
    sqlite3.SQLITE_IOERR: "cannot be read or written, since the disk fails; check the disk",
    sqlite3.SQLITE_NOMEM: "does not fit into memory; free some",
}
