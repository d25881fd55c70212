"""Samples in memory, which can be divided into chunks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from aiq.errors import DataError
from aiq.graph.export import Inputs

IGNORED = -100
"""Target of a position that is not evaluated, as in ``torch.nn.CrossEntropyLoss``."""

Dims = tuple[int | None, ...]
"""Batch dimension of each tensor; ``None`` for a tensor that all samples share.

If it is ``None`` for all tensors, one call of the model is one sample.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Inputs and targets of N samples, in the order in which the data gave them.

    Attributes
    ----------
    inputs
        A tensor, or a tuple or dict of tensors. The first dimension of each is N, unless all
        samples share the tensor.
    targets
        Targets, (N, ...), usually class indices (int64); ``None`` if the data has none.
    dims
        Batch dimension of each input of the model.
    target_dim
        Batch dimension of the targets in the data; ``None`` if one call is one sample.
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
        """Whether one call of the model is one sample, because its inputs have no batch."""
        return is_whole(self.dims)

    @property
    def given_targets(self) -> Tensor | None:
        """The targets with their dimensions in the order of the data."""
        if self.targets is None:
            return None
        return _back(self.targets, self.target_dim)

    def chunks(self, size: int) -> list["Samples"]:
        """Return the samples in chunks of `size`; the last one may be smaller."""
        starts = range(0, len(self), size)
        return [self.part(start, min(start + size, len(self))) for start in starts]

    def part(self, start: int, stop: int) -> "Samples":
        """Return the samples from `start` to before `stop`, as views."""
        return self.at(slice(start, stop))

    def filled(self, batch: int | None) -> Inputs:
        """Return the inputs with the dimensions that the model expects.

        If the model accepts only `batch` samples, the last sample is repeated to fill the batch.
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
        """Return the samples that have a target which is not ignored.

        Raises
        ------
        DataError
            If no sample is left.
        """
        if self.targets is None or self.targets.dtype != torch.int64:
            return self
        counts = (self.targets != IGNORED).reshape(len(self.targets), -1).any(1)
        if counts.all():
            return self
        if not counts.any():
            raise DataError(
                f"Every target is {IGNORED}, which means that it is ignored; give samples with "
                "other targets."
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
    """Whether no tensor has a batch dimension, so that one call of the model is one sample."""
    return all(dim is None for dim in dims)


def _back(leaf: Tensor, dim: int | None) -> Tensor:
    """Return a tensor with its first dimension, the samples, moved to `dim`."""
    if dim is None:
        return leaf[0]
    return leaf.movedim(0, dim).contiguous() if dim else leaf
