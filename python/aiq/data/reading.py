"""Read the user's data: batches of (inputs, targets), or of inputs only."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, arange, from_numpy
from torch.utils import _pytree as pytree

from aiq.errors import AiqError, DataError, type_of
from aiq.graph.batch import BatchDim, batch_dims, samples_in
from aiq.graph.export import Inputs, call_arguments

CALIBRATION_SAMPLES = 512
"""Samples on which activations are observed where the user gives no calibration data."""


def read_batches(data: Iterable[Any], what: str = "data") -> Iterator[Any]:
    """Yield the batches of `data`, which error messages call `what`.

    Raises
    ------
    DataError
        If `data` is not an iterable of batches, or raises an exception.
    """
    if isinstance(data, (Tensor, np.ndarray, str, bytes, Mapping)) or not isinstance(
        data, Iterable
    ):
        raise DataError(
            f"The {what} is {type_of(data)}; give an iterable of batches, for example a "
            "DataLoader or [(inputs, targets)]."
        )
    count = 0
    try:
        for batch in data:
            yield batch
            count += 1
    except AiqError:
        raise
    except Exception as error:  # a loader is the user's code and may raise anything
        said = str(error).strip().split("\n", 1)[0].rstrip(".")
        raise DataError(
            f"The {what} raised {type(error).__name__} after {count} batches"
            f"{f' ({said})' if said else ''}; mend the code that yields the batches."
        ) from error


def inputs_of(batch: Any, reads: int | None = None) -> Inputs:  # noqa: ANN401
    """Return the inputs of a batch, with or without targets.

    Parameters
    ----------
    batch
        A pair (inputs, targets), or inputs.
    reads
        Number of tensors that the model reads, which distinguishes a pair from two inputs.
    """
    every: Inputs = arranged(batch)
    if not isinstance(every, tuple) or len(every) != 2:
        return every
    first: Inputs = every[0]
    both, part = (len(pytree.tree_leaves(inputs)) for inputs in (every, first))
    return every if reads == both and reads != part else first


def arranged(inputs: Any) -> Any:  # noqa: ANN401
    """Return inputs with lists as tuples, other mappings as dicts, and arrays as tensors."""
    if isinstance(inputs, Mapping):
        return {key: arranged(value) for key, value in inputs.items()}
    if type(inputs) is tuple or isinstance(inputs, list):
        return tuple(map(arranged, inputs))
    if isinstance(inputs, np.ndarray):
        try:
            return from_numpy(np.ascontiguousarray(inputs))
        except TypeError:  # text or objects, which the caller refuses
            return inputs
    return inputs


def reiterable(data: Iterable[Any], what: str = "data") -> Iterable[Any]:
    """Return `data`, or a list of what can be iterated only once: it is read more often."""
    try:
        once = iter(data) is data
    except TypeError:
        raise DataError(
            f"{what} is {type_of(data)}, which cannot be iterated; give an iterable of "
            "(inputs, targets) batches."
        ) from None
    except Exception:  # noqa: BLE001  (whatever a loader raises is explained when it is read)
        return data
    return list(read_batches(data, what)) if once else data


def first_inputs(data: Iterable[Any], reads: int | None = None) -> Inputs:
    """Return the inputs of the first batch of `data`; `reads` as for `inputs_of`.

    Raises
    ------
    DataError
        If there is no batch.
    """
    batch = next(read_batches(data), None)
    if batch is None:
        raise DataError("data has no batches; give at least one (inputs, targets).")
    return inputs_of(batch, reads)


def observed(
    example: Inputs,
    batch_dim: BatchDim,
    data: Iterable[Any] | None,
    calibration: Iterable[Any] | None = None,
) -> list[Inputs]:
    """Return the inputs on which programs observe their activations; none without any batches.

    Parameters
    ----------
    example
        Arguments of one call: as many tensors of a batch are inputs.
    batch_dim
        The dimension of the inputs that counts samples.
    data
        Batches of ``(inputs, targets)`` or of inputs, read until there are `CALIBRATION_SAMPLES`.
    calibration
        Batches that are used in the place of `data`; all of them are read.
    """
    reads = len(pytree.tree_leaves(call_arguments(example)))
    if calibration is not None:
        return [inputs_of(batch, reads) for batch in read_batches(calibration, "calibration data")]
    found: list[Inputs] = []
    samples = 0
    for batch in [] if data is None else read_batches(data):
        inputs = inputs_of(batch, reads)
        found.append(inputs)
        samples += samples_in(inputs, batch_dim)
        if samples >= CALIBRATION_SAMPLES:
            break
    return found


def resized(inputs: Inputs, batch: int, batch_dim: BatchDim) -> Inputs:
    """Return inputs with `batch` samples: the first ones, and those again if there are too few.

    Inputs in which no dimension counts samples are returned as they are.
    """
    leaves, structure = pytree.tree_flatten(inputs)
    dims = batch_dims(batch_dim, inputs)

    def fit(leaf: Any, dim: int | None) -> Any:  # noqa: ANN401
        if dim is None or not isinstance(leaf, Tensor) or not leaf.ndim or not leaf.shape[dim]:
            return leaf
        return leaf.index_select(dim, arange(batch) % leaf.shape[dim])

    found: Inputs = pytree.tree_unflatten(list(map(fit, leaves, dims)), structure)
    return found
