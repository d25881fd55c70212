"""The search for the best plan by the paper's weighted objective."""

import time
from dataclasses import dataclass

from aiq import _core
from aiq.errors import InputError, Interrupted
from aiq.solver.problem import Number, Problem, is_finite
from aiq.solver.solve import check_problem, fixed_limits, seconds_limit


@dataclass(frozen=True, slots=True)
class WeightedSolution:
    """The outcome of a search for the best weighted objective.

    Attributes
    ----------
    status
        Status, as in `Solution`.
    choices
        Choice of each layer; empty if no plan was found.
    value
        ``-lam * AI / AI_reference + (1 - lam) * drop`` of the plan; infinite without a plan.
    bound
        Lower bound of the value of all plans within the budgets.
    intensity
        Arithmetic intensity of the plan, FLOPs / cost; None without a plan.
    cost, drop, size
        Values of the plan in the units of the input; None without a plan (or without sizes).
    steps
        Number of linear problems that were solved.
    seconds
        Wall time in seconds.
    """

    status: str
    choices: tuple[int, ...]
    value: float
    bound: float
    intensity: float | None
    cost: Number | None
    drop: Number | None
    size: Number | None
    steps: int
    seconds: float


def solve_weighted(
    problem: Problem,
    flops: float,
    lam: float,
    *,
    reference: Number | None = None,
    max_drop: Number | None = None,
    max_size: Number | None = None,
    max_cost: Number | None = None,
    time_limit: float | None = None,
) -> WeightedSolution:
    """Minimise ``-lam * AI / AI_reference + (1 - lam) * drop``, AI = FLOPs / cost.

    This is the objective of arXiv 2512.14090, with the cost in bytes. It is concave in (cost,
    drop), so its optimum without budgets is a supported point. With budgets, the range of costs is
    divided until chords prove the optimum. Among plans of equal value, the one with the smaller
    drop is returned.

    Parameters
    ----------
    problem
        The tables; every plan must cost more than zero.
    flops
        Floating-point operations of the whole network.
    lam
        Weight of the intensity, 0 to 1.
    reference
        Cost of the reference plan; by default, that of the first choice of every layer.
    max_drop, max_size, max_cost
        Budgets in the units of the input.
    time_limit
        Seconds after which the best plan so far is returned.

    Raises
    ------
    InputError
        If a weight, the FLOPs, a cost or a budget is out of range.
    Interrupted
        On Ctrl-C: a KeyboardInterrupt with the best plan so far in its ``solution``.
    """
    started = time.perf_counter()
    check_problem(problem)
    if not is_finite(lam) or not 0 <= lam <= 1:
        raise InputError(f"lam is {lam!r:.50}; it must lie between 0 and 1")
    if not is_finite(flops) or flops <= 0:
        raise InputError(f"flops is {flops!r:.50}; it must be positive and finite")
    if reference is not None and not is_finite(reference):
        raise InputError(f"reference is {reference!r:.50}; give the cost of a plan")
    first = problem.core.evaluate([0] * problem.n_layers)[0]
    fixed = first if reference is None else problem.to_fixed("cost", reference)
    if fixed <= 0:
        raise InputError("the reference cost must be positive")
    limits = fixed_limits(problem, max_cost, max_drop, max_size)
    weights = (lam * fixed, (1 - lam) / (problem.scales["drop"] or 1))
    found = _core.solve_weighted(problem.core, weights, limits, seconds_limit(time_limit))
    cost, drop, size = found.values
    has_plan = found.choices is not None
    final_cost = problem.from_fixed("cost", cost)
    solution = WeightedSolution(
        status=found.status,
        choices=() if found.choices is None else tuple(found.choices),
        value=found.value,
        bound=found.bound,
        intensity=flops / final_cost if has_plan else None,
        cost=final_cost if has_plan else None,
        drop=problem.from_fixed("drop", drop) if has_plan else None,
        size=problem.from_fixed("size", size) if has_plan and problem.has_sizes else None,
        steps=found.steps,
        seconds=time.perf_counter() - started,
    )
    if isinstance(found.signal, KeyboardInterrupt):
        raise Interrupted(f"stopped after {solution.seconds:.1f} s", solution) from None
    if found.signal is not None:
        raise found.signal
    return solution
