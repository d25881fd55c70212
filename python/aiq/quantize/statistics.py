"""Statistics of the activations of the float32 network on calibration data."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from aiq.errors import DataError, InputError
from aiq.graph import Layer, Trace
from aiq.graph.export import Inputs
from aiq.graph.operators import Op, argument
from aiq.quantize.points import Absorbs, absorbs_all, rounding_points
from aiq.quantize.program import Program

BINS = 4096
"""Bins of a histogram on either side of zero: at least 16 for each quantisation step of 8 bits."""

PIECE = 2**18
"""Values that are counted together, which fit a core's cache."""


@dataclass(slots=True)
class Statistics:
    """Extremes, histogram and mean of the values of one activation.

    The bins of the histogram are symmetric about zero. If a value falls outside, their width
    doubles and pairs of bins are merged. Widths are powers of two, so the counts do not depend on
    how the values are divided into batches.

    Attributes
    ----------
    extremes
        Smallest and largest value of each batch.
    limit
        Upper end of the bins, which start at ``-limit``: a power of two, or 0 if all values are 0.
    counts
        Number of values in each bin: int64, (2 * BINS,).
    total
        Sum of the values over the first dimension, or over all but the last: float64.
    batch
        Number of summands of `total`.
    by_feature
        Whether the sum is taken over all dimensions but the last: linear layers, and outputs, need
        no mean of each position, which would take as much memory as the activation itself.
    """

    extremes: list[tuple[float, float]] = field(default_factory=list)
    limit: float = 0.0
    counts: Tensor = field(default_factory=lambda: torch.zeros(2 * BINS, dtype=torch.int64))
    total: Tensor | float = 0.0
    batch: int = 0
    by_feature: bool = False

    @property
    def mean(self) -> Tensor:
        """The mean over the first dimension, or all but the last: float32, (1, ...)."""
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
        """Half the limit, or 1: a power of two in whose units squares of values are finite."""
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
        flat = _in_memory_order(x)
        low, high = (float(v) for v in torch.aminmax(flat))
        if not math.isfinite(low + high):
            raise InputError(
                "A value is NaN or infinite; calibrate on inputs that give finite ones."
            )
        self.extremes.append((low, high))
        self._cover(max(-low, high))
        for values in torch.split(flat, PIECE):
            # Two multiplications, as the product of the factors may overflow float32.
            bins = values.mul(1 / self.limit if self.limit else 0).mul_(BINS).floor_().add_(BINS)
            bins = bins.clamp_(max=2 * BINS - 1).to(torch.int32)
            self.counts += torch.bincount(bins, minlength=2 * BINS)
        rows = x.reshape(-1, x.shape[-1]) if self.by_feature and x.ndim > 1 else x
        # Of a single row, a sum in another type takes several times as long as an addition.
        self._add(rows[0] if len(rows) == 1 else rows.sum(0, dtype=torch.float64), len(rows))

    def _add(self, total: Tensor, count: int) -> None:
        """Add a sum of `count` values to the total.

        If the first dimension is not that of the batch, batches of different sizes give sums of
        different shapes. Then the sum is taken over all dimensions but the last, as the mean is
        used only for linear layers there.
        """
        if isinstance(self.total, Tensor) and self.total.shape != total.shape:
            self.total, self.batch = _over_positions(self.total, self.batch)
            total, count = _over_positions(total.double(), count)
        if isinstance(self.total, Tensor):
            self.total += total
        else:
            self.total = total.to(torch.float64, copy=True)  # it is added to in place
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


def _in_memory_order(x: Tensor) -> Tensor:
    """Return the values of `x` as a vector, without a copy if nothing lies between them."""
    return x.permute(sorted(range(x.ndim), key=x.stride, reverse=True)).reshape(-1)


def _over_positions(total: Tensor, count: int) -> tuple[Tensor, int]:
    """Return the sum over all dimensions but the last, and the number of its summands."""
    rows = total.reshape(-1, total.shape[-1])
    return rows.sum(0), count * len(rows)


def observe(
    trace: Trace, inputs: Iterable[Inputs], absorbs: Absorbs = absorbs_all
) -> dict[str, Statistics]:
    """Run the float32 network and return statistics of every activation that a format may round.

    Parameters
    ----------
    trace
        Folded trace, see `aiq.quantize.fold.fold`.
    inputs
        Inputs of the model, batch by batch.
    absorbs
        Whether an integer kernel absorbs an operator, see `aiq.quantize.points`.

    Returns
    -------
    dict
        Node name -> statistics, for inputs of layers with weights and for all rounding points.

    Raises
    ------
    DataError
        If there are no inputs, or a value is NaN or infinite.
    """
    readers = {input_node(trace, layer): layer for layer in trace.graph.quantizable}
    points = rounding_points(trace, absorbs)
    writers = {node: layer for layer in trace.graph.quantizable for node in points[layer.name]}
    statistics = {
        name: Statistics(by_feature=name not in readers or readers[name].op is Op.LINEAR)
        for name in [*readers, *writers]
    }
    program = Program(trace)

    def update(name: str, value: Tensor) -> None:
        reader = readers.get(name)
        if reader is not None and value.ndim < len(reader.weight_shape or ()):
            value = value[None]  # the activation has no batch dimension
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


def input_node(trace: Trace, layer: Layer) -> str:
    """Return the name of the node that is the input of the main operator of `layer`."""
    (head,) = (node for node in trace.module.graph.nodes if node.name == layer.nodes[0])
    return str(argument(head, "input").name)
