"""Outputs of the float32 network, with which those of plans are compared.

A sentence of a language model has a number for each of its tokens and each word that could follow,
so that the outputs on all samples may take more memory than the model.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from tempfile import TemporaryFile

import torch
from torch import Tensor

from aiq.evaluate.metrics import Reference


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where an output is in the file: its first byte, and what its bytes are."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype
    scores: Tensor

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class References:
    """Keeps the references of chunks: in memory as far as that is allowed, and others in a file.

    The file is temporary and has no name. A reference that does not fit on the disk is not kept.

    Parameters
    ----------
    memory
        Largest size in bytes of the outputs in memory.
    """

    def __init__(self, memory: int) -> None:
        self._left = memory
        self._kept: dict[int, Reference] = {}
        self._places: dict[int, _Place] = {}
        self._file: FileIO | None = None
        self._end = 0

    def get(self, chunk: int) -> Reference | None:
        """Return the reference of the chunk with an index; ``None`` if it is not kept."""
        place = self._places.get(chunk)
        if place is None or self._file is None:
            return self._kept.get(chunk)
        read = bytearray(place.bytes)
        self._file.seek(place.offset)
        if self._file.readinto(read) != place.bytes:
            return None
        output = torch.frombuffer(read, dtype=place.dtype).view(place.shape)
        return Reference(output, place.scores)

    def put(self, chunk: int, reference: Reference) -> None:
        """Keep the reference of the chunk with an index, unless it is kept already."""
        if chunk in self._kept or chunk in self._places:
            return
        size = reference.output.nbytes
        if size <= self._left:
            self._left -= size
            self._kept[chunk] = reference
            return
        with suppress(OSError):  # of a disk that is full
            self._places[chunk] = self._write(reference)

    def _write(self, reference: Reference) -> _Place:
        output = reference.output.detach().contiguous()
        place = _Place(self._end, output.shape, output.dtype, reference.scores)
        if self._file is None:
            # Without a buffer, which would try to write again whenever the file is read.
            self._file = TemporaryFile(buffering=0)  # noqa: SIM115 - it lasts as long as this
        self._file.seek(place.offset)
        if self._file.write(output.view(-1).view(torch.uint8).numpy().data) != place.bytes:
            raise OSError("The disk has taken only a part.")
        self._end += place.bytes
        return place
