"""The archive that AOTInductor writes, with aiq's description of the program as one more member."""

import io
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from aiq.errors import InputError
from aiq.runtimes.signature import LIMIT, METADATA

_MEMBER = f"extra/{METADATA}.json"
_MOST_MEMBERS = 100_000


def with_metadata(package: bytes, text: str) -> bytes:
    """Return the archive `package` with one more member."""
    stream = io.BytesIO(package)
    with zipfile.ZipFile(stream, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/{_MEMBER}", text)
    return stream.getvalue()


def metadata(path: Path) -> bytes:
    """Return the member that `with_metadata` added.

    PyTorch unpacks the whole archive, so the sizes and names of all members are checked first. It
    stores members uncompressed, so members larger than the archive were not written by PyTorch.

    Raises
    ------
    InputError
        If the file is not such an archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check(members, path)
            (found,) = (m for m in members if m.filename.endswith(f"/{_MEMBER}"))
            if found.file_size > LIMIT:
                raise ValueError("too much metadata")
            return archive.read(found)
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError, RuntimeError, EOFError):
        # zipfile raises RuntimeError for encrypted members and unknown methods of compression.
        raise InputError(
            f"{path} is no package that aiq wrote, or is damaged; give a file that aiq.export "
            "wrote."
        ) from None


def _check(members: list[zipfile.ZipInfo], path: Path) -> None:
    names = [PurePosixPath(member.filename.replace("\\", "/")) for member in members]
    if len(names) > _MOST_MEMBERS or len(set(names)) < len(names):
        raise ValueError("too many members, or two of one name")
    if any(name.is_absolute() or ".." in name.parts for name in names):
        raise ValueError("a member outside of the archive")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("members larger than their archive")
