"""Search for the least accuracy drop within budgets on the size and the cost of a plan.

The drops of single layers are measured with all other layers in float32. Where formats have few
bits, they do not add up. The solver's plan is therefore improved in rounds: each measures every
single change of the plan, and solves again for the best combination of such changes.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from aiq.planning.accuracy import AccuracyMeter
from aiq.planning.drop_curve import fit_curve
from aiq.planning.tables import Tables
from aiq.planning.task import Formats, Outcome, SearchStoppedError, Task
from aiq.progress import Progress

HOPELESS = 2.0
"""A uniform plan is not measured if its predicted drop is that of the solver's plan times this."""

ROUNDS = 3
"""Largest number of rounds in which single changes of the plan are measured."""

GAIN = 0.01
"""Relative gain in divergence below which no further round follows."""

WORTH = 0.01
"""Divergence in nats below which a plan is not improved: it changes few answers in a thousand."""

_STAGE = "measure single changes of the plan"


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
    for _ in range(ROUNDS):
        before = meter.evaluation(plan).kl
        if before < WORTH:
            return
        changed = _improved(task, plan, meter, progress)
        if changed == plan:
            return
        yield changed
        if meter.evaluation(changed).kl > (1 - GAIN) * before:
            return
        plan = changed


def _improved(task: Task, plan: Formats, meter: AccuracyMeter, progress: Progress) -> Formats:
    """Return the plan that is best if single changes of `plan` add up.

    Each decision may move to the next format with a larger or a smaller drop by the tables.
    """
    tables = task.tables
    near = _neighbours(tables, plan)
    owned: dict[int, list[str]] = {}
    for name, owner in zip(tables.cost.layers, tables.owners, strict=True):
        owned.setdefault(owner, []).append(name)
    columns, formats = tables.columns(plan), tables.cost.formats
    changes = [(i, k) for i in sorted(owned) for k in near[i] if k != columns[i]]
    plans = [{**plan, **dict.fromkeys(owned[i], formats[k])} for i, k in changes]
    report = _named(progress)
    found = meter.evaluator.evaluate_many(plans, progress=report) if plans else []
    drop = np.zeros_like(tables.drop)
    base = meter.evaluation(plan).kl
    for (i, k), evaluation in zip(changes, found, strict=True):
        drop[i, k] = evaluation.kl - base
    drop -= drop.min(axis=1, keepdims=True)  # the solver minimises drops of zero or more
    around = replace(tables, drop=drop, allowed=tuple(near))
    solution = around.finest(
        max_cost=task.max_cost, max_size=task.max_size, time_limit=task.time_limit
    )
    return around.formats(solution.choices)


def _neighbours(tables: Tables, plan: Formats) -> list[tuple[int, ...]]:
    """Return for each layer the column of its format, and those of the next drops by the tables."""
    columns, found = tables.columns(plan), []
    for i, allowed in enumerate(tables.allowed):
        order = sorted(allowed, key=lambda k: (tables.drop[tables.owners[i], k], -k))
        at = order.index(columns[i])
        found.append(tuple(order[max(0, at - 1) : at + 2]))
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
