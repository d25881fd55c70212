"""Search for the least accuracy drop within budgets on the size and the cost of a plan.

The drops of single layers are those with all other layers in float32. Where formats have few bits,
they do not add up. The solver's plan is therefore improved in rounds: each estimates every single
change of the plan from derivatives at the plan, and solves again for the best combination of such
changes. The combination is measured. If it is worse, the next round solves with the terms of second
order enlarged, so that fewer layers change (Levenberg and Marquardt's damping).
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from aiq.drops import Array
from aiq.planning.accuracy import AccuracyMeter
from aiq.planning.drop_curve import fit_curve
from aiq.planning.tables import Tables
from aiq.planning.task import Formats, Outcome, SearchStoppedError, Task
from aiq.progress import Progress
from aiq.sensitivity import estimate_changes

HOPELESS = 2.0
"""A uniform plan is not measured if its predicted drop is that of the solver's plan times this."""

ROUNDS = 8
"""Largest number of rounds; each measures one plan on all data."""

REACH = 2
"""Formats that a layer may move in one round, in the order of its drops, up or down."""

SAMPLES = 128
"""Number of samples on which changes of a plan are estimated."""

DAMPING, MORE, LESS = 2.0, 4.0, 0.5
"""Factor of the terms of second order: at first, and its growth after a worse and a better plan."""

GAIN = 0.01
"""Relative gain in divergence below which no further round follows."""

_STAGE = "estimate single changes of the plan"


def search_least_drop(task: Task, meter: AccuracyMeter | None, progress: Progress) -> Outcome:
    """Return the plan of least drop within the budgets, and its measured accuracy.

    Of all plans that are measured, the one whose answers diverge least from those of the float32
    network is returned. Among them are the uniform plans within the budgets, so it is never worse
    in divergence than the best of these.

    Parameters
    ----------
    task
        The task of the search.
    meter
        Measures plans; ``None`` to believe the tables.
    progress
        Called with the name of the stage, the steps done, and the number of steps.

    Raises
    ------
    InfeasibleError
        If no plan is within the budgets. The message names the nearest feasible value.
    NoPlanError
        If the time limit came before any plan was found.
    SearchStoppedError
        On Ctrl-C. It holds the best plan so far, if there is one.
    """
    tables = task.tables
    solved = tables.finest(
        max_cost=task.max_cost, max_size=task.max_size, time_limit=task.time_limit
    )
    formats = tables.formats(solved.choices)
    curve = fit_curve(tables.known_drops(), [])
    best = _with(Outcome(formats, 0.0, 0.0, 1.0, None, None, solved, curve), task, formats)
    if meter is None:
        return best
    least = np.inf
    try:
        for plan in _candidates(task, formats, meter, progress):
            divergence = meter.evaluation(plan).kl
            if divergence < least:
                least, accuracy = divergence, meter.accuracy(plan)
                best = replace(_with(best, task, plan), accuracy=accuracy, value=accuracy.drop)
    except KeyboardInterrupt:
        raise SearchStoppedError(best) from None
    return best


def _candidates(
    task: Task, solved: Formats, meter: AccuracyMeter, progress: Progress
) -> Iterator[Formats]:
    """Yield the plans to measure: the solver's, uniform ones, and improved ones."""
    first = [solved, *_uniform(task, solved)]
    yield from first
    plan = min(first, key=lambda formats: meter.evaluation(formats).kl)
    damping, estimates = DAMPING, None
    for _ in range(ROUNDS):
        try:
            estimates = estimates or _estimates(task.tables, plan, meter, progress)
        except RuntimeError:  # of PyTorch: an operator has no derivative
            return
        changed = _improved(task, plan, estimates, damping)
        if changed == plan:
            return
        yield changed
        gain = meter.evaluation(plan).kl - meter.evaluation(changed).kl
        if 0 < gain < GAIN * meter.evaluation(plan).kl:
            return
        if gain > 0:
            plan, damping, estimates = changed, max(1.0, LESS * damping), None
        else:
            damping *= MORE


def _estimates(
    tables: Tables, plan: Formats, meter: AccuracyMeter, progress: Progress
) -> tuple[Array, Array]:
    """Return the terms of first and second order of each change of a plan to a near format."""
    near, formats = _neighbours(tables, plan), tables.cost.formats
    columns = tables.columns(plan)
    candidates = {
        name: [formats[k] for k in near[i] if k != columns[i]]
        for i, name in enumerate(tables.cost.layers)
    }
    found = estimate_changes(
        meter.evaluator, plan, candidates, SAMPLES, seed=meter.seed, progress=_named(progress)
    )
    used = list(dict.fromkeys(f for given in candidates.values() for f in given))
    whole = np.zeros((2, *tables.drop.shape))
    whole[:, :, [formats.index(f) for f in used]] = found
    return whole[0], whole[1]


def _improved(task: Task, plan: Formats, estimates: tuple[Array, Array], damping: float) -> Formats:
    """Return the plan that is best if the estimated changes of `plan` add up."""
    first, second = estimates
    drop = first + damping * second
    drop -= drop.min(axis=1, keepdims=True)  # the solver minimises drops of zero or more
    around = replace(task.tables, drop=drop, allowed=tuple(_neighbours(task.tables, plan)))
    solution = around.finest(
        max_cost=task.max_cost, max_size=task.max_size, time_limit=task.time_limit
    )
    return around.formats(solution.choices)


def _neighbours(tables: Tables, plan: Formats) -> list[tuple[int, ...]]:
    """Return for each layer the columns of formats whose drops by the tables are near its own."""
    columns, found = tables.columns(plan), []
    for i, allowed in enumerate(tables.allowed):
        order = sorted(allowed, key=lambda k: (tables.drop[tables.owners[i], k], -k))
        at = order.index(columns[i])
        found.append(tuple(order[max(0, at - REACH) : at + REACH + 1]))
    return found


def _named(progress: Progress) -> Progress:
    return lambda _stage, done, total: progress(_STAGE, done, total)


def _with(found: Outcome, task: Task, formats: Formats) -> Outcome:
    """Return the outcome with another plan, and what the tables predict for it."""
    drop = found.curve.predict(task.tables.predicted_drop(formats))
    return replace(found, formats=formats, value=drop, predicted_drop=drop)


def _uniform(task: Task, best: Formats) -> list[Formats]:
    """Return the uniform plans within the budgets that may diverge less than the solver's plan."""
    predicted = task.tables.predicted_drop
    return [
        plan
        for plan in task.tables.uniform().values()
        if plan != best
        and not task.too_large(plan)
        and predicted(plan) <= HOPELESS * predicted(best)
    ]
