"""Check that samples are independent: the output of one must not depend on the others.

An evaluation shuffles the samples and divides them into chunks. That would be wrong for a
sequence-first model, such as ``nn.LSTM`` by default, whose first dimension counts time steps, and
for contrastive logits, (batch, batch), which compare samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from aiq.errors import AiqError, DataError
from aiq.evaluate.metrics import main_output
from aiq.evaluate.samples import Samples
from aiq.graph.export import Inputs
from aiq.quantize.program import Program

PROBED = 8
"""Number of samples that are run, first together, then in another order and in two parts."""

FEW, ELEMENTS = (2, 4), 2**24
"""So few samples are run if the outputs of more have this many elements: logits of a vocabulary.

Four are run only if two differ, as a router may choose otherwise for one of them by rounding.
"""

PIECE = 2**17
"""Numbers of each sample that are compared at once."""

TOLERANCE = 1e-4
"""Difference of a sample's output, relative to its norm, that rounding may cause."""

SPREAD = 1e-2
"""Difference, relative to the mean distance of outputs from their mean, that rounding may cause."""

SHARE = 0.25
"""Fraction of samples that must differ, as rounding may change a router's choice for a few."""


def output_dim(program: Program, samples: Samples, batch: int | None, elements: int) -> int | None:
    """Return the dimension of the main output that counts samples.

    It is ``None`` if one call is one sample.

    Parameters
    ----------
    program
        The float32 network.
    samples
        The data, with the batch dimensions that the caller gave.
    batch
        Number of samples that the network takes at a time; ``None`` for any number.
    elements
        Elements of the output of a sample.

    Raises
    ------
    DataError
        If the output of one sample depends on others, or is random.
    """
    if samples.whole:
        return None
    count = min(len(samples), PROBED, batch or PROBED)
    is_large = count > FEW[-1] and count * elements > ELEMENTS
    for number in FEW if is_large else (count,):
        dim, independent = _probe(program, samples, batch, number)
        if independent:
            return dim
    raise _coupled(samples)


def _probe(program: Program, samples: Samples, batch: int | None, count: int) -> tuple[int, bool]:
    """Return the dimension that counts samples, and whether `count` samples are independent."""
    probed = samples.part(0, count)

    def run(part: Samples) -> Tensor:
        return main_output(_run(program, part.filled(batch)))

    whole = run(probed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    mixed = (
        [probed.at(part) for part in order.tensor_split(2)]
        if count > 1
        else [
            probed.at(order.repeat(2))  # with one sample, dimensions of size 1 look alike
        ]
    )
    try:
        parts = [run(part) for part in mixed]
    except AiqError:
        raise
    except RuntimeError as error:  # an operator refuses this part of the batch
        raise _coupled(samples) from error
    dim = (
        _grown((whole, count), (parts[0], len(mixed[0])))
        if batch is None
        else _of_size(batch, whole, samples)
    )
    if dim is None:
        raise DataError(
            f"The model returns an output of shape {tuple(whole.shape)} for {batch or count} "
            "samples, so no dimension counts samples; " + _advice(samples)
        )
    if count == 1:
        return dim, True
    cut = [part.movedim(dim, 0)[: len(taken)] for part, taken in zip(parts, mixed, strict=True)]
    together = whole.movedim(dim, 0)[:count]
    apart = [sample for part in cut for sample in part]
    if not _differ([apart[i] for i in order.argsort().tolist()], together):
        return dim, True
    if _differ(run(probed).movedim(dim, 0)[:count], together):
        raise DataError(
            "The model's output is random: two runs on the same inputs differ. Evaluate it "
            "without its random part, such as dropout or noise."
        )
    return dim, False


def _grown(one: tuple[Tensor, int], other: tuple[Tensor, int]) -> int | None:
    """Return the only dimension whose size differs, if its sizes are the numbers of samples."""
    (a, many), (b, few) = one, other
    if a.ndim != b.ndim:
        return None
    grown = [dim for dim in range(a.ndim) if a.shape[dim] != b.shape[dim]]
    sized = [dim for dim in grown if (a.shape[dim], b.shape[dim]) == (many, few)]
    return sized[0] if len(grown) == 1 and sized else None


def _of_size(batch: int, output: Tensor, samples: Samples) -> int | None:
    """Return the dimension whose size is that of a fixed batch, preferably that of the inputs.

    The size of a fixed batch is the same in every run, and other dimensions may have it by chance.
    """
    given = next(dim for dim in samples.dims if dim is not None)
    found = [dim for dim, size in enumerate(output.shape) if size == batch]
    return next((dim for dim in (given, 0, *found) if dim in found), None)


def _differ(one: Sequence[Tensor] | Tensor, other: Tensor) -> bool:
    """Whether the outputs of some samples differ by more than rounding can cause."""
    count = len(other)
    flat, others = [x.reshape(-1) for x in one], other.reshape(count, -1)
    squares = torch.zeros(4, count, dtype=torch.float64)
    for start in range(0, others.shape[1], PIECE):  # outputs may be large
        piece = slice(start, start + PIECE)
        a, b = torch.stack([x[piece] for x in flat]).double(), others[:, piece].double()
        squares += torch.stack([a - b, a, b, b - b.mean(0)]).square().sum(2)
    if not squares.isfinite().all():
        return False  # the evaluation will name the layer
    error, size, other_size, spread = squares.sqrt()
    size = torch.maximum(size, other_size)
    far = (error > TOLERANCE * size) & (error > SPREAD * spread.mean())
    return bool(far.double().mean() > SHARE)


def _run(program: Program, inputs: Inputs) -> object:
    values = program.start(inputs)
    for step in program.steps:
        values[step.name] = program.call(step, values, {})
        for name in step.dead:
            del values[name]
    return program.finish(values)


def _coupled(samples: Samples) -> DataError:
    dim = next(dim for dim in samples.dims if dim is not None)
    return DataError(
        f"Dimension {dim} of the inputs does not count samples: what the model returns for one of "
        "its entries depends on the others; " + _advice(samples)
    )


def _advice(samples: Samples) -> str:
    other = "1 for sequence-first models, such as nn.LSTM and nn.Transformer by default"
    named = f" ({other})" if 1 not in samples.dims else ""
    return (
        f"pass batch_dim, the dimension that counts samples{named}, or batch_dim=None to evaluate "
        "every batch of the data whole, as one sample."
    )
