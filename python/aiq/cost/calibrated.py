"""The calibrated cost level: the time in a runtime, from a profile of the machine."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aiq import _core
from aiq.cost import products, rows, shape
from aiq.cost.pieces import Piece, dtypes, pieces
from aiq.cost.table import CostTable, EdgeCost, Level, check_countable
from aiq.errors import HardwareError
from aiq.formats import Format
from aiq.graph import Layer, LayerGraph, is_attention
from aiq.hardware import Hardware
from aiq.hardware.runtime_profile import RuntimeProfile
from aiq.runtimes import placement

_PICOSECONDS_PER_US = 10**6


def calibrated_table(
    graph: LayerGraph,
    formats: Sequence[Format],
    hardware: Hardware,
    runtime: str,
    packed: Collection[Format] = (),
) -> CostTable:
    """Return the time of each layer in each format in a runtime, and of what is between layers.

    A piece of work (`aiq.cost.pieces`) takes ``start + FLOPs / (compute peak) + bytes / (memory
    bandwidth) + output Y`` with the coefficients of its kernel in the profile, times a correction
    for the shape of the layer (`aiq.cost.shape`). The time of a layer without weights is in the row
    of the layer that it follows; the overhead of a run is `CostTable.fixed`.

    A linear layer takes the time that the profile has for matrix products in its format, if it has
    any (`aiq.cost.products`). Without them, packed weights are read at the bandwidth of float32
    weights and multiplied at its speed, which leaves out the time to unpack them. `packed` are
    formats whose weights are known to be packed if no activations are rounded, whatever the profile
    says: old ones say of all that they are emulated, since convolutions were asked about.
    Attention takes the time that the profile has for it, if it has any.

    Raises
    ------
    HardwareError
        If the profile has no section for the runtime, or it lacks a format, a kernel or a boundary
        that the network needs; the message names the key to add.
    """
    if runtime not in hardware.runtimes:
        known = ", ".join(hardware.runtimes) or "none"
        raise HardwareError(
            f"Hardware profile {hardware.name!r} is not calibrated for runtime {runtime} (it has "
            f"{known}); run `aiq calibrate --runtime {runtime}` on that machine."
        )
    profile = hardware.runtimes[runtime]
    executed = [
        f
        if f.name in profile.products
        or (f in packed and f.quantizes_weights and not f.quantizes_activations)
        else profile.executed(f)
        for f in formats
    ]
    distinct = list(dict.fromkeys(executed))
    flops, attention, graph = _apart(graph, profile)
    parts = pieces(graph, distinct, profile.kernels, profile.fuses)
    times = _core.calibrated_times(
        [_task(profile, part) for part in parts], rows.machine(hardware, dtypes(distinct))
    )
    layers = graph.quantizable
    shape = (len(layers), len(distinct))
    cost = np.zeros(shape, dtype=np.int64)
    edges: defaultdict[tuple[int, ...], NDArray[np.int64]] = defaultdict(
        lambda: np.zeros((shape[1], shape[1]), dtype=np.int64)
    )
    fixed = round(profile.run_overhead_us * _PICOSECONDS_PER_US) + attention
    measured = [_measured(profile, part, distinct, layers) for part in parts]
    prices = [
        round(part.share * picoseconds) if known is None else known
        for part, picoseconds, known in zip(parts, times, measured, strict=True)
    ]
    check_countable(fixed + sum(prices))
    for part, price in zip(parts, prices, strict=True):
        match part.layers:
            case ():
                fixed += price
            case (i,):
                (k,) = part.formats
                cost[i, k] += price
            case (i, j):
                a, b = part.formats
                if i < j:
                    edges[i, j][a, b] += price
                else:
                    edges[j, i][b, a] += price
    columns = [distinct.index(f) for f in executed]
    grid = np.ix_(columns, columns)
    return CostTable(
        level=Level.CALIBRATED,
        layers=tuple(layer.name for layer in layers),
        formats=tuple(formats),
        cost=cost[:, columns],
        fixed=fixed,
        flops=flops,
        edges=tuple(
            EdgeCost(i, j, matrix[grid]) for (i, j), matrix in sorted(edges.items()) if matrix.any()
        ),
        spread=(profile.fit.low, profile.fit.high),
    )


def _apart(graph: LayerGraph, profile: RuntimeProfile) -> tuple[int, int, LayerGraph]:
    """Return all FLOPs, the picoseconds of attention that was measured, and the graph of the rest.

    A kernel has one rate for all numbers of rows, but attention of one query is far slower than
    that of a prompt, so that a profile may have times of its own for it.
    """
    flops = sum(layer.flops for layer in graph.layers)
    if not profile.attention:
        return flops, 0, graph
    found = [x for x in graph.layers if is_attention(x)]
    seconds = sum(products.attention_seconds(profile.attention, x) for x in found)
    rest = tuple(replace(x, flops=0) if is_attention(x) else x for x in graph.layers)
    return flops, round(seconds * 10**12), replace(graph, layers=rest)


def _measured(
    profile: RuntimeProfile, part: Piece, formats: Sequence[Format], layers: Sequence[Layer]
) -> int | None:
    """Return the picoseconds of a layer with weights, if its time was measured as a product."""
    if not part.shape:
        return None
    (i,), (k,) = part.layers, part.formats
    fmt, bits = formats[k], placement.stored_bits(profile.name, formats[k])
    found = products.seconds(products.nearest(profile.products, fmt), bits, layers[i])
    return None if found is None else round(found * 10**12)


def _task(profile: RuntimeProfile, part: Piece) -> rows.LayerRow:
    op, dot, dtype = part.kernel.partition(".")
    if dot:
        kernel = profile.kernel(op, dtype)
    else:
        source, _, target = op.partition("_to_")
        kernel = profile.boundary(source, target)
    factor = shape.factor(kernel.correction, part.shape)
    corrected = rows.kernel(kernel, starts=part.starts, factor=factor)
    return rows.LayerRow(part.work, part.storage, corrected, part.resident)
