"""A hash of everything that determines a result, so that kept results are not confused."""

import hashlib

import torch
from torch import Tensor

SCHEMA = 3
"""Increase it whenever the same formats come to mean other arithmetic."""


class Fingerprint:
    """A hash of everything that determines a result."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"aiq evaluations %d" % SCHEMA)

    def add(self, name: str, value: object) -> None:
        """Add a value: a tensor by its bytes, anything else by its ``repr``."""
        if isinstance(value, Tensor):
            self._hash.update(f"{name}:{value.dtype}{tuple(value.shape)}".encode())
            self._hash.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        else:
            self._hash.update(f"{name}={value!r};".encode())

    def hexdigest(self) -> str:
        """Return the hash as 64 hexadecimal digits."""
        return self._hash.hexdigest()
