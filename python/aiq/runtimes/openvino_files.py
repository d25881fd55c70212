"""Replace OpenVINO's two files, the network (``.xml``) and its weights (``.bin``), as one.

No file system replaces two files at once. The weights of the old network therefore keep their place
in the ``.bin`` file until the old ``.xml`` file is gone. A reader that opens the ``.xml`` and then
the ``.bin``, with aiq or without it, gets weights that belong to the network, even if the writer
was killed.
"""

import hashlib
import re
from pathlib import Path

import openvino

from aiq.files import explained, locked, write_atomic
from aiq.runtimes.openvino_core import core

_ALIGNMENT = 64
"""Alignment in bytes of weights that OpenVINO maps into memory."""

_OFFSET = re.compile(rb'(<data [^>]*?\boffset=")(\d+)(")')


def write_pair(path: Path, network: bytes, weights: bytes) -> None:
    """Write a network to `path` and its weights beside it, and replace an older pair of files.

    Parameters
    ----------
    path
        Path of the ``.xml`` file.
    network, weights
        Contents of the two files, as ``openvino.save_model`` writes them.

    Raises
    ------
    InputError
        If a file cannot be written. Either the older pair or the new one can still be read then.
    """
    beside = path.with_suffix(".bin")
    with locked(path.parent), explained(path):
        if path.is_file() and not beside.is_file():
            path.resolve().unlink()  # it would get the weights of another network
        old = beside.read_bytes() if path.is_file() else b""
        if old and old != weights:
            start = -(-max(len(old), len(weights)) // _ALIGNMENT) * _ALIGNMENT
            write_atomic(beside, old.ljust(start, b"\0") + weights)
            write_atomic(path, _moved(network, start))
            write_atomic(beside, weights.ljust(start, b"\0") + weights)
            write_atomic(path, network)
            write_atomic(beside, weights)
        else:
            write_atomic(beside, weights)
            write_atomic(path, network)


def read_pair(path: Path) -> openvino.Model:
    """Return the network in the file `path`, with the weights beside it, under a lock.

    Raises
    ------
    RuntimeError
        If OpenVINO finds no network in the file.
    """
    with locked(path.parent, shared=True):
        return core().read_model(path)


def fingerprint(model: openvino.Model) -> str:
    """Return a hash of all constants of a network; saving the network does not change it."""
    found = []
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant":
            head = f"{node.get_element_type()} {tuple(node.shape)} ".encode()
            found.append(hashlib.sha256(head + node.data.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(found))).hexdigest()


def _moved(network: bytes, start: int) -> bytes:
    """Return a network whose weights start `start` bytes later in their file."""
    return _OFFSET.sub(lambda m: m[1] + b"%d" % (int(m[2]) + start) + m[3], network)
