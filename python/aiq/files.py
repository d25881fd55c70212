"""Files that are either old or new, never half-written, and reads that have a limit."""

import os
import secrets
import select
import stat
from pathlib import Path

from aiq.errors import InputError, printable

_WAIT_SECONDS = 1.0
"""How long a pipe may be without a writer before it is called empty."""


def read_text(path: str | Path, limit: int, advice: str) -> str:
    """Return the text of a file.

    Parameters
    ----------
    path
        A regular file, or a pipe, of UTF-8 text. A pipe is read until its writer closes it.
    limit
        Most bytes; a larger file is refused before it is read.
    advice
        What to do if it cannot be read; completes the sentence of the error.

    Raises
    ------
    InputError
        If it is something else, is larger, or cannot be read.
    """
    try:
        raw = _read(path, limit)
        if len(raw) > limit:
            raise ValueError(f"it is larger than {limit} bytes")
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except ValueError as error:
        reason = str(error)
    raise InputError(f"{printable(str(path), 200)} cannot be read ({reason}); {advice}.")


def _read(path: str | Path, limit: int) -> bytes:
    """Return the bytes of a file, at most one more than `limit`."""
    # Without O_NONBLOCK a pipe that nobody writes to would be waited for without end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            if status.st_size > limit:
                raise ValueError(f"it is larger than {limit} bytes")
            return stream.read(limit + 1)
        if not stat.S_ISFIFO(status.st_mode):
            raise ValueError("it is a folder or a device, not a file")
        start = _first_byte(descriptor)
        os.set_blocking(descriptor, True)
        return start + stream.read(limit)


def _first_byte(pipe: int) -> bytes:
    """Return the first byte of a pipe; none if it has a writer who has not written yet."""
    select.select([pipe], [], [], _WAIT_SECONDS)
    try:
        start = os.read(pipe, 1)
    except BlockingIOError:
        return b""
    if not start:
        raise ValueError("it is a pipe, and nobody writes to it")
    return start


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write `content` to `path` so that a reader, or a crash, sees the old file or the new one.

    Parameters
    ----------
    path
        Destination; its folder is created.
    content
        Text (stored as UTF-8) or bytes.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode("utf-8") if isinstance(content, str) else content
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as stream:  # readable by whom the user lets, unlike mkstemp's
            stream.write(raw)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
