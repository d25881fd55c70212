"""Read the user's data once, check it, and join its batches into samples."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from aiq.data.reading import arranged, inputs_of, read_batches
from aiq.errors import DataError, type_of
from aiq.evaluate.samples import Dims, Samples, is_whole
from aiq.graph.batch import BatchDim, batch_dims, samples_first
from aiq.graph.export import Inputs


def gather(
    data: Iterable[Any],
    *,
    labelled: bool = True,
    batch_dim: BatchDim = 0,
    reads: int | None = None,
) -> Samples:
    """Read `data` once, from its start, into memory.

    Parameters
    ----------
    data
        Iterable of ``(inputs, targets)`` batches, whose sizes may differ. Inputs are a tensor, or a
        tuple or dict of tensors. If not `labelled`, batches may consist of inputs only.
    labelled
        Whether targets are needed.
    batch_dim
        Dimension that counts samples, see `aiq.graph.batch.BatchDim`. Targets have their batch in
        the dimension of the inputs, or in their first.
    reads
        Number of tensors that the model reads, if known; it distinguishes two inputs from inputs
        and targets.

    Raises
    ------
    DataError
        If there are no samples, or a batch has the wrong type or shape.
    InputError
        If `batch_dim` does not fit the inputs.
    """
    batches: list[_Batch] = []
    for number, given in enumerate(read_batches(data, "data" if labelled else "calibration data")):
        batch = _batch(given, number, batch_dim, labelled=labelled, reads=reads)
        if batches:
            _same(batches[0], batch, number)
        batches.append(batch)
    if not sum(batch.count for batch in batches):
        raise DataError(
            "The data yields no samples; give at least one batch of (inputs, targets) (a generator "
            "can be read only once: pass a list, a DataLoader, or a fresh generator)."
        )
    first = batches[0]
    columns = zip(*(batch.leaves for batch in batches), strict=True)
    leaves = [
        torch.cat([samples_first(leaf, dim) for leaf in column])
        if is_whole(first.dims) or dim is not None
        else column[0]
        for column, dim in zip(columns, first.dims, strict=True)
    ]
    inputs: Inputs = pytree.tree_unflatten(leaves, first.structure)
    samples = Samples(inputs, None, first.dims)
    if labelled:
        dim = _target_dim(batches)
        targets = torch.cat(
            [samples_first(b.targets, dim) for b in batches if b.targets is not None]
        )
        samples = replace(samples, targets=targets, target_dim=dim)
    return samples


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    leaves: Sequence[Tensor]
    structure: pytree.TreeSpec
    dims: Dims
    targets: Tensor | None

    @property
    def count(self) -> int:
        """Number of samples."""
        sizes = (leaf.shape[dim] for leaf, dim in self._batched)
        return next(sizes, 1)

    @property
    def _batched(self) -> list[tuple[Tensor, int]]:
        pairs = zip(self.leaves, self.dims, strict=True)
        return [(leaf, dim) for leaf, dim in pairs if dim is not None]

    @property
    def shapes(self) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Shape of each tensor without its batch, and its dtype."""
        shapes = []
        for leaf, dim in zip(self.leaves, self.dims, strict=True):
            sizes = tuple(size for axis, size in enumerate(leaf.shape) if axis != dim)
            shapes.append((sizes, leaf.dtype))
        return shapes


def _batch(
    given: Any,  # noqa: ANN401
    number: int,
    batch_dim: BatchDim,
    *,
    labelled: bool,
    reads: int | None,
) -> _Batch:
    """Return one batch of the data, after checking it."""
    if labelled and not (isinstance(given, (tuple, list)) and len(given) == 2):
        raise DataError(
            f"Batch {number} is {type_of(given)}, not a pair; let the data yield (inputs, "
            "targets), or choose the metric cosine, which needs no targets."
        )
    inputs = arranged(given[0]) if labelled else inputs_of(given, reads)
    leaves, structure = pytree.tree_flatten(inputs)
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise DataError(
            f"The inputs of batch {number} are {type(inputs).__name__} and not all tensors; give a "
            "tensor, or a tuple or dict of tensors."
        )
    if any(leaf.layout != torch.strided or leaf.device.type != "cpu" for leaf in leaves):
        raise DataError(
            f"The inputs of batch {number} are not all dense tensors in main memory; convert them "
            "with .to_dense() or .cpu()."
        )
    dims = tuple(batch_dims(batch_dim, inputs))
    if any(dim is not None and not leaf.ndim for leaf, dim in zip(leaves, dims, strict=True)):
        raise DataError(
            f"The inputs of batch {number} hold a number where a tensor with a batch dimension is "
            "expected; add one, or pass batch_dim=None if one call is one sample."
        )
    batch = _Batch(leaves, structure, dims, None)
    sizes = [leaf.shape[dim] for leaf, dim in batch._batched]
    if len(set(sizes)) > 1:
        where = "first dimensions" if batch_dim == 0 else "batch dimensions"
        raise DataError(
            f"The inputs of batch {number} have {where} {', '.join(map(str, sizes))}; give tensors "
            "of one batch size, or say with batch_dim which dimension of each tensor is the batch, "
            "such as (0, None) if all samples share the second tensor."
        )
    if labelled:
        batch = replace(batch, targets=_labels(given[1], number, scalar=is_whole(dims)))
    return batch


def _same(first: _Batch, batch: _Batch, number: int) -> None:
    """Raise `DataError` if a batch cannot be joined with the first one."""
    if batch.structure != first.structure or batch.shapes != first.shapes:
        raise DataError(
            f"The batches do not fit together (batch {number} has inputs of {_say(batch)}, the "
            f"first one of {_say(first)}); give batches of one shape, dtype and structure: pad or "
            "crop the samples to one size."
        )
    if not is_whole(first.dims):
        for dim, a, b in zip(first.dims, first.leaves, batch.leaves, strict=True):
            if dim is None and not torch.equal(a, b):
                raise DataError(
                    f"An input that all samples share, according to batch_dim, differs between "
                    f"batch {number} and the first one; give its batch dimension."
                )
    if batch.targets is not None and first.targets is not None:
        one, other = first.targets, batch.targets
        if one.dtype != other.dtype or one.ndim != other.ndim:
            raise DataError(
                f"The batches do not fit together (batch {number} has targets of {other.dtype} in "
                f"{other.ndim} dimensions, the first one {one.dtype} in {one.ndim}); give targets "
                "of one dtype and shape."
            )


def _say(batch: _Batch) -> str:
    tensors = (f"{str(x.dtype)[6:]} {'x'.join(map(str, x.shape)) or '()'}" for x in batch.leaves)
    return " and ".join(tensors)


def _target_dim(batches: Sequence[_Batch]) -> int | None:
    """Return the dimension of the targets that counts samples: the inputs' one, or the first."""
    dims = batches[0].dims
    if is_whole(dims):
        return _stackable([b.targets for b in batches if b.targets is not None], None)
    for dim in dict.fromkeys([next(d for d in dims if d is not None), 0]):
        sizes = [b.targets.shape[dim : dim + 1] for b in batches if b.targets is not None]
        if all(size == (b.count,) for size, b in zip(sizes, batches, strict=True)):
            return _stackable([b.targets for b in batches if b.targets is not None], dim)
    for number, batch in enumerate(batches):
        if batch.targets is not None and len(batch.targets) != batch.count:
            raise DataError(
                f"Batch {number} has {batch.count} inputs but {len(batch.targets)} targets; give "
                "one target for each input."
            )
    raise DataError(
        "The targets have their batch in one dimension in some batches and in another in others; "
        "give targets of one layout."
    )


def _stackable(targets: Sequence[Tensor], dim: int | None) -> int | None:
    shapes = {tuple(s for axis, s in enumerate(t.shape) if axis != dim) for t in targets}
    if len(shapes) > 1:
        raise DataError(
            f"The batches do not fit together (targets of a sample have the shapes "
            f"{' and '.join(map(str, sorted(shapes)))}); give targets of one shape."
        )
    return dim


def _labels(targets: Any, number: int, *, scalar: bool) -> Tensor:  # noqa: ANN401
    try:
        labels = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        labels = torch.empty((), dtype=torch.complex64)
    if labels.is_complex() or not (labels.ndim or scalar):
        raise DataError(
            f"The targets of batch {number} are {type(targets).__name__}; give a tensor whose "
            "first dimension is the batch, for example class indices."
        )
    return labels if labels.is_floating_point() else labels.long()
