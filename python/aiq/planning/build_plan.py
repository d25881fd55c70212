"""An outcome of the search as a plan tells it: predictions, proof, a reason for each layer."""

import math
from collections.abc import Mapping
from dataclasses import replace

from aiq import placement, solver
from aiq.cost import CostTable
from aiq.formats import REFERENCE, Format
from aiq.graph import LayerGraph
from aiq.plan import Accuracy, PlannedLayer, Prediction, SolveSummary
from aiq.planning.accuracy import HeldBack
from aiq.planning.tables import Tables
from aiq.planning.task import Outcome


def prediction(formats: Mapping[str, Format], tables: Tables, seconds: CostTable) -> Prediction:
    """Return what a choice is predicted to need."""
    return Prediction(
        intensity=tables.intensity.intensity(formats),
        bytes=tables.intensity.total(formats),
        seconds=seconds.total(formats),
        level=seconds.level.value,
        weight_bytes=tables.size(formats),
    )


def proof(outcome: Outcome, unit: str, tables: Tables) -> SolveSummary:
    """Return what the solver proved about an outcome whose value has this unit."""
    match outcome.solution:
        case None:
            return SolveSummary("heuristic", outcome.value, None, None, unit, 0, 0.0, None, 1.0)
        case solver.WeightedSolution() as found:
            gap = (found.value - found.bound) / max(abs(found.value), 1e-300)
            return SolveSummary(
                status=found.status,
                value=found.value,
                bound=found.bound,
                gap=0.0 if found.status == "optimal" else gap,
                unit=unit,
                nodes=found.steps,
                seconds=found.seconds,
                drop_budget=None,
                drop_factor=outcome.drop_factor,
            )
        case found:
            assert found.cost is not None
            per_unit = tables.cost.per_unit
            value = (found.cost + tables.cost.fixed) / per_unit
            bound = None if found.bound is None else (found.bound + tables.cost.fixed) / per_unit
            status, gap = found.status, found.gap
            if outcome.formats != tables.formats(found.choices):  # the stopwatch preferred another
                status, value = "measured", outcome.value
                gap = math.inf if bound is None else max(0.0, (value - bound) / value)
            return SolveSummary(
                status=status,
                value=value,
                bound=bound,
                gap=gap if math.isfinite(gap) else None,
                unit=unit,
                nodes=found.nodes,
                seconds=found.seconds,
                drop_budget=outcome.drop_budget,
                drop_factor=outcome.drop_factor,
            )


def accuracy(outcome: Outcome, held_back: HeldBack | None) -> Accuracy | None:
    """Return the measured accuracy, and what would let a cheaper plan be chosen."""
    if outcome.accuracy is None or held_back is None:
        return outcome.accuracy
    return replace(outcome.accuracy, samples_needed=held_back.samples)


def rows(
    layers: LayerGraph,
    tables: Tables,
    formats: Mapping[str, Format],
    runtime: str | None = None,
    held_back: HeldBack | None = None,
    *,
    measured: bool,
) -> tuple[PlannedLayer, ...]:
    """Return what each layer saves and loses, and why nothing cheaper was chosen.

    `runtime` is what will run the plan: where a layer stands it may have float32 kernels only.
    """
    doubted = [] if held_back is None else tables.columns(held_back.formats)
    cost, names = tables.cost.cost, [f.name for f in tables.cost.formats]
    reference = names.index(REFERENCE.name)
    total = float(cost[:, reference].sum()) + tables.cost.fixed
    found = []
    for i, (layer, k) in enumerate(zip(layers.quantizable, tables.columns(formats), strict=True)):
        cheaper = [j for j in tables.allowed[i] if cost[i, j] < cost[i, k]]
        if len(tables.allowed[i]) == 1:
            others = [f for f in tables.cost.formats if f != REFERENCE]
            bare = all(placement.runs_as(runtime, layer, f) == REFERENCE for f in others)
            why = f"{runtime} has only a float32 kernel here" if others and bare else "pinned"
        elif not cheaper:
            why = "is cheapest"
        elif not measured:
            why = "measured in the loop"
        else:
            saved = {j: (cost[i, k] - cost[i, j]) / total for j in cheaper}
            extra = {j: float(tables.drop[i, j] - tables.drop[i, k]) for j in cheaper}
            j = min(cheaper, key=lambda j: extra[j] / saved[j])
            unsure = held_back is not None and doubted[i] in cheaper
            if unsure:
                j = doubted[i]
            why = (
                f"{names[j]} saves {100 * saved[j]:.2g} % more, loses {100 * extra[j]:.2g} pp more"
            )
            if held_back is not None and unsure:
                why += f"; to be sure takes about {held_back.samples:,} samples"
        found.append(
            PlannedLayer(
                name=layer.name,
                op=str(layer.op),
                format=names[k],
                flops=layer.flops,
                weight_elements=layer.weight_elements - layer.repeated_elements,
                share=float(cost[i, reference]) / total,
                saving=1 - float(cost[i, k]) / max(1.0, float(cost[i, reference])),
                drop=float(tables.drop[i, k]) if measured else 0.0,
                why=why,
            )
        )
    return tuple(found)
