"""Choosing on tables: the solver, asked in the words of layers and formats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from aiq import solver
from aiq.cost import CostTable, EdgeCost
from aiq.errors import InfeasibleError, InputError, RuntimeUnavailableError
from aiq.formats import REFERENCE, Format
from aiq.formats import parse as parse_format
from aiq.graph import LayerGraph
from aiq.losses import LossTable, Whole
from aiq.runtimes import Runtime, Support

POINTS = 100.0
"""Percentage points in a fraction: the paper's weighted objective counts losses in points."""


@dataclass(frozen=True, slots=True)
class Interaction:
    """What two layers lose together, beyond the sum of what each loses alone.

    Attributes
    ----------
    source, target
        Positions of the layers in the tables.
    loss
        Shape (K, K), as a fraction: by format of the source, then of the target.
    """

    source: int
    target: int
    loss: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tables:
    """What every layer costs and loses in every format, and which formats it may have.

    Attributes
    ----------
    cost
        What is minimised under budgets.
    intensity
        Bytes moved, for the arithmetic intensity.
    loss
        Shape (L, K): predicted accuracy loss of each layer alone, as a fraction.
    sizes
        Shape (L, K), int64: bits of the weights.
    allowed
        For each layer, the columns of the formats it may have.
    interactions
        Losses of pairs of layers.
    per_nat
        Loss per nat of divergence, or ``None`` if losses do not come from divergences.
    whole
        Plans that were measured as a whole when the losses were.
    """

    cost: CostTable
    intensity: CostTable
    loss: NDArray[np.float64]
    sizes: NDArray[np.int64]
    allowed: tuple[tuple[int, ...], ...]
    interactions: tuple[Interaction, ...] = ()
    per_nat: float | None = None
    whole: tuple[Whole, ...] = ()

    def formats(self, choices: Sequence[int]) -> dict[str, Format]:
        """Return the plan of a solver's answer, whose choices count among the allowed formats."""
        return {
            name: self.cost.formats[columns[choice]]
            for name, columns, choice in zip(self.cost.layers, self.allowed, choices, strict=True)
        }

    def columns(self, formats: Mapping[str, Format]) -> list[int]:
        """Return the column of each layer's format."""
        return [self.cost.formats.index(formats[name]) for name in self.cost.layers]

    def predicted_loss(self, formats: Mapping[str, Format]) -> float:
        """Return the sum of the losses of a plan's layers, and of pairs of them."""
        columns = self.columns(formats)
        alone = sum(self.loss[i, k] for i, k in enumerate(columns))
        pairs = sum(x.loss[columns[x.source], columns[x.target]] for x in self.interactions)
        return float(alone + pairs)

    def measured(self) -> list[tuple[float, float, float]]:
        """Return predicted loss, drop and its error of the plans that were measured as a whole."""
        format_of, found = {f.name: f for f in self.cost.formats}, []
        for whole in self.whole:
            names = [whole.formats.get(layer, REFERENCE.name) for layer in self.cost.layers]
            if set(names) <= format_of.keys():
                plan = {n: format_of[f] for n, f in zip(self.cost.layers, names, strict=True)}
                found.append((self.predicted_loss(plan), whole.drop, whole.error))
        return found

    def size(self, formats: Mapping[str, Format]) -> float:
        """Return the bytes of all weights of a plan."""
        return sum(int(self.sizes[i, k]) for i, k in enumerate(self.columns(formats))) / 8

    def uniform(self) -> dict[str, dict[str, Format]]:
        """Return the plans in which every layer that has a choice gets the same format, by it."""
        free = [len(columns) > 1 for columns in self.allowed]
        plans = {}
        for k, format_ in enumerate(self.cost.formats):
            decides = [columns for columns, f in zip(self.allowed, free, strict=True) if f]
            if all(k in columns for columns in decides or self.allowed[:1]):
                plans[format_.name] = {
                    name: format_ if f else self.cost.formats[columns[0]]
                    for name, columns, f in zip(self.cost.layers, self.allowed, free, strict=True)
                }
        return plans

    def weighted(self, formats: Mapping[str, Format], loss: float, lam: float) -> float:
        """Return the paper's objective, ``-lam AI / AI_fp32 + (1 - lam) loss`` in points."""
        reference = dict.fromkeys(self.cost.layers, REFERENCE)
        ratio = self.intensity.intensity(formats) / self.intensity.intensity(reference)
        return -lam * ratio + (1 - lam) * loss * POINTS

    def within(
        self,
        max_loss: float,
        *,
        max_size: int | None = None,
        method: str = "exact",
        time_limit: float | None = None,
    ) -> solver.Solution:
        """Return the cheapest plan whose losses add up to at most `max_loss`.

        Raises
        ------
        InfeasibleError
            If no plan is within the budgets; the message names the nearest feasible value.
        """
        problem = solver.Problem(
            self._allowed(self.cost.cost),
            self._allowed(self.loss),
            self._allowed(self.sizes),
            edges=[
                *((e.source, e.target, self._allowed_pairs(e, e.cost)) for e in self.cost.edges),
                *self._loss_edges(),
            ],
        )
        solution = solver.solve(
            problem,
            max_loss=max_loss,
            max_size=None if max_size is None else 8 * max_size,
            method=method,
            time_limit=time_limit,
        )
        if solution.choices:
            return solution
        raise InfeasibleError(_nearest(solution, max_loss, max_size))

    def best_weighted(
        self,
        lam: float,
        loss_factor: float = 1.0,
        *,
        max_size: int | None = None,
        time_limit: float | None = None,
    ) -> solver.WeightedSolution:
        """Return the plan that minimises the paper's objective, losses scaled by `loss_factor`.

        Raises
        ------
        InfeasibleError
            If no plan is within the size budget.
        """
        problem = solver.Problem(
            self._allowed(self.intensity.cost),
            self._allowed(self.loss * (loss_factor * POINTS)),
            self._allowed(self.sizes),
            edges=self._loss_edges(loss_factor * POINTS),
        )
        reference = self.intensity.cost[:, self.cost.formats.index(REFERENCE)].sum()
        solution = solver.solve_weighted(
            problem,
            self.intensity.flops,
            lam,
            reference=int(reference),
            max_size=None if max_size is None else 8 * max_size,
            time_limit=time_limit,
        )
        if solution.choices:
            return solution
        least = sum(min(row) for row in self._allowed(self.sizes))
        raise InfeasibleError(_too_small(max_size, -(-int(least) // 8)))

    def trade_offs(self, lam: float) -> list[tuple[float, float]]:
        """Return loss, and the objective's part that is no loss, of plans that weights can prefer.

        These are the corners of the convex hull of all plans' (bytes, loss), whatever their size.
        """
        problem = solver.Problem(
            self._allowed(self.intensity.cost), self._allowed(self.loss), edges=self._loss_edges()
        )
        hull = solver.frontier(problem, exact=False)
        reference = self.intensity.cost[:, self.cost.formats.index(REFERENCE)].sum()
        return [
            (float(x), float(-lam * reference / c))
            for x, c in zip(hull.loss, hull.cost, strict=True)
        ]

    def _allowed(self, table: NDArray[np.int64] | NDArray[np.float64]) -> list[NDArray[np.generic]]:
        return [row[list(columns)] for row, columns in zip(table, self.allowed, strict=True)]

    def _allowed_pairs(
        self, pair: EdgeCost | Interaction, table: NDArray[np.generic]
    ) -> NDArray[np.generic]:
        return table[np.ix_(self.allowed[pair.source], self.allowed[pair.target])]

    def _loss_edges(
        self, factor: float = 1.0
    ) -> list[tuple[int, int, NDArray[np.int64], NDArray[np.generic]]]:
        edges = []
        for x in self.interactions:
            loss = self._allowed_pairs(x, x.loss * factor)
            edges.append((x.source, x.target, np.zeros(loss.shape, np.int64), loss))
        return edges


def allowed_formats(
    graph: LayerGraph,
    columns: Sequence[Format],
    choices: Sequence[Format],
    pin: Mapping[str, str],
) -> tuple[tuple[int, ...], ...]:
    """Return, for each quantizable layer, the columns it may choose from.

    Parameters
    ----------
    graph
        The layers.
    columns
        Formats of the tables.
    choices
        Formats that a layer may have unless it is pinned.
    pin
        Pattern (as in ``fnmatch``) -> format name; the last match wins.

    Raises
    ------
    InputError
        If a pattern matches no layer.
    """
    free = tuple(columns.index(format_) for format_ in choices)
    allowed = {layer.name: free for layer in graph.quantizable}
    for pattern, name in pin.items():
        matches = [layer for layer in allowed if fnmatchcase(layer, pattern)]
        if not matches:
            raise InputError(
                f"Pin {pattern!r} matches no layer; see `aiq graph` for their names "
                f"(the first is {next(iter(allowed))!r})."
            )
        column = columns.index(parse_format(name))
        allowed |= dict.fromkeys(matches, (column,))
    return tuple(allowed.values())


def with_kernels(
    graph: LayerGraph,
    columns: Sequence[Format],
    allowed: Sequence[tuple[int, ...]],
    runtime: Runtime,
) -> tuple[tuple[int, ...], ...]:
    """Return the allowed columns less those that `runtime` cannot run, or only by emulation.

    Raises
    ------
    RuntimeUnavailableError
        If nothing is left for a layer.
    """
    able = {Support.NATIVE, Support.DEQUANT}
    rest = []
    for layer, given in zip(graph.quantizable, allowed, strict=True):
        rest.append(tuple(k for k in given if runtime.support(layer.op, columns[k]) in able))
        if not rest[-1]:
            names = ", ".join(columns[k].name for k in given)
            raise RuntimeUnavailableError(
                f"Runtime {runtime.name} has no kernel for {layer.op} layer {layer.name!r} in "
                f"{names}; allow it another format, or choose another runtime."
            )
    return tuple(rest)


def _nearest(solution: solver.Solution, max_loss: float, max_size: int | None) -> str:
    if solution.nearest is None:
        return (
            f"No plan has a loss of at most {max_loss:.4g} and at most {max_size} bytes of weights "
            "at once; raise one of the two, or allow more formats."
        )
    measure, value = solution.nearest
    if measure == "size":
        return _too_small(max_size, -(-int(value) // 8))
    return (
        f"No plan has a predicted loss of at most {100 * max_loss:.3g} pp; the nearest feasible "
        f"max_drop is {value:.4g} ({100 * value:.3g} pp), or allow formats with more bits."
    )


def _too_small(max_size: int | None, least: int) -> str:
    return (
        f"No plan has at most {max_size} bytes of weights; the nearest feasible max_size is "
        f"{least}, or allow formats with fewer bits."
    )


def loss_matrix(
    table: LossTable, layers: Sequence[str], columns: Sequence[Format]
) -> NDArray[np.float64]:
    """Return the losses of `layers` in the formats `columns`; float32 loses nothing.

    Raises
    ------
    InputError
        If the table lacks a layer or a format.
    """
    return np.array([[table.predict({layer: f}) for f in columns] for layer in layers])
