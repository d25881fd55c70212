"""What every layer costs in every format: exact integer tables for the search.

Two levels so far, each a lower bound of what it names:

* ``intensity``: bits moved by convolution and linear layers, so that FLOPs / bytes is the metric of
  arXiv 2512.14090. The paper's accounting: biases count as weights, scales are not counted.
* ``roofline``: picoseconds under the roofline (Williams, Waterman, Patterson, CACM 52(4), 2009) of
  every layer, scales and fused operands counted. Layers without weights stay float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from aiq import _core
from aiq.errors import InputError
from aiq.formats import REFERENCE, Format
from aiq.graph import Layer, LayerGraph
from aiq.hardware import Hardware


class Level(StrEnum):
    """How much a cost model knows."""

    INTENSITY = "intensity"
    ROOFLINE = "roofline"


_PER_UNIT = {Level.INTENSITY: 8, Level.ROOFLINE: 10**12}  # bits in a byte, picoseconds in a second


@dataclass(frozen=True, slots=True)
class CostTable:
    """Costs of L layers in K formats.

    Attributes
    ----------
    level
        The cost model behind the numbers.
    layers
        Names of the L layers whose format is a decision.
    formats
        The K formats.
    cost
        Shape (L, K), int64: bits (``intensity``) or picoseconds (``roofline``).
    fixed
        Cost of what no format changes, in the same unit.
    flops
        Floating-point operations that `cost` and `fixed` account for.
    """

    level: Level
    layers: tuple[str, ...]
    formats: tuple[Format, ...]
    cost: NDArray[np.int64]
    fixed: int
    flops: int

    @property
    def per_unit(self) -> int:
        """Steps of `cost` in a byte (``intensity``) or second (``roofline``)."""
        return _PER_UNIT[self.level]

    def total(self, formats: Mapping[str, Format]) -> float:
        """Return what a plan costs, in bytes (``intensity``) or seconds (``roofline``).

        Parameters
        ----------
        formats
            Layer name -> format. Layers that are not named are float32.

        Raises
        ------
        InputError
            If a format is not one of the table's.
        """
        columns = {f.name: k for k, f in enumerate(self.formats)}
        total = self.fixed
        for row, layer in zip(self.cost, self.layers, strict=True):
            name = formats[layer].name if layer in formats else REFERENCE.name
            if name not in columns:
                raise InputError(
                    f"Layer {layer} has format {name}, which this cost table lacks; build one with "
                    f"it (this one has {', '.join(columns)})."
                )
            total += int(row[columns[name]])
        return total / self.per_unit

    def intensity(self, formats: Mapping[str, Format]) -> float:
        """Return the arithmetic intensity of a plan in FLOPs per byte.

        Raises
        ------
        InputError
            If this is not an ``intensity`` table, or a format is not one of the table's.
        """
        if self.level is not Level.INTENSITY:
            raise InputError(f"A {self.level} table holds seconds; build one of level intensity.")
        return self.flops / self.total(formats)


def intensity_table(graph: LayerGraph, formats: Sequence[Format]) -> CostTable:
    """Bits moved by each convolution and linear layer in each format.

    AI of a plan = sum of FLOPs / sum of ``(W b_w + X b_a + Y b_y) / 8`` over these layers, where W
    are weights and biases, X and Y activations read and written, and b the bits of the format
    (b_y = 32 where Y is a result of the network).
    """
    layers = graph.quantizable
    cost = _core.intensity_table([_work(x) for x in layers], [_storage(f, 0) for f in formats])
    return CostTable(
        level=Level.INTENSITY,
        layers=tuple(layer.name for layer in layers),
        formats=tuple(formats),
        cost=np.array(cost, dtype=np.int64),
        fixed=0,
        flops=sum(layer.flops for layer in layers),
    )


def roofline_table(graph: LayerGraph, formats: Sequence[Format], hardware: Hardware) -> CostTable:
    """Time of each layer in each format if nothing but the two roofs held it back.

    Per layer ``max(FLOPs / peak(compute dtype), bytes / DRAM bandwidth)``, summed over layers.

    Raises
    ------
    HardwareError
        If the profile has no peak for a format's compute dtype.
    """
    dtypes = list(dict.fromkeys([REFERENCE.compute, *(f.compute for f in formats)]))
    peaks = [hardware.peak(dtype) * 1e9 for dtype in dtypes]
    bandwidth = hardware.dram_gbps * 1e9

    def rows(layers: Sequence[Layer], columns: Sequence[Format]) -> list[list[int]]:
        storages = [_storage(f, dtypes.index(f.compute)) for f in columns]
        return _core.roofline_table([_work(x) for x in layers], storages, peaks, bandwidth)

    layers = graph.quantizable
    others = [layer for layer in graph.layers if not layer.quantizable]
    return CostTable(
        level=Level.ROOFLINE,
        layers=tuple(layer.name for layer in layers),
        formats=tuple(formats),
        cost=np.array(rows(layers, formats), dtype=np.int64),
        fixed=sum(row[0] for row in rows(others, [REFERENCE])),
        flops=sum(layer.flops for layer in graph.layers),
    )


def _work(layer: Layer) -> tuple[int, int, int, int, int, int, bool]:
    """FLOPs, weights, scales, inputs, fused, outputs, is_output: fields of `Work` in the core."""
    scales = layer.weight_shape[0] if layer.weight_shape else 0
    return (
        layer.flops,
        layer.weight_elements,
        scales,
        layer.input_elements,
        layer.fused_elements,
        layer.output_elements,
        layer.is_output,
    )


def _storage(format_: Format, compute: int) -> tuple[int, int, bool, int]:
    """Weight bits, activation bits, scaled, compute dtype: fields of `Storage` in the core."""
    return (
        format_.weight.bits,
        format_.activation.bits,
        format_.quantizes_weights,
        compute,
    )
