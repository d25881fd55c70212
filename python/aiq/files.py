"""Files that are either old or new, never half-written."""

import os
import secrets
from pathlib import Path


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
