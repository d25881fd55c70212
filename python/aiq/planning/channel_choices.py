"""Formats by groups of output channels, as tables in which a layer still makes one choice.

The output channels of a layer are sorted by sensitivity and divided into groups of equal size. Bits
and drops of groups add up, so a layer has a frontier of its own: of all combinations of formats,
only those can be part of a best plan that no other combination beats in both. They become the
choices of the layer, and the solver, which picks one for each layer, stays exact.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aiq import cost
from aiq.cost import CostTable, Level
from aiq.drops import Array
from aiq.errors import InputError
from aiq.formats import FP32, REFERENCE, Format, Granularity
from aiq.graph import LayerGraph
from aiq.plan.channel_plan import GroupedLayer
from aiq.planning import weights
from aiq.planning.tables import Tables
from aiq.sensitivity import ChannelDrops

MOST_GROUPS = 8
"""Largest number of groups of a layer."""

CODE_BITS = 8
"""Bits that name the format of a group."""


@dataclass(frozen=True, slots=True)
class Combination:
    """A format for each group of a layer.

    Attributes
    ----------
    bits
        Bits of the layer's weights and of the index.
    drop
        Predicted accuracy drop of the layer alone, as a fraction.
    columns
        Column of each group's format.
    """

    bits: int
    drop: float
    columns: tuple[int, ...]


def check_formats(formats: Sequence[Format]) -> None:
    """Raise `InputError` unless every format is fp32, or rounds weights by channel and no more."""
    for one in formats:
        rounds = one.quantizes_weights and one.weight_granularity == Granularity.CHANNEL
        if one.activation != FP32 or not (rounds or one == REFERENCE):
            raise InputError(
                f"Channels of a layer read the same activations, so some of them cannot be {one}; "
                "use fp32 and weight-only formats, such as w8 and w4."
            )


def group_channels(drop: Array, groups: int) -> tuple[tuple[int, ...], ...]:
    """Divide channels into groups of almost equal size, the most sensitive channels first.

    Parameters
    ----------
    drop
        Drop of each channel in each format, (C, K). Sensitivities are compared by the mean over
        formats, each relative to the sum over channels, so that every format counts alike.
    groups
        Number of groups; with fewer channels, each channel is a group.
    """
    total = drop.sum(0)
    relative = drop[:, total > 0] / total[total > 0]
    order = np.argsort(-relative.sum(1), kind="stable")
    parts = np.array_split(order, min(groups, len(order)))
    return tuple(tuple(sorted(map(int, part))) for part in parts)


def index_bits(channels: int, groups: int) -> int:
    """Return the bits, in whole bytes, of a group number for each channel and a format for each.

    64 channels in 8 groups take 64 x 3 bits and 8 bytes, 256 bits in all.
    """
    if groups < 2:
        return 0
    return 8 * math.ceil(channels * math.ceil(math.log2(groups)) / 8) + CODE_BITS * groups


def combinations(bits: NDArray[np.int64], drop: Array, index: int) -> list[Combination]:
    """Return the combinations of formats of one layer that may be part of a best plan.

    These are the uniform combinations, which need no index, and of all others those that no
    combination beats in bits and drop.

    Parameters
    ----------
    bits, drop
        Bits and drop of each of G groups in each of K formats, (G, K).
    index
        Bits of the index of a combination with several formats.
    """
    uniform = [
        Combination(int(bits[:, k].sum()), float(drop[:, k].sum()), (k,) * len(bits))
        for k in range(bits.shape[1])
    ]
    partial = [Combination(index, 0.0, ())]
    for group_bits, group_drop in zip(bits, drop, strict=True):
        partial = _undominated(
            [
                Combination(c.bits + int(b), c.drop + float(d), (*c.columns, k))
                for c in partial
                for k, (b, d) in enumerate(zip(group_bits, group_drop, strict=True))
            ]
        )
    mixed = [c for c in partial if len(set(c.columns)) > 1]
    kept = {c.columns for c in _undominated([*uniform, *mixed])}
    return uniform + [c for c in mixed if c.columns in kept]


def _undominated(found: list[Combination]) -> list[Combination]:
    """Return the combinations of which none has less drop at the same or fewer bits."""
    kept: list[Combination] = []
    for one in sorted(found, key=lambda c: (c.bits, c.drop)):
        if not kept or one.drop < kept[-1].drop:
            kept.append(one)
    return kept


@dataclass(frozen=True, slots=True, eq=False)
class ChannelTables:
    """Tables whose formats are combinations, and what each combination consists of.

    Attributes
    ----------
    tables
        Bits and drops of every layer in every format.
    layer_of
        Layer name and name of a format -> groups and their formats.
    """

    tables: Tables
    layer_of: Mapping[tuple[str, str], GroupedLayer]


def channel_tables(graph: LayerGraph, drops: ChannelDrops, groups: int) -> ChannelTables:
    """Return the tables of a network whose layers have up to `groups` groups of channels.

    Layers that share a weight are one decision and are not split.
    """
    base = cost.intensity_table(graph, drops.formats)
    owners = weights.shared(graph)
    reference = drops.formats.index(REFERENCE)
    columns: dict[Format, int] = {}
    rows: list[dict[int, tuple[int, float]]] = []
    layer_of: dict[tuple[str, str], GroupedLayer] = {}
    for i, layer in enumerate(graph.quantizable):
        drop, stored = drops.drop[layer.name], layer.weight_elements - layer.repeated_elements
        count = groups if owners.count(owners[i]) == 1 else 1
        parts = group_channels(drop, count)
        share = np.array([[len(part) * stored // len(drop)] for part in parts], dtype=np.int64)
        index = index_bits(len(drop), len(parts))
        found = combinations(
            share * np.array([f.weight.bits for f in drops.formats], dtype=np.int64),
            np.array([drop[list(part)].sum(0) for part in parts]),
            index,
        )
        activations = int(base.cost[i, reference]) - stored * REFERENCE.weight.bits
        row = {}
        for one in found:
            chosen = tuple(drops.formats[k] for k in one.columns)
            split = len(set(chosen)) > 1
            grouped = GroupedLayer(layer.name, parts, chosen, index // 8 if split else 0)
            named = grouped.format
            row[columns.setdefault(named, len(columns))] = activations + one.bits, one.drop
            layer_of[layer.name, named.name] = grouped
        rows.append(row)
    bits, drop_of = np.zeros((2, len(rows), len(columns)))
    for i, row in enumerate(rows):
        for k, (value, lost) in row.items():
            bits[i, k], drop_of[i, k] = value, lost
    table = CostTable(
        Level.INTENSITY, base.layers, tuple(columns), bits.astype(np.int64), 0, base.flops
    )
    tables = Tables(
        cost=table,
        intensity=table,
        drop=drop_of,
        sizes=np.zeros(bits.shape, dtype=np.int64),
        allowed=tuple(tuple(row) for row in rows),
        measured_plans=drops.measured_plans,
        shared=owners,
    )
    return ChannelTables(tables, layer_of)
