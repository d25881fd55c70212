"""Samples in memory, cut into chunks of a size that suits the evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from aiq.errors import DataError
from aiq.graph.export import Inputs

IGNORED = -100
"""Target of a position that does not count, as in ``torch.nn.CrossEntropyLoss``."""

Dims = tuple[int | None, ...]
"""Batch dimension of each tensor; ``None``: all samples share it, or no tensor has a batch."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Inputs and targets of N samples, in the order in which the data gave them.

    Attributes
    ----------
    inputs
        A tensor, or a tuple or dict of tensors, each with N as its first dimension unless all
        samples share it.
    targets
        (N, ...): class indices (int64), usually; ``None`` where none were asked for.
    dims
        Where the model has the batch of each tensor. Without any integer one call is one sample.
    target_dim
        Where the data had the batch of the targets; ``None``: one call is one sample.
    """

    inputs: Inputs
    targets: Tensor | None
    dims: Dims = (0,)
    target_dim: int | None = 0

    def __len__(self) -> int:
        leaves = pytree.tree_leaves(self.inputs)
        return next(len(leaf) for leaf, own in zip(leaves, self._own, strict=True) if own)

    @property
    def whole(self) -> bool:
        """Whether one call of the model is one sample: its inputs have no batch."""
        return is_whole(self.dims)

    @property
    def given_targets(self) -> Tensor | None:
        """The targets with their dimensions in the order of the data."""
        if self.targets is None:
            return None
        return _back(self.targets, self.target_dim)

    def chunks(self, size: int) -> list["Samples"]:
        """Return the samples in pieces of `size`, the last one possibly smaller."""
        starts = range(0, len(self), size)
        return [self.part(start, min(start + size, len(self))) for start in starts]

    def part(self, start: int, stop: int) -> "Samples":
        """Return samples `start` up to `stop`, as views."""
        return self.at(slice(start, stop))

    def filled(self, batch: int | None) -> Inputs:
        """Return the inputs as the model takes them.

        The last sample is repeated up to `batch` if the network takes no other number.
        """
        missing = 0 if batch is None or self.whole else batch - len(self)

        def fill(leaf: Tensor, dim: int | None, own: bool) -> Tensor:
            if not own:
                return leaf
            if missing:
                leaf = torch.cat([leaf, leaf[-1:].expand(missing, *leaf.shape[1:])])
            return _back(leaf, dim)

        return self._mapped(fill)

    def at(self, index: slice | Tensor) -> "Samples":
        """Return the samples at `index`."""
        inputs = self._mapped(lambda leaf, dim, own: leaf[index] if own else leaf)
        targets = None if self.targets is None else self.targets[index]
        return replace(self, inputs=inputs, targets=targets)

    def counted(self) -> "Samples":
        """Return the samples without those of which every target is ignored: they say nothing.

        Raises
        ------
        DataError
            If none is left.
        """
        if self.targets is None or self.targets.dtype != torch.int64:
            return self
        counts = (self.targets != IGNORED).reshape(len(self.targets), -1).any(1)
        if counts.all():
            return self
        if not counts.any():
            raise DataError(
                f"Every target is {IGNORED}, which means that it does not count; give samples with "
                "targets that do."
            )
        return self.at(counts.nonzero().flatten())

    @property
    def _own(self) -> tuple[bool, ...]:
        """Whether each tensor has the samples as its first dimension."""
        return tuple(self.whole or dim is not None for dim in self.dims)

    def _mapped(self, function: Any) -> Inputs:  # noqa: ANN401
        leaves, structure = pytree.tree_flatten(self.inputs)
        mapped: Inputs = pytree.tree_unflatten(
            [function(*each) for each in zip(leaves, self.dims, self._own, strict=True)], structure
        )
        return mapped


def is_whole(dims: Sequence[int | None]) -> bool:
    """Return whether no tensor has a batch, so that one call of the model is one sample."""
    return all(dim is None for dim in dims)


def _back(leaf: Tensor, dim: int | None) -> Tensor:
    """Undo `_first`."""
    if dim is None:
        return leaf[0]
    return leaf.movedim(0, dim).contiguous() if dim else leaf
