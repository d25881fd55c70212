"""Why a plan is not cheaper: what the whole plan would cost with one layer in another format."""

from collections.abc import Mapping, Sequence

from aiq.formats import REFERENCE, Format
from aiq.graph import LayerGraph
from aiq.planning.accuracy import HeldBack
from aiq.planning.tables import Tables
from aiq.report.scores import Words
from aiq.runtimes import placement
from aiq.text import count

CHEAPEST = "is cheapest"

NOTHING = 1e-6
"""A predicted drop below this, 0.0001 pp, is no reason against a format."""

ONLY = "no other is allowed"
"""Why a layer has its format: it was pinned, or the search was given no other."""

SHOWN = 3
"""Neighbours that a reason names one by one."""


def reasons(
    layers: LayerGraph,
    tables: Tables,
    formats: Mapping[str, Format],
    runtime: str | None,
    held_back: HeldBack | None,
    words: Words,
    *,
    measured: bool,
    walked: bool,
) -> list[str]:
    """Return for each layer why no cheaper format was chosen.

    Costs are those of the whole plan with only this layer changed, conversions included.

    Parameters
    ----------
    layers, tables, formats
        The searched layers, their costs and drops, and the formats of the plan.
    runtime
        Name of the runtime, which may have only a float32 kernel for a layer in its place.
    held_back
        A cheaper plan that too few samples were evaluated for, or ``None``.
    words
        How drops are written.
    measured
        Whether the drops in the tables are known.
    walked
        Whether every candidate was measured instead.
    """
    swaps = _Swaps(tables, tables.columns(formats), words)
    doubted = None if held_back is None else tables.columns(held_back.formats)
    found = []
    for i, layer in enumerate(layers.quantizable):
        if len(tables.allowed[i]) == 1:
            others = [f for f in tables.cost.formats if f != REFERENCE]
            bare = all(placement.runs_as(runtime, layer, f) == REFERENCE for f in others)
            found.append(f"{runtime} has only a float32 kernel here" if others and bare else ONLY)
        elif not swaps.cheaper(i):
            found.append(swaps.conversions(i) or CHEAPEST)
        elif not measured:
            found.append("measured in the loop" if walked else "no cheaper plan was searched for")
        elif held_back is not None and doubted is not None and doubted[i] in swaps.cheaper(i):
            name, enough = tables.cost.formats[doubted[i]].name, f"{held_back.samples:,}"
            found.append(f"{name} is cheaper; to be sure takes about {enough} samples")
        else:
            found.append(swaps.trade(i, swaps.best_trade(i)))
    return found


def finer(tables: Tables, formats: Mapping[str, Format], words: Words) -> list[str]:
    """Return for each layer why no format of a smaller drop was chosen, within a budget.

    It is what the next smaller drop would add to the weights and to the cost of the whole plan.
    """
    columns, names = tables.columns(formats), [f.name for f in tables.cost.formats]
    around, found = _Swaps(tables, columns, words), list[str]()
    for i, k in enumerate(columns):
        drop = tables.drop[i]
        less = [j for j in tables.allowed[i] if drop[j] < drop[k]]
        if not less:
            found.append(ONLY if len(tables.allowed[i]) == 1 else "loses least")
            continue
        j = max(less, key=lambda j: (drop[j], j))
        more = (int(tables.sizes[i, j]) - int(tables.sizes[i, k])) / 8
        cost = -100 * around.saved(i, j)
        less_drop = words.difference(float(drop[k] - drop[j]))
        found.append(
            f"{names[j]} loses {less_drop} less, weighs {count(more)}B more, "
            f"costs {abs(cost):.2g} % {'more' if cost > 0 else 'less'}"
        )
    return found


class _Swaps:
    """What a plan would cost and drop with one layer in another format.

    Parameters
    ----------
    tables
        Costs and drops.
    columns
        The plan: the column of each layer's format.
    words
        How drops are written.
    """

    def __init__(self, tables: Tables, columns: Sequence[int], words: Words) -> None:
        self._tables, self._columns, self._words = tables, columns, words
        self._cost, self._names = tables.cost.cost, [f.name for f in tables.cost.formats]
        reference = self._names.index(REFERENCE.name)
        self._total = float(self._cost[:, reference].sum()) + tables.cost.fixed
        self._edges: dict[int, dict[int, list[int]]] = {}  # layer -> column -> costs by neighbour
        self._near: dict[int, list[int]] = {}
        for edge in tables.cost.edges:
            at = columns[edge.source], columns[edge.target]
            self._add(edge.source, edge.target, (edge.cost[:, at[1]] - edge.cost[at]).tolist())
            self._add(edge.target, edge.source, (edge.cost[at[0], :] - edge.cost[at]).tolist())

    def _add(self, layer: int, neighbour: int, more: list[int]) -> None:
        self._near.setdefault(layer, []).append(neighbour)
        for column, cost in enumerate(more):
            self._edges.setdefault(layer, {}).setdefault(column, []).append(cost)

    def cheaper(self, i: int) -> list[int]:
        """Return the columns in which layer `i` would make the whole plan cheaper."""
        allowed, k = self._tables.allowed[i], self._columns[i]
        return [j for j in allowed if j != k and self._alone(i, j) + self._converted(i, j) < 0]

    def best_trade(self, i: int) -> int:
        """Return the cheaper column that loses least for what it saves."""
        return min(self.cheaper(i), key=lambda j: self._extra(i, j) / self.saved(i, j))

    def trade(self, i: int, j: int) -> str:
        """Return what a cheaper column saves and loses."""
        saved = f"{self._names[j]} saves {100 * self.saved(i, j):.2g} % more"
        extra = self._extra(i, j)
        if extra < NOTHING:
            return f"{saved} by prediction, which was not verified"
        return f"{saved}, loses {self._words.difference(extra)} more"

    def conversions(self, i: int) -> str:
        """Return which conversions outweigh a format that is cheaper alone; empty if none is."""
        allowed = [j for j in self._tables.allowed[i] if self._alone(i, j) < 0]
        if not allowed:
            return ""
        j = min(allowed, key=lambda j: self._alone(i, j) + self._converted(i, j))
        costs = zip(self._near[i], self._edges[i][j], strict=True)
        names = dict.fromkeys(self._tables.cost.layers[n] for n, cost in costs if cost > 0)
        shown = ", ".join([*names][:SHOWN]) + (" and others" if len(names) > SHOWN else "")
        return (
            f"{self._names[j]} alone saves {-100 * self._alone(i, j) / self._total:.2g} %, its "
            f"conversions cost {100 * self._converted(i, j) / self._total:.2g} % ({shown})"
        )

    def _alone(self, i: int, j: int) -> float:
        return float(self._cost[i, j] - self._cost[i, self._columns[i]])

    def _converted(self, i: int, j: int) -> float:
        return float(sum(self._edges.get(i, {}).get(j, ())))

    def saved(self, i: int, j: int) -> float:
        """Return the share of float32's cost that a column saves in the whole plan."""
        return -(self._alone(i, j) + self._converted(i, j)) / self._total

    def _extra(self, i: int, j: int) -> float:
        drop = self._tables.drop
        return float(drop[i, j] - drop[i, self._columns[i]])
