"""The tables of costs and drops, and searches on them with the solver."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiq import solver
from aiq.cost import CostTable, EdgeCost
from aiq.drops import DropTable, MeasuredPlan
from aiq.errors import InfeasibleError, InputError, NoPlanError
from aiq.formats import REFERENCE, Format
from aiq.planning import infeasible

MOST_PLANS = 100_000_000
"""Most plans that the solver enumerates."""

POINTS = 100.0
"""Percentage points of a whole; the paper's weighted objective counts drops in points."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Cost and drop of L layers in K formats, and the formats that each layer may have.

    Attributes
    ----------
    cost
        Costs that are minimised within the budgets.
    intensity
        Bytes moved, for the arithmetic intensity.
    drop
        Predicted accuracy drop of each layer alone, as a fraction, (L, K).
    sizes
        Bits of the weights of each layer: int64, (L, K).
    allowed
        For each layer, the columns of the formats that it may have.
    measured_plans
        Plans that were measured as a whole together with the drops.
    shared
        For each layer, the position of the first layer with the same weight; such layers are one
        decision. If it is empty, each layer is a decision.
    fixed_bytes
        Size in bytes of the parameters that no decision changes.
    """

    cost: CostTable
    intensity: CostTable
    drop: NDArray[np.float64]
    sizes: NDArray[np.int64]
    allowed: tuple[tuple[int, ...], ...]
    measured_plans: tuple[MeasuredPlan, ...] = ()
    shared: tuple[int, ...] = ()
    fixed_bytes: int = 0

    @property
    def owners(self) -> tuple[int, ...]:
        """For each layer, the position of the first layer with the same weight, or its own."""
        return self.shared or tuple(range(len(self.allowed)))

    @property
    def choices(self) -> tuple[tuple[int, ...], ...]:
        """For each decision, the columns of the formats to choose from."""
        return tuple(self.allowed[i] for i in sorted(set(self.owners)))

    def formats(self, choices: Sequence[int]) -> dict[str, Format]:
        """Return the plan of a solver's answer, whose choices are positions in `allowed`."""
        chosen = dict(zip(sorted(set(self.owners)), choices, strict=True))
        return {
            name: self.cost.formats[self.allowed[owner][chosen[owner]]]
            for name, owner in zip(self.cost.layers, self.owners, strict=True)
        }

    def columns(self, formats: Mapping[str, Format]) -> list[int]:
        """Return the column of each layer's format."""
        return [self.cost.formats.index(formats[name]) for name in self.cost.layers]

    def predicted_drop(self, formats: Mapping[str, Format]) -> float:
        """Return the sum of the drops of a plan's layers."""
        return float(sum(self.drop[i, k] for i, k in enumerate(self.columns(formats))))

    def known_drops(self) -> list[tuple[float, float, float]]:
        """Return predicted drop, measured drop and its standard error of `measured_plans`."""
        format_of, found = {f.name: f for f in self.cost.formats}, []
        for whole in self.measured_plans:
            names = [whole.formats.get(layer, REFERENCE.name) for layer in self.cost.layers]
            if set(names) <= format_of.keys():
                plan = {n: format_of[f] for n, f in zip(self.cost.layers, names, strict=True)}
                found.append((self.predicted_drop(plan), whole.drop, whole.error))
        return found

    def size(self, formats: Mapping[str, Format]) -> float:
        """Return the size of all weights of a plan in bytes."""
        bits = sum(int(self.sizes[i, k]) for i, k in enumerate(self.columns(formats)))
        return self.fixed_bytes + bits / 8

    def uniform(self) -> dict[str, dict[str, Format]]:
        """Return format name -> plan in which every layer with a choice has that format."""
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

    def weighted(self, formats: Mapping[str, Format], drop: float, lam: float) -> float:
        """Return the paper's objective ``-lam AI / AI_fp32 + (1 - lam) drop`` (drop in points)."""
        reference = dict.fromkeys(self.cost.layers, REFERENCE)
        ratio = self.intensity.intensity(formats) / self.intensity.intensity(reference)
        return -lam * ratio + (1 - lam) * drop * POINTS

    def within(
        self,
        max_drop: float,
        *,
        max_size: int | None = None,
        method: str = "exact",
        time_limit: float | None = None,
        node_limit: int | None = None,
    ) -> solver.Solution:
        """Return the cheapest plan whose drops add up to at most `max_drop`.

        A `max_drop` of 1 is no limit, even if drops add up to more.

        Raises
        ------
        InfeasibleError
            If no plan is within the budgets; the message names the nearest feasible value.
        NoPlanError
            If the time limit came before any plan was found.
        """
        solution = solver.solve(
            self._problem(self.cost.cost, self.drop, self.sizes, self.cost.edges),
            max_drop=max_drop if max_drop < 1 else max(max_drop, self._most_drop()),
            max_size=self._bits(max_size),
            method=method,
            time_limit=time_limit,
            node_limit=node_limit,
        )
        return self._found(solution, max_drop, max_size, time_limit)

    def cheapest(
        self, *, max_size: int | None = None, time_limit: float | None = None
    ) -> solver.Solution:
        """Return the cheapest plan; of several, the one whose formats round least.

        The drops of the tables are not used, as they need not be known.

        Raises
        ------
        InfeasibleError
            If no plan is within the size budget.
        NoPlanError
            If the time limit came before any plan was found.
        """
        noise = np.tile([rounding_noise(f) for f in self.cost.formats], (len(self.allowed), 1))
        problem = self._problem(self.cost.cost, noise, self.sizes, self.cost.edges)
        bits = self._bits(max_size)
        found = solver.solve(problem, max_size=bits, time_limit=time_limit)
        found = self._found(found, 1.0, max_size, time_limit)
        if found.status != "optimal":
            return found
        finest = solver.solve(
            problem, minimize="drop", max_cost=found.cost, max_size=bits, time_limit=time_limit
        )
        return found.with_plan(finest) if finest.choices else found

    def finest(
        self,
        *,
        max_cost: float | None = None,
        max_size: int | None = None,
        time_limit: float | None = None,
    ) -> solver.Solution:
        """Return the plan whose drops add up to least, within budgets on its cost and its size.

        Parameters
        ----------
        max_cost
            Largest cost in the unit of the tables, seconds or bytes; ``None`` for any.
        max_size
            Largest size of all weights in bytes; ``None`` for any.
        time_limit
            Seconds after which the best plan so far is returned.

        Raises
        ------
        InfeasibleError
            If no plan is within the budgets; the message names the nearest feasible value.
        NoPlanError
            If the time limit came before any plan was found.
        """
        units = None if max_cost is None else math.floor(max_cost * self.cost.per_unit)
        left = None if units is None else max(0, units - self.cost.fixed)
        found = solver.solve(
            self._problem(self.cost.cost, self.drop, self.sizes, self.cost.edges),
            minimize="drop",
            max_cost=left,
            max_size=self._bits(max_size),
            time_limit=time_limit,
        )
        if found.status == "infeasible" and found.nearest and found.nearest[0] == "cost":
            least = (int(found.nearest[1]) + self.cost.fixed) / self.cost.per_unit
            raise InfeasibleError(infeasible.too_dear(max_cost or 0.0, least, self.cost))
        return self._found(found, 1.0, max_size, time_limit)

    def _found(
        self,
        solution: solver.Solution,
        max_drop: float,
        max_size: int | None,
        time_limit: float | None,
    ) -> solver.Solution:
        """Return the solution if it has a plan, or raise the error that says why it has none."""
        if solution.choices:
            return solution
        if solution.status != "infeasible":
            raise NoPlanError(infeasible.none_in_time(time_limit))
        raise InfeasibleError(
            infeasible.nearest_plan(solution, max_drop, max_size, self.fixed_bytes)
        )

    def best_weighted(
        self,
        lam: float,
        drop_factor: float = 1.0,
        *,
        max_size: int | None = None,
        time_limit: float | None = None,
    ) -> solver.WeightedSolution:
        """Return the plan that minimises the paper's objective, drops scaled by `drop_factor`.

        Raises
        ------
        InfeasibleError
            If no plan is within the size budget.
        NoPlanError
            If the time limit came before any plan was found.
        """
        factor = drop_factor * POINTS
        problem = self._problem(self.intensity.cost, self.drop, self.sizes, factor=factor)
        reference = self.intensity.cost[:, self.cost.formats.index(REFERENCE)].sum()
        solution = solver.solve_weighted(
            problem,
            self.intensity.flops,
            lam,
            reference=int(reference),
            max_size=self._bits(max_size),
            time_limit=time_limit,
        )
        if solution.choices:
            return solution
        if solution.status != "infeasible":
            raise NoPlanError(infeasible.none_in_time(time_limit))
        raise InfeasibleError(infeasible.too_small(max_size, self._least_size()))

    def trade_offs(self, lam: float) -> list[tuple[float, float]]:
        """Return the drop and the intensity term of each plan that some lambda makes the best.

        These plans are the corners of the convex hull of all plans in the plane of bytes and drop.
        The intensity term is that of the weighted objective with `lam`.
        """
        problem = self._problem(self.intensity.cost, self.drop)
        hull = solver.frontier(problem, exact=False)
        reference = self.intensity.cost[:, self.cost.formats.index(REFERENCE)].sum()
        return [
            (float(x), float(-lam * reference / c))
            for x, c in zip(hull.drop, hull.cost, strict=True)
        ]

    def check(self, max_size: int | None, method: str) -> None:
        """Raise an error if no drops are needed to see that a search would fail.

        Raises
        ------
        InfeasibleError
            If no plan is within the size budget.
        InputError
            If there are too many plans to enumerate.
        """
        if max_size is not None and max_size < self._least_size():
            raise InfeasibleError(infeasible.too_small(max_size, self._least_size()))
        plans = math.prod(map(len, self.choices))
        if method == "exhaustive" and plans > MOST_PLANS:
            raise InputError(
                f"Exhaustive search over {plans:.3g} plans would not end; use method exact."
            )

    def _most_drop(self) -> float:
        return 1.001 * float(sum(row.max() for row in self.rows(self.drop)))

    def _bits(self, max_size: int | None) -> int | None:
        """Return the bits that a size budget in bytes leaves for weights with a decision."""
        if max_size is None:
            return None
        if max_size < self.fixed_bytes:
            raise InfeasibleError(infeasible.too_small(max_size, self._least_size()))
        return 8 * (max_size - self.fixed_bytes)

    def _least_size(self) -> int:
        bits = sum(int(row.min()) for row in self.rows(self.sizes))
        return self.fixed_bytes - (-bits // 8)

    def _problem(
        self,
        cost: NDArray[np.int64],
        drop: NDArray[np.float64],
        sizes: NDArray[np.int64] | None = None,
        cost_edges: Sequence[EdgeCost] = (),
        factor: float = 1.0,
    ) -> solver.Problem:
        """Return the problem of all decisions, with drops multiplied by `factor`.

        Layers that share a weight are one decision: their costs and drops add up, together with
        those of edges between them.
        """
        costs, drops = self.rows(cost), self.rows(drop * factor)
        position = {owner: i for i, owner in enumerate(sorted(set(self.owners)))}
        edges: list[tuple[Any, ...]] = []
        for edge in cost_edges:
            ends = self.owners[edge.source], self.owners[edge.target]
            table = edge.cost[np.ix_(*(self.allowed[end] for end in ends))]
            source, target = (position[end] for end in ends)
            if source == target:
                costs[source] += table.diagonal()
            elif source < target:
                edges.append((source, target, table))
            else:
                edges.append((target, source, table.T))
        return solver.Problem(
            costs, drops, None if sizes is None else self.rows(sizes), edges=edges
        )

    def rows(self, table: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the row of each decision, with the columns that it may choose."""
        rows: dict[int, NDArray[Any]] = {}
        for row, owner in zip(table, self.owners, strict=True):
            mine = row[list(self.allowed[owner])]
            rows[owner] = rows[owner] + mine if owner in rows else mine
        return [rows[owner] for owner in sorted(rows)]


_FLOAT_BITS = {"fp32": 24, "fp16": 11, "bf16": 8}
"""Bits of the significand, the implicit one included."""


def rounding_noise(fmt: Format) -> float:
    """Return a guess of the relative power of a format's rounding errors, up to a factor.

    It orders formats of equal cost: each bit less quadruples the power of an error.
    """
    dtypes = (fmt.weight, fmt.activation, fmt.between)
    return sum(4.0 ** -_FLOAT_BITS.get(dtype.name, dtype.bits - 1) for dtype in dtypes)


def drop_matrix(
    table: DropTable, layers: Sequence[str], columns: Sequence[Format]
) -> NDArray[np.float64]:
    """Return the drops of `layers` in the formats `columns`, (L, K); that of float32 is 0.

    Raises
    ------
    InputError
        If the table lacks a layer or a format.
    """
    return np.array([[table.predict({layer: f}) for f in columns] for layer in layers])
