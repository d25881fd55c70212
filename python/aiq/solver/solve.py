"""Find the best plan within budgets.

The sum of the costs of one choice for each layer, and of the edges between them, is minimised
within a budget on the drop, on the size, or on both. Exact searches prove their answer in integers.
"""

import math
import numbers
import time
from dataclasses import dataclass, field, replace

from aiq import _core
from aiq.errors import InputError, Interrupted, type_of
from aiq.solver.certificate import Certificate, Proof
from aiq.solver.problem import Number, Problem, is_count, is_finite

_MEASURES = ("cost", "drop", "size")
Limits = tuple[int | None, int | None, int | None]


@dataclass(frozen=True, slots=True)
class Solution:
    """The outcome of a search.

    Attributes
    ----------
    status
        ``optimal`` (proved), ``infeasible`` (proved), ``time_limit``, ``node_limit``,
        ``interrupted``, or ``heuristic``. After a limit or an interrupt, `outcome` tells whether
        a plan was found.
    choices
        Choice of each layer; empty if no plan was found.
    cost, drop, size
        Values of the plan in the units of the input; None without a plan (or without sizes).
    bound
        Lower bound of the objective of all plans within the budgets; None if nothing is proved.
    gap
        ``(objective - bound) / |objective|``: 0 if optimal, infinite without a plan or a bound.
    nodes
        Number of subproblems that were visited.
    seconds
        Wall time in seconds.
    nearest
        If infeasible, name and smallest feasible value of the budget to change; otherwise None.
    certificate
        Certificate with which `check` verifies the solution.
    problem
        The problem that was solved.
    """

    status: str
    choices: tuple[int, ...]
    cost: Number | None
    drop: Number | None
    size: Number | None
    bound: Number | None
    gap: float
    nodes: int
    seconds: float
    nearest: tuple[str, Number] | None
    certificate: Certificate
    problem: Problem = field(repr=False, compare=False)

    def with_plan(self, other: "Solution") -> "Solution":
        """Return this solution with the plan of another one that has the same objective value.

        The certificate proves a bound on all plans, so it proves as much of the other plan.
        """
        certificate = replace(
            self.certificate, choices=other.choices, values=other.certificate.values
        )
        return replace(
            self,
            choices=other.choices,
            cost=other.cost,
            drop=other.drop,
            size=other.size,
            certificate=certificate,
        )

    @property
    def outcome(self) -> str:
        """``optimal``, ``feasible`` (a plan, not proved best), ``infeasible``, or ``unknown``.

        It is ``unknown`` if a limit or an interrupt came before any plan was found, and before it
        was proved that there is none.
        """
        if self.status in {"optimal", "infeasible"}:
            return self.status
        return "feasible" if self.choices else "unknown"


def solve(
    problem: Problem,
    max_drop: Number | None = None,
    max_size: Number | None = None,
    minimize: str = "cost",
    method: str = "exact",
    time_limit: float | None = None,
    node_limit: int | None = None,
    *,
    max_cost: Number | None = None,
) -> Solution:
    """Find the best choice for each layer.

    Parameters
    ----------
    problem
        The tables.
    max_drop, max_size, max_cost
        Budgets in the units of the input: at most two, and none on the objective.
    minimize
        The objective: ``cost``, ``drop`` or ``size``.
    method
        ``exact`` (branch and bound), ``greedy``, ``coordinate`` (both start from the best uniform
        plan), or ``exhaustive``.
    time_limit
        Seconds after which the best plan so far is returned.
    node_limit
        Number of subproblems after which the best plan so far is returned.

    Returns
    -------
    Solution
        The outcome. That there is no plan is a status, not an error; then `Solution.nearest` is the
        nearest feasible value of the violated budget.

    Raises
    ------
    InputError
        If a budget, a limit or a name is not valid.
    Interrupted
        On Ctrl-C: a KeyboardInterrupt with the best plan so far in its ``solution``.
    """
    started = time.perf_counter()
    check_problem(problem)
    limits = fixed_limits(problem, max_cost, max_drop, max_size)
    if node_limit is not None and not is_count(node_limit):
        raise InputError(f"node_limit is {node_limit!r:.50}; give a count, or None for no limit")
    if minimize not in _MEASURES:
        raise InputError(f"minimize is {minimize!r:.50}; use cost, drop or size")
    found = _core.solve(
        problem.core, minimize, limits, method, seconds_limit(time_limit), node_limit
    )
    solution = _solution(problem, found, minimize, limits, started)
    signal = found.signal
    if isinstance(signal, KeyboardInterrupt):
        raise Interrupted(_interrupted(solution), solution) from None
    if signal is not None:
        raise signal
    return solution


def fixed_limits(
    problem: Problem, cost: Number | None, drop: Number | None, size: Number | None
) -> Limits:
    """Check the budgets, and return them as fixed-point integers of the core."""
    terms = problem.n_layers + problem.n_edges
    return (
        _budget(problem, "cost", cost, terms),
        _budget(problem, "drop", drop, terms),
        _budget(problem, "size", size, terms),
    )


def seconds_limit(limit: float | None) -> float | None:
    """Check a time limit, and return it."""
    number = isinstance(limit, numbers.Real) and not isinstance(limit, bool)
    if limit is not None and not (number and limit >= 0):
        raise InputError(f"time_limit is {limit!r:.50}; give seconds, or None for no limit")
    return limit


def check_problem(problem: object) -> None:
    """Raise `InputError` if `problem` is not a `Problem`."""
    if not isinstance(problem, Problem):
        raise InputError(f"The problem is {type_of(problem)}; give an aiq.solver.Problem")


def _budget(problem: Problem, measure: str, value: Number | None, terms: int) -> int | None:
    if value is None:
        return None
    if not is_finite(value):
        raise InputError(
            f"max_{measure} is {value!r:.50}; give a finite number, or None for no budget"
        )
    if value < 0:
        raise InputError(f"max_{measure} is {value}; a budget must not be negative")
    return min(problem.to_fixed(measure, value, terms), 2**62)


def _solution(
    problem: Problem,
    found: _core.Solution,
    minimize: str,
    limits: Limits,
    started: float,
) -> Solution:
    choices = found.choices
    cost, drop, size = found.values
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
        (cost, drop, size),
        bound,
        tuple(
            Proof(step.weights, step.closed, step.layer, step.choice, step.equal, step.other)
            for step in found.proof()
        ),
    )
    has_plan = choices is not None
    nearest = found.nearest
    return Solution(
        status=found.status,
        choices=certificate.choices,
        cost=problem.from_fixed("cost", cost) if has_plan else None,
        drop=problem.from_fixed("drop", drop) if has_plan else None,
        size=problem.from_fixed("size", size) if has_plan and problem.has_sizes else None,
        bound=None if bound is None else problem.from_fixed(minimize, bound),
        gap=gap,
        nodes=found.nodes,
        seconds=time.perf_counter() - started,
        nearest=nearest and (nearest[0], problem.from_fixed(*nearest)),
        certificate=certificate,
        problem=problem,
    )


def _interrupted(solution: Solution) -> str:
    if not solution.choices:
        return f"stopped after {solution.seconds:.1f} s, before any plan was found"
    return (
        f"stopped after {solution.seconds:.1f} s; the best plan so far, within "
        f"{100 * solution.gap:.2g} % of the bound, is in the exception's .solution"
    )
