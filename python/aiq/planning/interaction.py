"""Measure pairs of neighbouring layers if the drops of single layers do not add up.

Two neighbours share the tensor between them: a second rounding to the same bits changes nothing,
and the errors of one layer may enlarge or cancel those of the other. If the errors of layers u and
v have the correlation r, the power of their sum exceeds the sum of their powers by
``2 r sqrt(power_u power_v)``. One measurement of a pair, in the formats of a plan, gives r, which
then applies to all formats of the pair.
"""

from collections.abc import Mapping

import numpy as np

from aiq.evaluate import Evaluation, Evaluator
from aiq.formats import Format
from aiq.graph import LayerGraph
from aiq.planning.tables import Interaction, Tables

PAIRS = 12
"""Largest number of pairs that are measured: those with the largest power."""

SAMPLES = 1024
"""Number of samples on which a pair is measured."""

ADDITIVE = 0.15
"""Relative difference between a plan's divergence and the sum of its layers' that is tolerated."""

DOUBT = 2.0
"""Number of standard errors by which an interaction must differ from zero."""

CORRELATION = 1.0
"""Largest correlation, of either sign."""


def measure(
    tables: Tables, evaluator: Evaluator, formats: Mapping[str, Format], found: Evaluation
) -> tuple[Interaction, ...]:
    """Return the interactions of pairs of neighbours, if a plan's drops do not add up.

    Parameters
    ----------
    tables
        Drops of single layers.
    evaluator
        Evaluator of the network on data.
    formats
        The plan.
    found
        Evaluation of the plan.

    Returns
    -------
    tuple
        Interactions; empty if the drops add up, or if no pair explains why they do not.
    """
    if tables.drop_per_nat is None or tables.drop_per_nat <= 0:
        return ()
    total = tables.predicted_drop(formats) / tables.drop_per_nat
    excess = found.kl - total
    if abs(excess) <= max(ADDITIVE * total, DOUBT * found.kl_error):
        return ()
    columns = tables.columns(formats)
    drop = tables.drop / tables.drop_per_nat
    power = {
        (u, v): drop[u, columns[u]] * drop[v, columns[v]]
        for u, v in neighbours(evaluator.trace.graph)
        if min(drop[u, columns[u]], drop[v, columns[v]]) > 0
    }
    pairs = sorted(power, key=lambda pair: (-power[pair], pair))[:PAIRS]
    names = tables.cost.layers
    single = sorted({i for pair in pairs for i in pair})
    plans = [{names[i]: formats[names[i]]} for i in single]
    plans += [{names[i]: formats[names[i]] for i in pair} for pair in pairs]
    evaluations = evaluator.evaluate_many(plans, lambda e: e.samples >= SAMPLES)
    alone = dict(zip(single, evaluations, strict=False))
    interactions = []
    for (u, v), both in zip(pairs, evaluations[len(single) :], strict=True):
        more = both.divergence - alone[u].divergence - alone[v].divergence
        if abs(more.mean()) <= DOUBT * more.std() / len(more) ** 0.5:
            continue
        strength = float(more.mean()) / (2 * (alone[u].kl * alone[v].kl) ** 0.5)
        strength = min(max(strength, -CORRELATION), CORRELATION)
        harm = np.sqrt(np.maximum(tables.drop[u][:, None] * tables.drop[v][None], 0.0))
        interactions.append(Interaction(u, v, 2 * strength * harm))
    explained = sum(float(x.drop[columns[x.source], columns[x.target]]) for x in interactions)
    better = abs(excess - explained / tables.drop_per_nat) < abs(excess)
    return tuple(interactions) if better else ()


def neighbours(graph: LayerGraph) -> list[tuple[int, int]]:
    """Return the positions of pairs of quantizable layers with no such layer between them."""
    position = {layer.name: i for i, layer in enumerate(graph.quantizable)}
    readers: dict[int, list[int]] = {}
    for edge in graph.edges:
        readers.setdefault(edge.source, []).append(edge.target)
    pairs = set()
    for start, layer in enumerate(graph.layers):
        if not layer.quantizable:
            continue
        waiting, seen = list(readers.get(start, ())), {start}
        while waiting:
            at = waiting.pop()
            if at in seen:
                continue
            seen.add(at)
            if graph.layers[at].quantizable:
                u, v = position[layer.name], position[graph.layers[at].name]
                pairs.add((min(u, v), max(u, v)))
            else:
                waiting.extend(readers.get(at, ()))
    return sorted(pairs)
