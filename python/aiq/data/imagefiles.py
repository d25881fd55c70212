"""Find and read the files of Fashion-MNIST and CIFAR-10, without trusting their contents.

Nothing is downloaded and nothing is unpickled.
"""

import gzip
import os
import zlib
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray

from aiq.errors import DataError

Bytes = NDArray[np.uint8]

CLASSES = 10


def image_folders() -> tuple[Path, ...]:
    """Return the folders that are searched for data sets, in order.

    They are those that the environment variable ``AIQ_DATA`` names, aiq's cache, ``./data``, and
    the folder of Debian's packages.
    """
    named = os.environ.get("AIQ_DATA", "")
    return (
        *(Path(p) for p in named.split(os.pathsep) if p),
        platformdirs.user_cache_path("aiq"),
        Path("data"),
        Path("/usr/share/datasets"),
    )


def read_fashion_mnist(part: str, folder: Path | str | None = None) -> tuple[Bytes, Bytes]:
    """Return images (N, 1, 28, 28) and labels (N,) of Fashion-MNIST as published.

    Parameters
    ----------
    part
        ``train`` (60,000 images) or ``test`` (10,000).
    folder
        Folder of the ``*-ubyte`` or ``*-ubyte.gz`` files; without it, those of `image_folders`.

    Raises
    ------
    DataError
        If the files are missing or corrupt.
    """
    stem = "t10k" if part == "test" else "train"
    names = [f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"]
    inside = ("", "fashion-mnist", "fashion_mnist", "FashionMNIST/raw")
    place = _find(
        "Fashion-MNIST",
        [base / sub for base in _bases(folder) for sub in inside],
        lambda place: all(_idx_files(place, name) for name in names),
        "install it (Debian: apt install dataset-fashion-mnist), or put its four *-ubyte.gz files "
        "into a folder that AIQ_DATA names",
    )
    images = _read_idx(_idx_files(place, names[0])[0], (28, 28))
    labels = _read_idx(_idx_files(place, names[1])[0], ())
    if len(images) != len(labels):
        raise DataError(
            f"{place}: has {len(images)} {part} images but {len(labels)} labels; get both files "
            "again."
        )
    return images[:, np.newaxis], _checked(labels, place)


def read_cifar10(part: str, folder: Path | str | None = None) -> tuple[Bytes, Bytes]:
    """Return images (N, 3, 32, 32) and labels (N,) of CIFAR-10 as published.

    Parameters
    ----------
    part
        ``train`` (50,000 images) or ``test`` (10,000).
    folder
        Folder of the ``*.bin`` files of the binary version; without it, those of `image_folders`.

    Raises
    ------
    DataError
        If the files are missing or corrupt, or only the pickled version is there.
    """
    names = ["test_batch.bin"] if part == "test" else [f"data_batch_{i}.bin" for i in range(1, 6)]
    bases = _bases(folder)
    how = (
        "get its binary version (cifar-10-binary.tar.gz, from the page of the data set) and unpack "
        "it into a folder that AIQ_DATA names"
    )
    pickled = [place for base in bases for place in (base, base / "cifar-10-batches-py")]
    for place in pickled:
        if (place / "batches.meta").is_file():
            how += f"; the Python version in {place} is pickled, which aiq does not open"
            break
    place = _find(
        "CIFAR-10",
        [base / sub for base in bases for sub in ("", "cifar-10-batches-bin")],
        lambda place: all((place / name).is_file() for name in names),
        how,
    )
    records = np.concatenate([_read_cifar(place / name) for name in names])
    return records[:, 1:].reshape(-1, 3, 32, 32), _checked(records[:, 0], place)


def _bases(folder: Path | str | None) -> tuple[Path, ...]:
    return image_folders() if folder is None else (Path(folder),)


def _find(what: str, places: list[Path], complete: Callable[[Path], bool], how: str) -> Path:
    for place in places:
        if complete(place):
            return place
    looked = ", ".join(dict.fromkeys(str(place) for place in places))
    raise DataError(f"{what} was not found in {looked}; {how}.")


def _idx_files(place: Path, name: str) -> list[Path]:
    """Return the files `name` in `place`, compressed and not, that exist."""
    return [path for path in (place / f"{name}.gz", place / name) if path.is_file()]


def _read_idx(path: Path, item: tuple[int, ...]) -> Bytes:
    """Return the items of an idx file of bytes, which has a magic number, sizes, and data."""
    header = 8 + 4 * len(item)
    raw = _read(path, header + 60_000 * prod(item))
    count = (len(raw) - header) // prod(item)
    expected = np.array([0x0800 + 1 + len(item), max(count, 0), *item], ">u4").tobytes()
    if raw[:header] != expected or len(raw) != header + count * prod(item):
        shape = " x ".join(["N", *map(str, item)])
        raise DataError(f"{path}: is not an idx file of {shape} bytes; get the file again.")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(-1, *item).copy()


def _read_cifar(path: Path) -> Bytes:
    """Return the records of a file of CIFAR-10's binary version: a label and 3 x 32 x 32 pixels."""
    record = 1 + 3 * 32 * 32
    raw = _read(path, 10_000 * record)
    if not raw or len(raw) % record:
        raise DataError(f"{path}: is not records of {record:,} bytes; get the file again.")
    return np.frombuffer(raw, np.uint8).reshape(-1, record).copy()


def _read(path: Path, limit: int) -> bytes:
    """Return the uncompressed content of a file of at most `limit` bytes."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            raw = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); get the file again.") from None
    if len(raw) > limit:
        raise DataError(f"{path}: holds more than {limit:,} bytes; get the file again.")
    return raw


def _checked(labels: Bytes, place: Path) -> Bytes:
    if labels.size and labels.max() >= CLASSES:
        raise DataError(f"{place}: a label is {labels.max()}, not 0 to 9; get the files again.")
    return labels
