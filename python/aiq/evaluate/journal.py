"""A journal of evaluations on disk, so that nothing is evaluated twice, whatever interrupts it.

One SQLite file per fingerprint of all that decides a result. SQLite's own journal makes every
record complete or absent, also after ``kill -9``.
"""

import sqlite3
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aiq.errors import DataError


class Journal:
    """Records of float64 arrays under (plan, chunk).

    Parameters
    ----------
    folder
        Where the file is or will be.
    fingerprint
        Of all that decides the results.

    Raises
    ------
    DataError
        If the folder cannot be used, or the file in it is no journal of this fingerprint.
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        self.path = Path(folder) / f"evaluations-{fingerprint[:24]}.sqlite"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS about (fingerprint TEXT UNIQUE)")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS scores (plan TEXT, chunk INTEGER, check_sum INTEGER, "
                "data BLOB, PRIMARY KEY (plan, chunk))"
            )
            self._connection.execute("INSERT OR IGNORE INTO about VALUES (?)", (fingerprint,))
            known = self._connection.execute("SELECT fingerprint FROM about").fetchall()
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"{self.path} cannot be used ({error}); delete it.") from None
        if known != [(fingerprint,)]:
            raise DataError(
                f"{self.path} is of another model, data or version; delete it, or give another "
                "folder."
            )

    def get(self, plan: str, chunk: int) -> NDArray[np.float64] | None:
        """Return the record of a plan on a chunk: (3, samples), or ``None`` if there is none."""
        try:
            row = self._connection.execute(
                "SELECT check_sum, data FROM scores WHERE plan = ? AND chunk = ?", (plan, chunk)
            ).fetchone()
        except sqlite3.Error as error:
            raise DataError(f"{self.path} is damaged ({error}); delete it.") from None
        if row is None:
            return None
        if zlib.crc32(row[1]) != row[0]:
            raise DataError(f"{self.path} is damaged (a check sum is wrong); delete it.")
        return np.frombuffer(row[1], np.float64).reshape(3, -1)

    def put(self, plan: str, chunk: int, scores: NDArray[np.float64]) -> None:
        """Store the record of a plan on a chunk."""
        data = np.ascontiguousarray(scores, np.float64).tobytes()
        try:
            self._connection.execute(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)",
                (plan, chunk, zlib.crc32(data), data),
            )
        except sqlite3.Error as error:
            raise DataError(
                f"{self.path} cannot be written ({error}); free some space or give another folder."
            ) from None
