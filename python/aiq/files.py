"""Atomic writes of files, and reads up to a limit."""

import errno
import fcntl
import os
import re
import secrets
import select
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from aiq.errors import InputError, printable

_WAIT_SECONDS = 1.0
"""Seconds after which a pipe without a process at its other end is refused."""
_LOCK_SECONDS = 60.0
_MOST_LINKS = 40
_PREFIX = ".aiq-writes-"
"""Prefix of the names of temporary files."""


def read_text(path: str | Path, limit: int, advice: str) -> str:
    """Return the text of a file.

    Parameters
    ----------
    path
        Path of a file of UTF-8 text. A pipe is read until its writer closes it.
    limit
        Largest size in bytes; a larger file is refused before it is read.
    advice
        Words at the end of the error message that say what to do.

    Raises
    ------
    InputError
        If the file is a folder, a pipe without a writer, or too large, or cannot be read.
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
    name = printable(str(path), 200) or "The empty path"
    raise InputError(f"{name} cannot be read ({reason}); {advice}.")


def is_file(path: Path) -> bool:
    """Whether there is a regular file; false for paths that no file system accepts."""
    try:
        return path.is_file()
    except OSError:
        return False


def _read(path: str | Path, limit: int) -> bytes:
    """Return the bytes of a file, at most one more than `limit`."""
    # Without O_NONBLOCK, this would wait forever for a pipe without a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_size > limit:
            raise ValueError(f"it is larger than {limit} bytes")
        start = _first_byte(descriptor) if stat.S_ISFIFO(status.st_mode) else b""
        os.set_blocking(descriptor, True)
        return start + stream.read(limit + 1 - len(start))


def _first_byte(pipe: int) -> bytes:
    """Return the first byte of a pipe; none if its writer has not written yet."""
    select.select([pipe], [], [], _WAIT_SECONDS)
    try:
        start = os.read(pipe, 1)
    except BlockingIOError:
        return b""
    if not start:
        raise ValueError("it is a pipe, and nobody writes to it")
    return start


def check_target(path: str | Path) -> None:
    """Check, as far as possible, that `write_atomic` could write to `path`.

    Call it before long work whose result will be written. It leaves no file behind.

    Raises
    ------
    InputError
        If the path is a folder, is below a file, is not writable, or is too long.
    """
    with explained(path):
        target = _Target.of(path)
        if target.replaced:
            folder = next(p for p in target.path.parents if p.exists())
            with _temporary(folder, 0o600):
                pass


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write `content` to `path` so that a reader, or a crash, sees the old file or the new one.

    Links are followed and kept. The mode of a file that is replaced is kept, too. Devices, pipes
    and open descriptors (``/dev/stdout``) are written to directly. Temporary files of writers that
    were killed are removed from the folder.

    Parameters
    ----------
    path
        Path of the file; its folder is created.
    content
        Text, which is stored as UTF-8, or bytes.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    raw = content.encode("utf-8") if isinstance(content, str) else content
    with explained(path):
        target = _Target.of(path)
        if not target.replaced:
            with target.stream() as stream:
                stream.write(raw)
            return
        target.path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.path.parent)
        old = target.status
        mode = 0o666 if old is None else stat.S_IMODE(old.st_mode)
        with _temporary(target.path.parent, mode & 0o777) as (path_now, stream):
            if old is not None:
                with suppress(PermissionError):  # only root may change the owner
                    os.fchown(stream.fileno(), old.st_uid, old.st_gid)
                os.fchmod(stream.fileno(), mode)
            stream.write(raw)
            stream.flush()
            os.fsync(stream.fileno())
            path_now.replace(target.path)


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Lock a folder, which is created, against other threads and processes that call this.

    Parameters
    ----------
    folder
        The folder. If its file system has no locks, this has no effect.
    shared
        Whether other shared locks are allowed at the same time, as for readers.

    Raises
    ------
    InputError
        If the folder cannot be opened, or another process locks it for a minute.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with explained(folder):
            deadline = time.monotonic() + _LOCK_SECONDS
            while not _lock(descriptor, unsupported=True, shared=shared):
                if time.monotonic() > deadline:
                    raise BlockingIOError(errno.EAGAIN, "another process keeps it locked")
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def explained(path: object) -> Iterator[None]:
    """Turn errors of the file system into `InputError`."""
    try:
        yield
    except (OSError, ValueError) as error:
        code = getattr(error, "errno", None)
        reason = getattr(error, "strerror", None) or str(error)
        if code == errno.ENXIO:
            reason = "it is a pipe, and nobody reads from it"
        full = code in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        raise InputError(
            f"{printable(str(path), 200) or 'The empty path'} cannot be written ({reason}); "
            f"{'free some space or ' if full else ''}name another file."
        ) from None


@dataclass(frozen=True, slots=True)
class _Target:
    """The destination of a write.

    Attributes
    ----------
    path
        The path after all links were followed.
    status
        Status of the existing file; ``None`` if there is none.
    descriptor
        Open descriptor of this process to which the path leads, such as 1 for ``/dev/stdout``.
    """

    path: Path
    status: os.stat_result | None = None
    descriptor: int | None = None

    @classmethod
    def of(cls, path: str | Path) -> "_Target":
        """Follow links; raise OSError or ValueError if the destination cannot be written."""
        found = Path(path)
        for _ in range(_MOST_LINKS):
            found = Path(os.path.realpath(found.parent)) / found.name
            if re.fullmatch(rf"/proc/(self|{os.getpid()})/fd/\d+", str(found)):
                os.fstat(int(found.name))
                return cls(found, descriptor=int(found.name))
            if not found.is_symlink():
                break
            found = found.parent / found.readlink()
        try:
            status = found.stat()
        except FileNotFoundError:
            return cls(found)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not os.access(found, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return cls(found, status)

    @property
    def replaced(self) -> bool:
        """Whether a new file replaces the destination; otherwise it is written to directly."""
        regular = self.status is None or stat.S_ISREG(self.status.st_mode)
        return self.descriptor is None and regular

    def stream(self) -> IO[bytes]:
        """Open a device, a pipe or an open descriptor for writing."""
        if self.descriptor is not None:
            sys.stdout.flush()
            return os.fdopen(os.dup(self.descriptor), "wb")
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:  # without O_NONBLOCK, this would wait forever for a pipe without a reader
                descriptor = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.ENXIO or time.monotonic() > deadline:
                    raise
                time.sleep(_WAIT_SECONDS / 20)
            else:
                os.set_blocking(descriptor, True)
                return os.fdopen(descriptor, "wb")


@contextmanager
def _temporary(folder: Path, mode: int) -> Iterator[tuple[Path, IO[bytes]]]:
    """Open a new file that is locked while it is used, and removed at the end if it still exists.

    Its name does not depend on the target's, which may be as long as the file system allows.
    """
    while True:
        path = folder / f"{_PREFIX}{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        if _lock(descriptor, unsupported=True) and path.exists():
            break
        os.close(descriptor)  # another process removed it before it was locked
    stream = os.fdopen(descriptor, "wb")
    try:
        yield path, stream
    finally:
        path.unlink(missing_ok=True)
        stream.close()


def _sweep(folder: Path) -> None:
    """Remove temporary files whose writers were killed, which have no locks."""
    for path in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "wb"):
                if _lock(descriptor, unsupported=False):
                    path.unlink()


def _lock(descriptor: int, *, unsupported: bool, shared: bool = False) -> bool:
    """Lock a file; return whether it worked, and `unsupported` if the file system has no locks."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return unsupported
    return True
