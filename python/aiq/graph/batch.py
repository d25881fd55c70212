"""The dimension of each input that counts samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from aiq.errors import InputError

BatchDim = int | None | Sequence[Any] | Mapping[str, Any]
"""The dimension that counts samples, as the ``in_dims`` of ``torch.vmap``.

An integer applies to every tensor. A tuple or dict like the inputs has an integer for each tensor,
or ``None`` for a tensor that all samples share. ``None`` alone means that no dimension counts
samples, so one call is one sample. For example, ``(0, None)`` fits two inputs of shapes (8, 3, 32,
32) and (10,), where 8 samples share the second.
"""


def batch_dims(batch_dim: BatchDim, inputs: Any) -> list[int | None]:  # noqa: ANN401
    """Return the batch dimension of each leaf of `inputs`, in the order of ``tree_leaves``.

    Raises
    ------
    InputError
        If `batch_dim` does not fit the inputs.
    """
    dims = _spread(batch_dim, inputs)
    leaves = pytree.tree_leaves(inputs)
    for dim, leaf in zip(dims, leaves, strict=True):
        if isinstance(leaf, torch.Tensor) and dim is not None and dim >= max(1, leaf.ndim):
            raise InputError(
                f"batch_dim is {batch_dim!r} and an input has the shape {tuple(leaf.shape)}; give "
                "a dimension that every input has, or a tuple or dict like the inputs with None "
                "for the tensors that all samples share."
            )
    return dims


def batch_size(dims: Sequence[int | None], leaves: Sequence[Any]) -> int:
    """Return the number of samples in the tensors among `leaves`; without a batch it is 1."""
    for dim, leaf in zip(dims, leaves, strict=True):
        if isinstance(leaf, torch.Tensor) and dim is not None:
            return int(leaf.shape[dim]) if leaf.ndim else 1
    return 1


def samples_in(inputs: Any, batch_dim: BatchDim) -> int:  # noqa: ANN401
    """Return the number of samples in `inputs`."""
    return batch_size(batch_dims(batch_dim, inputs), pytree.tree_leaves(inputs))


def samples_first(tensor: torch.Tensor, dim: int | None) -> torch.Tensor:
    """Return a tensor with the samples as its first dimension; without a batch, one sample."""
    return tensor[None] if dim is None else tensor.movedim(dim, 0)


def _spread(batch_dim: BatchDim, inputs: Any) -> list[int | None]:  # noqa: ANN401
    if batch_dim is None or (type(batch_dim) is int and batch_dim >= 0):
        return [batch_dim] * len(pytree.tree_leaves(inputs))
    pairs: list[tuple[Any, Any]] | None = None
    match batch_dim, inputs:
        case Mapping(), Mapping() if batch_dim.keys() == inputs.keys():
            pairs = [(batch_dim[key], value) for key, value in inputs.items()]
        case ((tuple() | list()), (tuple() | list())) if len(batch_dim) == len(inputs):
            pairs = list(zip(batch_dim, inputs, strict=True))
    if pairs is not None:
        return [dim for inner, value in pairs for dim in _spread(inner, value)]
    raise InputError(
        f"batch_dim is {batch_dim!r}, which does not fit inputs of type {type(inputs).__name__}; "
        "give the number of the dimension that counts samples (0 or more), None where one call is "
        "one sample, or a tuple or dict like the inputs with one of these for each tensor."
    )
