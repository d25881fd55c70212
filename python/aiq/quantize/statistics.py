"""Statistics: what is kept of the activations that pass by during calibration."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from aiq.errors import DataError, InputError
from aiq.graph import Layer, Trace
from aiq.graph.export import Inputs
from aiq.graph.operators import argument
from aiq.quantize.program import Program

BINS = 4096
"""Bins of a histogram on either side of zero: at least 16 to a step of 8 bits."""


@dataclass(slots=True)
class Statistics:
    """What is kept of the values of one activation tensor.

    Bins are symmetric about zero; where a value falls outside, their width doubles and pairs merge.
    Widths are powers of two, so the counts do not depend on how the values were cut into batches.

    Attributes
    ----------
    extremes
        Smallest and largest value of each batch.
    limit
        The bins cover ``-limit .. limit``: 0 (only zeros seen), or a power of two.
    counts
        int64, (2 * BINS,).
    total, batch
        Sum over the first dimension, float64, and how many summands.
    """

    extremes: list[tuple[float, float]] = field(default_factory=list)
    limit: float = 0.0
    counts: Tensor = field(default_factory=lambda: torch.zeros(2 * BINS, dtype=torch.int64))
    total: Tensor | float = 0.0
    batch: int = 0

    @property
    def mean(self) -> Tensor:
        """The mean over the first dimension: float32, (1, ...)."""
        return (torch.as_tensor(self.total) / self.batch).float()[None]

    @property
    def low(self) -> float:
        """The smallest value."""
        return min(low for low, _ in self.extremes)

    @property
    def high(self) -> float:
        """The largest value."""
        return max(high for _, high in self.extremes)

    @property
    def unit(self) -> float:
        """Half the limit, a power of two of which no multiple by a bin leaves float32; else 1."""
        return self.limit / 2 or 1.0

    @property
    def centers(self) -> Tensor:
        """The middle of each bin: float32, (2 * BINS,)."""
        return (torch.arange(-BINS, BINS) + 0.5) * (self.limit / BINS)

    def update(self, x: Tensor) -> None:
        """Add the values of `x`, of any shape.

        Raises
        ------
        InputError
            If a value is not finite.
        """
        low, high = (float(v) for v in torch.aminmax(x))
        if not math.isfinite(low + high):
            raise InputError(
                "A value is NaN or infinite; calibrate on inputs that give finite ones."
            )
        self.extremes.append((low, high))
        self._cover(max(-low, high))
        # In two steps, of which float32 holds both factors.
        bins = x.mul(1 / self.limit if self.limit else 0).mul_(BINS).floor_().add_(BINS)
        bins = bins.clamp_(max=2 * BINS - 1).to(torch.int32).reshape(-1)
        self.counts += torch.bincount(bins, minlength=2 * BINS)
        self._add(x.sum(0, dtype=torch.float64), len(x))

    def _add(self, total: Tensor, count: int) -> None:
        """Add a sum of `count` values to the total.

        The batch may be another dimension than the first, and batches may differ in size: then the
        mean is over all dimensions but the last, which is what a linear layer makes of it anyway.
        """
        if isinstance(self.total, Tensor) and self.total.shape != total.shape:
            self.total, self.batch = _over_positions(self.total, self.batch)
            total, count = _over_positions(total, count)
        self.total = self.total + total
        self.batch += count

    def _cover(self, largest: float) -> None:
        if largest <= self.limit:
            return
        limit = max(2.0 ** math.ceil(math.log2(largest)), torch.finfo(torch.float32).tiny)
        while 0 < self.limit < limit:
            pairs = self.counts.view(BINS, 2).sum(1)
            self.counts.zero_()
            self.counts[BINS // 2 : 3 * BINS // 2] = pairs
            self.limit *= 2
        self.limit = limit


def _over_positions(total: Tensor, count: int) -> tuple[Tensor, int]:
    """Return a sum over all dimensions but the last, and how many summands it has."""
    rows = total.reshape(-1, total.shape[-1])
    return rows.sum(0), count * len(rows)


def observe(trace: Trace, inputs: Iterable[Inputs]) -> dict[str, Statistics]:
    """Run the float32 network and keep statistics of every tensor that a format may round.

    Parameters
    ----------
    trace
        Folded trace: `aiq.quantize.fold.fold` removes nodes that will not be stored.
    inputs
        Inputs of the model, batch by batch.

    Returns
    -------
    dict
        Node name -> statistics, for what layers with weights read and write.

    Raises
    ------
    DataError
        If there are no inputs, or a value is NaN or infinite.
    """
    readers = {read(trace, layer): layer for layer in trace.graph.quantizable}
    writers = {layer.nodes[-1]: layer for layer in trace.graph.quantizable if not layer.is_output}
    statistics = {name: Statistics() for name in [*readers, *writers]}
    program = Program(trace)

    def update(name: str, value: Tensor) -> None:
        reader = readers.get(name)
        if reader is not None and value.ndim < len(reader.weight_shape or ()):
            value = value[None]  # without a batch: a batch of one
        try:
            statistics[name].update(value)
        except InputError:
            layer = writers.get(name)
            place = (
                f"written by layer {layer.name!r}"
                if layer
                else f"read by layer {readers[name].name!r}"
            )
            raise DataError(
                f"An activation {place} is NaN or infinite in float32; check the weights and the "
                "inputs (are they scaled as in training?)."
            ) from None

    for batch in inputs:
        values = program.start(batch)
        for name in values.keys() & statistics.keys():
            update(name, values[name])
        for step in program.steps:
            values[step.name] = program.call(step, values, {})
            if step.name in statistics:
                update(step.name, values[step.name])
            for name in step.dead:
                del values[name]
    if not all(s.extremes for s in statistics.values()):
        raise DataError("There are no calibration inputs; give at least one batch.")
    return statistics


def read(trace: Trace, layer: Layer) -> str:
    """Return the node whose activation the main operator of `layer` reads."""
    (head,) = (node for node in trace.module.graph.nodes if node.name == layer.nodes[0])
    return str(argument(head, "input").name)
