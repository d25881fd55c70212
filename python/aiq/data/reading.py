"""Reads what a caller gives as data: batches of (inputs, targets), or of inputs alone."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, from_numpy
from torch.utils import _pytree as pytree

from aiq.errors import AiqError, DataError
from aiq.graph.export import Inputs


def read(data: Iterable[Any], what: str = "data") -> Iterator[Any]:
    """Yield the batches of `data`, which errors call `what`.

    Raises
    ------
    DataError
        If `data` is not an iterable of batches, or raises an exception.
    """
    if isinstance(data, (Tensor, np.ndarray, str, bytes, Mapping)) or not isinstance(
        data, Iterable
    ):
        raise DataError(
            f"The {what} is a {type(data).__name__}; give an iterable of batches, for example a "
            "DataLoader or [(inputs, targets)]."
        )
    count = 0
    try:
        for batch in data:
            yield batch
            count += 1
    except AiqError:
        raise
    except Exception as error:  # a loader is the caller's code and may raise anything
        said = str(error).strip().split("\n", 1)[0].rstrip(".")
        raise DataError(
            f"The {what} raised {type(error).__name__} after {count} batches"
            f"{f' ({said})' if said else ''}; mend what yields the batches."
        ) from error


def inputs_of(batch: Any, reads: int | None = None) -> Inputs:  # noqa: ANN401
    """Return the inputs of a batch, whether targets come with them or not.

    Parameters
    ----------
    batch
        A pair (inputs, targets), or inputs.
    reads
        Tensors that the model reads: they tell a pair from the inputs of a model that reads two.
    """
    every: Inputs = arranged(batch)
    if not isinstance(every, tuple) or len(every) != 2:
        return every
    first: Inputs = every[0]
    both, part = (len(pytree.tree_leaves(inputs)) for inputs in (every, first))
    return every if reads == both and reads != part else first


def arranged(inputs: Any) -> Any:  # noqa: ANN401
    """Return inputs with tuples for lists, dicts for other mappings, and tensors for arrays."""
    if isinstance(inputs, Mapping):
        return {key: arranged(value) for key, value in inputs.items()}
    if type(inputs) is tuple or isinstance(inputs, list):
        return tuple(map(arranged, inputs))
    if isinstance(inputs, np.ndarray):
        try:
            return from_numpy(np.ascontiguousarray(inputs))
        except TypeError:  # text or objects: the caller says that they are no tensors
            return inputs
    return inputs
