"""Check that samples are independent: the output of one must not depend on the others.

An evaluation shuffles the samples and divides them into chunks. That would be wrong for a
sequence-first model, such as ``nn.LSTM`` by default, whose first dimension counts time steps, and
for contrastive logits, (batch, batch), which compare samples.
"""

import torch
from torch import Tensor

from aiq.errors import AiqError, DataError
from aiq.evaluate.metrics import main_output
from aiq.evaluate.samples import Samples
from aiq.graph.export import Inputs
from aiq.quantize.program import Program

PROBED = 8
"""Number of samples that are run, first together, then in another order and in two parts."""

FEWEST, ELEMENTS = 4, 2**24
"""So few samples are run if the outputs of more have this many elements: logits of a vocabulary."""

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
    if count > FEWEST and count * elements > ELEMENTS:
        count = FEWEST
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
        return dim
    cut = [part.movedim(dim, 0)[: len(taken)] for part, taken in zip(parts, mixed, strict=True)]
    together = whole.movedim(dim, 0)[:count]
    if _differ(torch.cat(cut)[order.argsort()], together):
        if _differ(run(probed).movedim(dim, 0)[:count], together):
            raise DataError(
                "The model's output is random: two runs on the same inputs differ. Evaluate it "
                "without its random part, such as dropout or noise."
            )
        raise _coupled(samples)
    return dim


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


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether the outputs of some samples differ by more than rounding can cause."""
    count = len(one)
    middle = other.reshape(count, -1).sum(0, dtype=torch.float64) / count
    errors, sizes, distances = [], [], []
    for x, y in zip(one, other, strict=True):  # one at a time: outputs may be large
        a, b = x.double().reshape(-1), y.double().reshape(-1)
        if not (a.isfinite().all() and b.isfinite().all()):
            return False  # the evaluation will name the layer
        errors.append((a - b).norm())
        sizes.append(torch.maximum(a.norm(), b.norm()))
        distances.append((b - middle).norm())
    error, size, spread = (torch.stack(found) for found in (errors, sizes, distances))
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
