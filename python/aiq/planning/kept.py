"""The tables and the frontier that a plan keeps, as plain numbers."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from math import asinh

import numpy as np
from numpy.typing import ArrayLike

from aiq.cost import CostTable, Level
from aiq.errors import InfeasibleError, NoPlanError
from aiq.formats import REFERENCE
from aiq.graph import LayerGraph
from aiq.hardware import Hardware
from aiq.plan import Accuracy
from aiq.plan.tables import CHOSEN, Conversion, FrontierPoint, PlanTables
from aiq.planning.tables import Tables
from aiq.planning.task import Formats, Outcome, Task
from aiq.solver import Solution

SOLVES = 48
"""Most budgets at which the frontier is solved."""

HALVINGS = 12
"""Solves in search of the least drop that a size budget allows."""

NODES = 20_000
"""Most subproblems of one such solve, so that it ends within a fraction of a second."""

CLOSE = 0.002
"""Part of the whole range of costs that neighbours on the frontier may differ by."""

MOST_EDGES = 5_000
"""More edges than these are not kept."""

MOST_CONVERSIONS = 30_000
"""More conversion costs than these are not kept."""

LEAST_SCALE, MOST_SCALE = 1e-6, 0.05
"""Accuracy drops around which budgets are dense, whatever the search allowed."""

DIGITS = 6
"""Significant digits that are kept of a cost or a drop."""

Known = Callable[[Formats], Accuracy | None]


def keep(
    graph: LayerGraph,
    hardware: Hardware,
    task: Task,
    seconds: CostTable,
    outcome: Outcome,
    *,
    known: Known | None,
    solve: bool = True,
) -> PlanTables:
    """Return what a plan file keeps of the tables that the plan was chosen from.

    Parameters
    ----------
    graph, hardware, task
        Layers, profile and task of the search.
    seconds
        Predicted times, whatever was minimised.
    outcome
        The chosen plan, with the curve that corrects predicted drops.
    known
        Returns the measured accuracy of a plan, or ``None`` if it was not measured.
    solve
        Whether to search for other plans, for which the drops of single layers must be known.
    """
    tables, energy = task.tables, hardware.energy
    conversions = tuple(
        Conversion(e.source, e.target, _rows(e.cost / seconds.per_unit)) for e in seconds.edges
    )
    if len(conversions) * len(seconds.formats) ** 2 > MOST_CONVERSIONS:
        conversions = ()
    return PlanTables(
        formats=tuple(f.name for f in tables.cost.formats),
        unit="bytes" if tables.cost.level is Level.INTENSITY else "seconds",
        seconds=_rows(seconds.cost / seconds.per_unit),
        bytes=_rows(tables.intensity.cost / tables.intensity.per_unit),
        drop=_rows(tables.drop),
        allowed=tables.allowed,
        fixed_seconds=seconds.fixed / seconds.per_unit,
        edges=edges(graph),
        conversions=conversions,
        frontier=_points(task, seconds, outcome, known, solve=solve),
        peaks_gflops=dict(hardware.peak_gflops),
        memory_gbps={level.level: level.read_gbps for level in hardware.memory},
        spread=seconds.spread,
        mac_pj={} if energy is None else dict(energy.mac_pj),
        byte_pj=None if energy is None else energy.byte_pj,
        energy_source="" if energy is None else energy.source,
    )


def edges(graph: LayerGraph) -> tuple[tuple[int, int], ...]:
    """Return which layers with a choice read from which, through those without; sorted.

    Positions count among the layers with a choice. Nothing is returned if there are too many.
    """
    position = {i: n for n, i in enumerate(i for i, x in enumerate(graph.layers) if x.quantizable)}
    incoming: dict[int, list[int]] = {}
    for edge in graph.edges:
        incoming.setdefault(edge.target, []).append(edge.source)
    writers: dict[int, set[int]] = {}
    found = set[tuple[int, int]]()
    for i in range(len(graph.layers)):
        read = set[int]().union(*(writers.get(source, ()) for source in incoming.get(i, ())))
        writers[i] = {position[i]} if i in position else read
        found |= {(source, position[i]) for source in read if i in position}
        if len(found) > MOST_EDGES:
            return ()
    return tuple(sorted(found))


def spread_frontier(
    tables: Tables, max_size: int | None, scale: float
) -> list[tuple[Formats, bool]]:
    """Return plans that nothing beats in both cost and drop, and whether that is proved.

    Each is the solver's answer to a drop budget. Budgets halve the widest gap between neighbours
    until `SOLVES` are spent, so the list is exact in every plan it has, and may lack some between.

    Parameters
    ----------
    tables
        Costs and drops.
    max_size
        Largest size of all weights in bytes, or ``None``.
    scale
        Drop around which budgets are dense, such as the drop budget of the search.
    """
    drops = tables.rows(tables.drop)
    low, high = (float(sum(pick(row) for row in drops)) for pick in (np.min, np.max))
    found: dict[float, tuple[float, Formats, bool]] = {}  # drop budget -> cost, plan, proved

    def solve(budget: float) -> None:
        with suppress(InfeasibleError, NoPlanError):
            solution = tables.within(budget, max_size=max_size, node_limit=NODES)
            formats = tables.formats(solution.choices)
            proved = solution.status == "optimal"
            found[budget] = tables.cost.total(formats), formats, proved

    for budget in (low, max(high, low), scale):
        solve(budget)
    lost = low
    for _ in range(HALVINGS if found and low not in found else 0):
        middle = _middle(lost, min(found), scale)
        solve(middle)
        lost = lost if middle in found else middle
    for _ in range(SOLVES):
        budgets = sorted(found)
        pairs = list(pairwise(budgets))
        gaps = [_gap(found[a][0] - found[b][0], b, a, scale) for a, b in pairs]
        whole = found[budgets[0]][0] - found[budgets[-1]][0] if budgets else 0.0
        wide = [i for i, (a, b) in enumerate(pairs) if found[a][0] - found[b][0] > CLOSE * whole]
        if not wide:
            break
        solve(_middle(*pairs[max(wide, key=gaps.__getitem__)], scale))
    plans = {
        tuple(f.name for f in plan.values()): (plan, proved) for _, plan, proved in found.values()
    }
    return list(plans.values())


def _gap(cost: float, high: float, low: float, scale: float) -> float:
    return cost * (asinh(high / scale) - asinh(low / scale))


def _middle(low: float, high: float, scale: float) -> float:
    return float(scale * np.sinh((asinh(low / scale) + asinh(high / scale)) / 2))


def _points(
    task: Task, seconds: CostTable, outcome: Outcome, known: Known | None, *, solve: bool
) -> tuple[FrontierPoint, ...]:
    """Return the frontier, float32, all other uniform plans and the chosen one, by drop.

    If the drops of single layers are not known, there is no frontier but the chosen plan, which is
    on it if no plan of any drop is cheaper. Uniform plans then have the drop that was measured.
    """
    tables = task.tables

    def point(name: str, formats: Formats, drop: float | None, *, optimal: bool) -> FrontierPoint:
        measured = None if known is None else known(formats)
        return FrontierPoint(
            name=name,
            seconds=seconds.total(formats),
            bytes=tables.intensity.total(formats),
            weight_bytes=tables.size(formats),
            drop=drop,
            formats=tuple(tables.columns(formats)),
            optimal=optimal,
            measured_drop=None if measured is None else measured.drop,
            drop_limit=None if measured is None else measured.drop_limit,
        )

    def predicted(formats: Formats) -> float:
        return outcome.curve.predict(tables.predicted_drop(formats))

    chosen = point(
        CHOSEN, outcome.formats, outcome.predicted_drop, optimal=_is_cheapest(task, outcome)
    )
    uniform = {REFERENCE.name: dict.fromkeys(tables.cost.layers, REFERENCE)} | tables.uniform()
    if not solve:
        rest = [
            point(name, formats, _measured_drop(formats, known), optimal=False)
            for name, formats in uniform.items()
        ]
        return _by_drop([chosen, *rest])
    scale = min(max(task.max_drop, LEAST_SCALE), MOST_SCALE)
    others = [
        point("", formats, predicted(formats), optimal=proved)
        for formats, proved in spread_frontier(tables, task.max_size, scale)
    ]
    on_frontier = {p.formats for p in others if p.optimal}
    named = [
        point(name, formats, predicted(formats), optimal=False) for name, formats in uniform.items()
    ]
    marked = [replace(p, optimal=p.optimal or p.formats in on_frontier) for p in [*named, chosen]]
    known_names = {p.formats for p in marked}
    return _by_drop([*marked, *(p for p in others if p.formats not in known_names)])


def _is_cheapest(task: Task, outcome: Outcome) -> bool:
    """Whether the solver has proved that no plan of any drop is cheaper than the chosen one."""
    solution = outcome.solution
    return (
        isinstance(solution, Solution)
        and not task.least_drop
        and solution.status == "optimal"
        and outcome.drop_budget is None
        and outcome.formats == task.tables.formats(solution.choices)
    )


def _by_drop(points: Iterable[FrontierPoint]) -> tuple[FrontierPoint, ...]:
    return tuple(sorted(points, key=lambda p: (math.inf if p.drop is None else p.drop, -p.seconds)))


def _measured_drop(formats: Formats, known: Known | None) -> float | None:
    """Return the drop of a plan if it was measured; that of float32 is 0."""
    if all(fmt == REFERENCE for fmt in formats.values()):
        return 0.0
    measured = None if known is None else known(formats)
    return None if measured is None else measured.drop


def _rows(values: ArrayLike) -> tuple[tuple[float, ...], ...]:
    rows: Sequence[Sequence[float]] = np.asarray(values, np.float64).tolist()
    return tuple(tuple(float(f"{x:.{DIGITS}g}") for x in row) for row in rows)
