"""The cost levels that are bounds: the bytes of the paper, and the roofline."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from aiq import _core
from aiq.cost import rows
from aiq.cost.table import CostTable, Level
from aiq.formats import REFERENCE, Format
from aiq.graph import Layer, LayerGraph
from aiq.hardware import Hardware


def intensity_table(graph: LayerGraph, formats: Sequence[Format]) -> CostTable:
    """Return the bits that each convolution and linear layer moves in each format.

    The arithmetic intensity of a plan is the sum of FLOPs / sum of ``(W b_w + X b_a + Y b_y) / 8``
    over these layers, where W are weights and biases, X and Y activations read and written, and b
    the bits of the format (b_y = 32 where Y is a result of the network). A weight that several
    layers share counts once. As in the paper, Y counts with the bits of the format even where it is
    not rounded because only norms read it (`aiq.quantize.points`).
    """
    layers = graph.quantizable
    once = [replace(x, weight_elements=x.weight_elements - x.repeated_elements) for x in layers]
    cost = _core.intensity_table(
        [rows.work(x) for x in once], [rows.storage(f, 0) for f in formats]
    )
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
    Layers without weights stay float32.

    Raises
    ------
    HardwareError
        If the profile has no peak for a format's compute dtype.
    """
    dtypes = list(dict.fromkeys([REFERENCE.compute, *(f.compute for f in formats)]))
    machine = rows.machine(hardware, dtypes)

    def times(layers: Sequence[Layer], columns: Sequence[Format]) -> list[list[int]]:
        storages = [rows.storage(f, dtypes.index(f.compute)) for f in columns]
        return _core.roofline_table([rows.work(x) for x in layers], storages, machine)

    layers = graph.quantizable
    others = [layer for layer in graph.layers if not layer.quantizable]
    return CostTable(
        level=Level.ROOFLINE,
        layers=tuple(layer.name for layer in layers),
        formats=tuple(formats),
        cost=np.array(times(layers, formats), dtype=np.int64),
        fixed=sum(row[0] for row in times(others, [REFERENCE])),
        flops=sum(layer.flops for layer in graph.layers),
    )
