"""The solver for people who bring their own tables.

Minimise the summed cost of one choice per layer and of the edges between them, within a budget
on the loss, on the size, or on both. Exact searches prove their answer in integers.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aiq import _core
from aiq.certificate import Certificate, Check, Proof, check
from aiq.errors import InputError, Interrupted
from aiq.problem import Number, Problem

__all__ = [
    "Certificate",
    "Check",
    "Frontier",
    "Measured",
    "Problem",
    "Solution",
    "WeightedSolution",
    "check",
    "coordinate_measured",
    "frontier",
    "greedy_measured",
    "solve",
    "solve_weighted",
]

_MEASURES = ("cost", "loss", "size")
_Limits = tuple[int | None, int | None, int | None]


@dataclass(frozen=True, slots=True)
class Solution:
    """The outcome of a search.

    Attributes
    ----------
    status
        ``optimal`` (proved), ``infeasible`` (proved), ``time_limit``, ``node_limit``,
        ``interrupted``, or ``heuristic``.
    choices
        One choice per layer; empty if no plan was found.
    cost, loss, size
        Of the plan, in the units of the input; None without a plan (or without sizes).
    bound
        No plan within the budgets has a smaller objective; None if nothing is proved.
    gap
        ``(objective - bound) / |objective|``: 0 if optimal, infinite without a plan or a bound.
    nodes
        Subproblems visited.
    seconds
        Wall time.
    nearest
        If infeasible: the budget to change, and the least value it can be met at.
    certificate
        What lets `check` verify all this.
    """

    status: str
    choices: tuple[int, ...]
    cost: Number | None
    loss: Number | None
    size: Number | None
    bound: Number | None
    gap: float
    nodes: int
    seconds: float
    nearest: tuple[str, Number] | None
    certificate: Certificate


def solve(
    problem: Problem,
    max_loss: Number | None = None,
    max_size: Number | None = None,
    minimize: str = "cost",
    method: str = "exact",
    time_limit: float | None = None,
    node_limit: int | None = None,
    *,
    max_cost: Number | None = None,
) -> Solution:
    """Choose one choice per layer.

    Parameters
    ----------
    problem
        The tables.
    max_loss, max_size, max_cost
        Budgets, in the units of the input; at most two, none on the objective.
    minimize
        ``cost``, ``loss`` or ``size``.
    method
        ``exact`` (branch and bound), ``greedy``, ``coordinate`` (both start from the best uniform
        plan), or ``exhaustive``.
    time_limit
        Seconds after which the best plan so far is returned.
    node_limit
        Subproblems after which the best plan so far is returned.

    Returns
    -------
    Solution
        An infeasible problem is a status, with the nearest feasible value of the violated budget.

    Raises
    ------
    InputError
        For a bad budget, limit or name.
    Interrupted
        On Ctrl-C; a KeyboardInterrupt with the best plan so far in its ``solution``.
    """
    started = time.perf_counter()
    limits = _limits(problem, max_cost, max_loss, max_size)
    if node_limit is not None and node_limit < 0:
        raise InputError(f"node_limit is {node_limit}; give a count, or None for no limit")
    found = _core.solve(problem.core, minimize, limits, method, _time(time_limit), node_limit)
    solution = _solution(problem, found, minimize, limits, started)
    signal = found.signal
    if isinstance(signal, KeyboardInterrupt):
        raise Interrupted(_interrupted(solution), solution) from None
    if signal is not None:
        raise signal
    return solution


def _limits(
    problem: Problem, cost: Number | None, loss: Number | None, size: Number | None
) -> _Limits:
    terms = problem.n_layers + problem.n_edges
    return (
        _budget(problem, "cost", cost, terms),
        _budget(problem, "loss", loss, terms),
        _budget(problem, "size", size, terms),
    )


def _time(limit: float | None) -> float | None:
    if limit is not None and not limit >= 0:
        raise InputError(f"time_limit is {limit}; give seconds, or None for no limit")
    return limit


def _budget(problem: Problem, measure: str, value: Number | None, terms: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"max_{measure} is {value}; give a finite number, or None for no budget")
    if value < 0:
        raise InputError(f"max_{measure} is {value}; a budget must not be negative")
    return min(problem.to_fixed(measure, value, terms), 2**62)


def _solution(
    problem: Problem,
    found: _core.Solution,
    minimize: str,
    limits: _Limits,
    started: float,
) -> Solution:
    choices = found.choices
    cost, loss, size = found.values
    bound = found.bound
    objective = found.values[_MEASURES.index(minimize)]
    gap = math.inf
    if choices is not None and bound is not None:
        gap = (objective - bound) / max(1, abs(objective))
    certificate = Certificate(
        found.status,
        minimize,
        limits,
        () if choices is None else tuple(choices),
        (cost, loss, size),
        bound,
        tuple(
            Proof((w[0], w[1], w[2]), closed, layer, choice, equal, other)
            for w, closed, layer, choice, equal, other in found.proof()
        ),
    )
    has_plan = choices is not None
    nearest = found.nearest
    return Solution(
        status=found.status,
        choices=certificate.choices,
        cost=problem.from_fixed("cost", cost) if has_plan else None,
        loss=problem.from_fixed("loss", loss) if has_plan else None,
        size=problem.from_fixed("size", size) if has_plan and problem.has_sizes else None,
        bound=None if bound is None else problem.from_fixed(minimize, bound),
        gap=gap,
        nodes=found.nodes,
        seconds=time.perf_counter() - started,
        nearest=nearest and (nearest[0], problem.from_fixed(*nearest)),
        certificate=certificate,
    )


def _interrupted(solution: Solution) -> str:
    if not solution.choices:
        return f"stopped after {solution.seconds:.1f} s, before any plan was found"
    return (
        f"stopped after {solution.seconds:.1f} s; the best plan so far, within "
        f"{100 * solution.gap:.2g} % of the bound, is in the exception's .solution"
    )


@dataclass(frozen=True, slots=True)
class WeightedSolution:
    """The outcome of a search for the best weighted objective.

    Attributes
    ----------
    status
        As in `Solution`.
    choices
        One choice per layer; empty if no plan was found.
    value
        ``-lam * AI / AI_reference + (1 - lam) * loss`` of the plan; infinite without one.
    bound
        No plan within the budgets has a smaller value.
    intensity
        Arithmetic intensity, FLOPs / cost; None without a plan.
    cost, loss, size
        Of the plan, in the units of the input; None without a plan (or without sizes).
    steps
        Linear problems solved on the way.
    seconds
        Wall time.
    """

    status: str
    choices: tuple[int, ...]
    value: float
    bound: float
    intensity: float | None
    cost: Number | None
    loss: Number | None
    size: Number | None
    steps: int
    seconds: float


def solve_weighted(
    problem: Problem,
    flops: float,
    lam: float,
    *,
    reference: Number | None = None,
    max_loss: Number | None = None,
    max_size: Number | None = None,
    max_cost: Number | None = None,
    time_limit: float | None = None,
) -> WeightedSolution:
    """Minimise ``-lam * AI / AI_reference + (1 - lam) * loss``, AI = FLOPs / cost.

    The objective of arXiv 2512.14090, with the cost in bytes. It is concave in (cost, loss), so
    its optimum without budgets is a supported point; with budgets the range of costs is split
    until chords prove the optimum. Of plans of equal value the one of smaller loss is returned.

    Parameters
    ----------
    problem
        The tables; every plan must cost more than zero.
    flops
        Floating-point operations of the whole network.
    lam
        Weight of the intensity, 0 to 1.
    reference
        Cost of the reference plan; default the first choice of every layer.
    max_loss, max_size, max_cost
        Budgets, in the units of the input.
    time_limit
        Seconds after which the best plan so far is returned.

    Raises
    ------
    InputError
        For weights, FLOPs, costs or budgets out of range.
    Interrupted
        On Ctrl-C; a KeyboardInterrupt with the best plan so far in its ``solution``.
    """
    started = time.perf_counter()
    if not 0 <= lam <= 1:
        raise InputError(f"lam is {lam}; it must lie between 0 and 1")
    if not (math.isfinite(flops) and flops > 0):
        raise InputError(f"flops is {flops}; it must be positive and finite")
    first = problem.core.evaluate([0] * problem.n_layers)[0]
    fixed = first if reference is None else problem.to_fixed("cost", reference)
    if fixed <= 0:
        raise InputError("the reference cost must be positive")
    limits = _limits(problem, max_cost, max_loss, max_size)
    weights = (lam * fixed, (1 - lam) / (problem.scales["loss"] or 1))
    status, choices, (cost, loss, size), value, bound, steps, signal = _core.solve_weighted(
        problem.core, weights, limits, _time(time_limit)
    )
    has_plan = choices is not None
    final_cost = problem.from_fixed("cost", cost)
    solution = WeightedSolution(
        status=status,
        choices=() if choices is None else tuple(choices),
        value=value,
        bound=bound,
        intensity=flops / final_cost if has_plan else None,
        cost=final_cost if has_plan else None,
        loss=problem.from_fixed("loss", loss) if has_plan else None,
        size=problem.from_fixed("size", size) if has_plan and problem.has_sizes else None,
        steps=steps,
        seconds=time.perf_counter() - started,
    )
    if isinstance(signal, KeyboardInterrupt):
        raise Interrupted(f"stopped after {solution.seconds:.1f} s", solution) from None
    if signal is not None:
        raise signal
    return solution


@dataclass(frozen=True, slots=True)
class Frontier:
    """The cheapest cost at every loss.

    Attributes
    ----------
    cost, loss
        Shape ``(points,)``: loss ascending, cost strictly descending, in the units of the input.
    exact
        Whether these are all Pareto points, or only the corners of their convex hull.
    """

    problem: Problem
    cost: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    loss: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    exact: bool

    def __len__(self) -> int:
        return len(self.cost)

    def plan(self, point: int) -> Solution:
        """Find the choices behind a point: a search with the point's loss as budget."""
        return solve(self.problem, max_loss=self.loss[point].item())


def frontier(problem: Problem, exact: bool = True, max_points: int = 1_000_000) -> Frontier:
    """List the trade-offs between cost and loss.

    Parameters
    ----------
    problem
        The tables; sizes are ignored.
    exact
        All Pareto points; otherwise only the supported corners, far fewer.
    max_points
        Give up beyond this many points.

    Raises
    ------
    InputError
        If there are more points than `max_points`.
    """
    if max_points < 1:
        raise InputError(f"max_points is {max_points}; give at least 1")
    cost, loss = _core.frontier(problem.core, exact, max_points)
    return Frontier(
        problem, _from_fixed(problem, "cost", cost), _from_fixed(problem, "loss", loss), exact
    )


def _from_fixed(
    problem: Problem, measure: str, values: list[int]
) -> npt.NDArray[np.int64] | npt.NDArray[np.float64]:
    scale = problem.scales[measure]
    array = np.array(values, np.int64)
    return array if scale is None else array / scale


@dataclass(frozen=True, slots=True)
class Measured:
    """The outcome of a search that measures every candidate.

    Attributes
    ----------
    choices
        The best plan met.
    value
        Its objective.
    evaluations
        How often the objective was asked for.
    trace
        ``(evaluations so far, layer, choice, value)`` of every accepted change.
    """

    choices: tuple[int, ...]
    value: float
    evaluations: int
    trace: tuple[tuple[int, int, int, float], ...]


def greedy_measured(
    n_choices: Sequence[int],
    evaluate: Callable[[list[int]], float],
    start: Sequence[int] | None = None,
) -> Measured:
    """Take the best single-layer change each round, until none improves.

    Parameters
    ----------
    n_choices
        Number of choices of every layer.
    evaluate
        The objective of a plan, to be minimised; called once per candidate. What it raises comes
        out unchanged.
    start
        The plan to start from; default the first choice of every layer.
    """
    counts, first = _measured_input(n_choices, start)
    return _measured(_core.measure_greedy(counts, first, evaluate))


def coordinate_measured(
    n_choices: Sequence[int],
    evaluate: Callable[[list[int]], float],
    start: Sequence[int] | None = None,
) -> Measured:
    """Sweep the layers in order, each to its best choice, until a sweep changes nothing.

    Parameters
    ----------
    n_choices
        Number of choices of every layer.
    evaluate
        The objective of a plan, to be minimised; called once per candidate. What it raises comes
        out unchanged.
    start
        The plan to start from; default the first choice of every layer.
    """
    counts, first = _measured_input(n_choices, start)
    return _measured(_core.measure_coordinate(counts, first, evaluate))


def _measured_input(
    n_choices: Sequence[int], start: Sequence[int] | None
) -> tuple[list[int], list[int]]:
    counts = [int(n) for n in n_choices]
    if not counts:
        raise InputError("n_choices is empty; give the number of choices of every layer")
    for layer, count in enumerate(counts):
        if not 1 <= count < 2**16:
            raise InputError(f"layer {layer} has {count} choices; give 1 to 65535")
    first = [0] * len(counts) if start is None else [int(c) for c in start]
    if len(first) != len(counts):
        raise InputError(f"start has {len(first)} choices for {len(counts)} layers; give one each")
    for layer, (choice, count) in enumerate(zip(first, counts, strict=True)):
        if not 0 <= choice < count:
            raise InputError(f"start has choice {choice} at layer {layer}; it has 0 to {count - 1}")
    return counts, first


def _measured(
    found: tuple[list[int], float, int, list[tuple[int, int, int, float]]],
) -> Measured:
    choices, value, evaluations, trace = found
    return Measured(tuple(choices), value, evaluations, tuple(trace))
