"""The user's data in memory: checked once, cut into chunks of a size that suits the evaluation."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from aiq.errors import DataError
from aiq.graph.export import Inputs


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Inputs and targets of N samples, in the order in which the data gave them.

    Attributes
    ----------
    inputs
        A tensor, or a tuple or dict of tensors, each with N as its first dimension.
    targets
        (N, ...): class indices (int64), usually; ``None`` where none were asked for.
    """

    inputs: Inputs
    targets: Tensor | None

    def __len__(self) -> int:
        return _length(self.inputs)

    def chunks(self, size: int) -> list["Samples"]:
        """Return the samples in pieces of `size`, the last one possibly smaller."""
        starts = range(0, len(self), size)
        return [self.part(start, min(start + size, len(self))) for start in starts]

    def part(self, start: int, stop: int) -> "Samples":
        """Return samples `start` up to `stop`, as views."""
        return self.at(slice(start, stop))

    def filled(self, batch: int | None) -> Inputs:
        """Return the inputs, the last one repeated up to `batch` if the network takes no other."""
        missing = 0 if batch is None else batch - len(self)
        if not missing:
            return self.inputs

        def fill(leaf: Tensor) -> Tensor:
            return torch.cat([leaf, leaf[-1:].expand(missing, *leaf.shape[1:])])

        inputs: Inputs = pytree.tree_map(fill, self.inputs)
        return inputs

    def at(self, index: slice | Tensor) -> "Samples":
        """Return the samples at `index`."""
        inputs = pytree.tree_map(lambda leaf: leaf[index], self.inputs)
        return Samples(inputs, None if self.targets is None else self.targets[index])


def gather(data: Iterable[Any], *, limit: int | None = None, labelled: bool = True) -> Samples:
    """Read `data` once, from its start, into memory.

    Parameters
    ----------
    data
        Iterable of ``(inputs, targets)`` batches, of any and of different sizes; inputs are a
        tensor, or a tuple or dict of tensors. Not `labelled`, inputs alone will do.
    limit
        Samples to stop after.
    labelled
        Whether targets are needed.

    Raises
    ------
    DataError
        If there are no samples, or a batch is not what it should be.
    """
    batches: list[tuple[Inputs, Tensor | None]] = []
    count = 0
    for number, batch in enumerate(_iterate(data)):
        inputs, targets = _pair(batch, number, labelled=labelled)
        batches.append((inputs, targets))
        count += _length(inputs)
        if targets is not None and len(targets) != _length(inputs):
            raise DataError(
                f"Batch {number} has {_length(inputs)} inputs but {len(targets)} targets; give one "
                "target for each input."
            )
        if limit is not None and count >= limit:
            break
    if not count:
        raise DataError(
            "The data yields no samples; give at least one batch of (inputs, targets) (a generator "
            "can be read only once: pass a list, a DataLoader, or a fresh generator)."
        )
    try:
        inputs = pytree.tree_map(lambda *leaves: torch.cat(leaves), *(b[0] for b in batches))
        targets = torch.cat([b[1] for b in batches if b[1] is not None]) if labelled else None
    except (RuntimeError, ValueError, TypeError) as error:
        raise DataError(
            f"The batches do not fit together ({_first_line(error)}); give batches of one shape "
            "and structure."
        ) from None
    samples = Samples(inputs, targets)
    return samples if limit is None else samples.part(0, min(limit, count))


def _iterate(data: Iterable[Any]) -> Iterator[Any]:
    if isinstance(data, (Tensor, str, bytes, Mapping)) or not isinstance(data, Iterable):
        raise DataError(
            f"The data is a {type(data).__name__}; give an iterable of (inputs, targets) batches, "
            "for example a DataLoader or [(images, labels)]."
        )
    return iter(data)


def _pair(batch: Any, number: int, *, labelled: bool) -> tuple[Inputs, Tensor | None]:  # noqa: ANN401
    is_pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    if labelled and not is_pair:
        raise DataError(
            f"Batch {number} is a {type(batch).__name__}, not a pair; let the data yield "
            "(inputs, targets)."
        )
    inputs, targets = batch if is_pair else (batch, None)
    inputs = pytree.tree_map(_tensor, tuple(inputs) if isinstance(inputs, list) else inputs)
    leaves = pytree.tree_leaves(inputs)
    if not leaves or not all(isinstance(leaf, Tensor) and leaf.ndim for leaf in leaves):
        raise DataError(
            f"The inputs of batch {number} are {type(inputs).__name__} and not all tensors with a "
            "batch dimension; give a tensor, or a tuple or dict of tensors."
        )
    if len({len(leaf) for leaf in leaves}) > 1:
        raise DataError(
            f"The inputs of batch {number} have first dimensions "
            f"{', '.join(str(len(leaf)) for leaf in leaves)}; give all the same, the batch."
        )
    return inputs, _labels(targets, number) if labelled else None


def _labels(targets: Any, number: int) -> Tensor:  # noqa: ANN401
    try:
        labels = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        labels = torch.empty(())
    if not labels.ndim:
        raise DataError(
            f"The targets of batch {number} are {type(targets).__name__}; give a tensor whose "
            "first dimension is the batch, for example class indices."
        )
    return labels if labels.is_floating_point() else labels.long()


def _tensor(leaf: object) -> object:
    return torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf


def _length(inputs: Inputs) -> int:
    return len(pytree.tree_leaves(inputs)[0])


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0].rstrip(".")
