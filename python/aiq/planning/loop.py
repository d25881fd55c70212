"""Search on the tables, measure the plan that was found, correct the prediction, search again.

The tables only predict the accuracy drop of a plan. Each round therefore measures one plan on the
data. After that, the prediction is fitted to every plan measured so far
(`aiq.planning.drop_curve`). The search itself takes milliseconds.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from aiq import solver
from aiq.errors import InfeasibleError, Interrupted, NoPlanError
from aiq.planning import drop_curve
from aiq.planning.accuracy import AccuracyMeter
from aiq.planning.drop_curve import DropCurve
from aiq.planning.tables import POINTS
from aiq.planning.task import Formats, Outcome, SearchStoppedError, Task
from aiq.planning.walk import walk
from aiq.progress import Progress

ROUNDS = 6
"""Largest number of rounds; each evaluates the network once on all data."""

STRETCH = 4.0
"""Largest factor by which a round moves the drop budget while it knows only one side of it."""

GAIN = 0.002
"""Relative gain of the objective below which no further plan is measured."""

CHANGED_PER_LOST = 3.5
"""Answers that change for each answer that is lost, assumed before a plan is measured.

It gives a first guess of the noise of a measured drop.
"""

HOPELESS = 2.0
"""A uniform plan is not measured if its predicted drop exceeds the budget by this factor."""

_STAGE = "measure the plan, search again"
_CHEAPEST = "measure the cheapest plan"
_UNIFORM = "measure the uniform plans"

MOST_UNIFORM = 12
"""Largest number of uniform plans that are measured for the frontier alone."""


def search_tables(task: Task) -> Outcome:
    """Search once, on the tables alone, because there is no data to measure on."""
    return _predicted(task, _find(task, task.max_drop, 1.0, DropCurve()))


def search_cheapest(task: Task, meter: AccuracyMeter, progress: Progress) -> Outcome | None:
    """Return the cheapest plan of all if its measured drop is within the budget, else ``None``.

    Nothing can be cheaper, so this plan is optimal, and the drops of the layers are not needed.
    That takes one solve and one evaluation, which ends early for a plan that drops by far too much.

    Parameters
    ----------
    task, meter, progress
        These are the parameters of `search_verified`; drops in the tables are not used.

    Raises
    ------
    InfeasibleError
        If no plan is within the size budget.
    """
    if task.weighted_by is not None or task.method != "exact":
        return None
    progress(_CHEAPEST, 0, 1)
    try:
        solution = task.tables.cheapest(max_size=task.max_size, time_limit=task.time_limit)
    except NoPlanError:
        return None
    if solution.status != "optimal":
        return None
    formats = task.tables.formats(solution.choices)
    accuracy = meter.accuracy(formats, task.max_drop)
    progress(_CHEAPEST, 1, 1)
    value = task.value(formats, accuracy.drop, accuracy.drop_limit)
    if math.isinf(value):
        return None
    return Outcome(formats, value, accuracy.drop, 1.0, None, accuracy, solution)


def measure_uniform(
    task: Task, meter: AccuracyMeter, outcome: Outcome, progress: Progress
) -> Outcome:
    """Measure all uniform plans, for the frontier, and return the outcome with a curve through all.

    Of more plans than `MOST_UNIFORM`, those that are predicted to drop least are measured.

    Raises
    ------
    SearchStoppedError
        On Ctrl-C; it holds the outcome.
    """
    total = task.tables.predicted_drop
    plans = sorted(task.tables.uniform().values(), key=total)[:MOST_UNIFORM]
    try:
        for done, formats in enumerate(plans):
            progress(_UNIFORM, done, len(plans))
            meter.accuracy(formats)
    except KeyboardInterrupt:
        raise SearchStoppedError(outcome) from None
    progress(_UNIFORM, len(plans), len(plans))
    points = [_point(task, meter, formats) for formats in [*plans, outcome.formats]]
    curve = drop_curve.fit_curve(task.tables.known_drops(), points)
    return replace(outcome, curve=curve)


def search_verified(task: Task, meter: AccuracyMeter, progress: Progress) -> Outcome:
    """Search until a plan is found whose measured accuracy drop is within the budget.

    Uniform plans that are predicted to be better are measured too. The result is therefore never
    worse than the best uniform plan within the budget.

    Parameters
    ----------
    task
        The task of the search.
    meter
        Measures the accuracy of plans.
    progress
        Called with the name of the stage, the steps done, and the number of steps.

    Raises
    ------
    InfeasibleError
        If every measured plan drops by more than the budget. The message names the smallest drop
        and the number of samples that would show that a plan is within the budget.
    SearchStoppedError
        On Ctrl-C. It holds the best plan that was measured and is within the budget, or else one
        that is so by the tables only.
    """
    loop = _Loop(task, meter, progress)
    try:
        return _verified(task, meter, loop, progress)
    except KeyboardInterrupt as stop:
        raise SearchStoppedError(loop.best(stop)) from None


def _verified(task: Task, meter: AccuracyMeter, loop: "_Loop", progress: Progress) -> Outcome:
    (loop.weighted if task.weighted_by is not None else loop.within)()
    best = min(loop.tried, key=lambda outcome: outcome.value)
    for formats in task.tables.uniform().values():
        predicted = loop.curve().predict(loop.task.tables.predicted_drop(formats))
        hopeless = task.weighted_by is None and predicted > HOPELESS * task.max_drop
        if hopeless or task.too_large(formats) or task.value(formats, 0.0) >= best.value:
            continue
        outcome = loop.measure(replace(best, formats=formats, predicted_drop=predicted), best.value)
        best = min(best, outcome, key=lambda outcome: outcome.value)
    progress(_STAGE, ROUNDS, ROUNDS)
    if math.isinf(best.value):
        raise InfeasibleError(_infeasible(task, meter, loop.tried))
    return best


def _infeasible(task: Task, meter: AccuracyMeter, tried: Sequence[Outcome]) -> str:
    plans = [outcome.formats for outcome in tried]
    formats = min(plans, key=lambda formats: meter.accuracy(formats, task.max_drop).drop_limit)
    least = meter.accuracy(formats).drop_limit
    needed = meter.samples_needed(formats, task.max_drop)
    data = (
        "more data would not help"
        if needed is None
        else f"give about {needed:,} samples, which would show that a measured plan holds"
    )
    return (
        f"No plan lost at most {100 * task.max_drop:.3g} pp with {100 * task.confidence:g} % "
        f"confidence on {meter.evaluator.baseline.samples:,} samples; the nearest feasible "
        f"max_drop is {least:.4g} ({100 * least:.3g} pp). Allow formats with more bits, or {data}."
    )


def _find(task: Task, drop_budget: float, drop_factor: float, curve: DropCurve) -> Outcome:
    """Search on the tables; the outcome's value is infinite until its plan is measured."""
    tables, budget = task.tables, None if task.weighted_by is not None else drop_budget

    def outcome(
        choices: Sequence[int], solution: solver.Solution | solver.WeightedSolution | None
    ) -> Outcome:
        formats = tables.formats(choices)
        predicted = curve.predict(tables.predicted_drop(formats))
        return Outcome(formats, math.inf, predicted, drop_factor, budget, None, solution, curve)

    try:
        solution: solver.Solution | solver.WeightedSolution
        if task.weighted_by is None:
            solution = tables.within(
                drop_budget, max_size=task.max_size, method=task.method, time_limit=task.time_limit
            )
        elif task.method == "exact":
            solution = tables.best_weighted(
                task.weighted_by, drop_factor, max_size=task.max_size, time_limit=task.time_limit
            )
        else:
            found = walk(task, lambda f: drop_factor * tables.predicted_drop(f))
            return outcome(found.choices, None)
    except Interrupted as stop:
        so_far = stop.solution
        if isinstance(so_far, solver.Solution | solver.WeightedSolution) and so_far.choices:
            raise SearchStoppedError(_predicted(task, outcome(so_far.choices, so_far))) from None
        raise
    return outcome(solution.choices, solution)


def _predicted(task: Task, found: Outcome) -> Outcome:
    """Return an outcome with the value that the tables predict for its plan."""
    return replace(found, value=task.value(found.formats, found.predicted_drop))


def _factor(task: Task, curve: DropCurve) -> float:
    """Return the slope of the curve at the best plan: the weight of the tables' drops there."""
    assert task.weighted_by is not None
    weight = (1 - task.weighted_by) * POINTS
    points = task.tables.trade_offs(task.weighted_by)
    _, total = min((rest + weight * curve.predict(total), total) for total, rest in points)
    return curve.slope(total)


def _point(task: Task, meter: AccuracyMeter, formats: Formats) -> drop_curve.Point:
    """Return a measured plan as `drop_curve.fit_curve` takes it."""
    found = meter.evaluation(formats, -1.0)
    return task.tables.predicted_drop(formats), found.drop, found.drop_doubt


class _Loop:
    """The rounds of one search, and the plans that were measured in them."""

    def __init__(self, task: Task, meter: AccuracyMeter, progress: Progress) -> None:
        self.task, self.tried = task, list[Outcome]()
        self._found: Outcome | None = None  # the last answer of the solver
        self._meter, self._progress = meter, progress

    def curve(self) -> DropCurve:
        """Return the curve fitted to all plans that were measured so far."""
        points = [_point(self.task, self._meter, outcome.formats) for outcome in self.tried]
        return drop_curve.fit_curve(self.task.tables.known_drops(), points)

    def best(self, stop: KeyboardInterrupt) -> Outcome | None:
        """Return the best measured plan within the budget, or else the best by the tables."""
        held = [outcome for outcome in self.tried if math.isfinite(outcome.value)]
        if held:
            return min(held, key=lambda outcome: outcome.value)
        if isinstance(stop, SearchStoppedError):
            return stop.outcome
        unmeasured = not self.tried and self._found is not None
        return _predicted(self.task, self._found) if unmeasured and self._found else None

    def measure(self, found: Outcome, value: float = math.inf) -> Outcome:
        """Return a plan with its measured value; stop early if it cannot be better than `value`."""
        task = self.task
        useful = task.useful_drop(found.formats, value)
        accuracy = self._meter.accuracy(found.formats, useful)
        measured = task.value(found.formats, accuracy.drop, accuracy.drop_limit)
        outcome = replace(found, value=measured, accuracy=accuracy)
        self.tried.append(outcome)
        self._progress(_STAGE, min(len(self.tried), ROUNDS), ROUNDS)
        return outcome

    def weighted(self) -> None:
        """Measure the best plan by the curve, until that plan has been measured already."""
        task, best = self.task, math.inf
        while len(self.tried) < ROUNDS:
            curve = self.curve()
            self._found = found = _find(self.task, math.inf, _factor(self.task, curve), curve)
            expected = task.value(found.formats, found.predicted_drop)
            seen = any(found.formats == outcome.formats for outcome in self.tried)
            if seen or expected >= best - GAIN * abs(best):
                break
            best = min(best, self.measure(found, best).value)

    def within(self) -> None:
        """Find the drop budget of the tables at which the measured drop just meets the task's.

        The budget stays between `holds`, the best plan that met the task's budget, and `fails`, the
        smallest drop by the tables of a plan that did not. While only one of them is known, the
        curve gives the next budget; after that, each round bisects.
        """
        task = self.task
        least = sum(
            min(float(row[k]) for k in columns)
            for row, columns in zip(task.tables.drop, task.tables.allowed, strict=True)
        )
        samples = self._meter.evaluator.baseline.samples
        margin = self._meter.quantile * math.sqrt(CHANGED_PER_LOST * task.max_drop / samples)
        holds: Outcome | None = None
        fails = math.inf
        for _ in range(ROUNDS):
            target = max(task.max_drop - margin, task.max_drop / STRETCH)
            floor = 0.0 if holds is None else self._total(holds.formats)
            found = self._next(target, floor, fails, least)
            if found is None or (math.isinf(fails) and self._gains_little(holds, found)):
                break
            outcome = self.measure(found)
            assert outcome.accuracy is not None
            margin = outcome.accuracy.drop_limit - outcome.accuracy.drop
            if math.isinf(outcome.value):
                fails = min(fails, self._total(outcome.formats))
            elif holds is None or outcome.value < holds.value:
                holds = outcome
            if holds is not None and self._gain(holds, fails) <= GAIN:
                break

    def _next(self, target: float, holds: float, fails: float, least: float) -> Outcome | None:
        """Return the best plan that is expected to drop by `target`."""
        curve = self.curve()
        return self._new(self._between(curve.inverse(target), holds, fails, least), curve)

    def _between(self, budget: float, holds: float, fails: float, least: float) -> float:
        """Return a budget between `holds` and `fails`; the geometric mean if both are known."""
        if not self.tried:
            return max(budget, least)
        if math.isinf(fails):
            return min(max(budget, holds * (1 + GAIN)), holds * STRETCH or budget)
        if holds > 0:
            return math.sqrt(max(holds, fails / STRETCH) * fails)
        return min(max(budget, fails / STRETCH), fails * (1 - GAIN))

    def _new(self, budget: float, curve: DropCurve) -> Outcome | None:
        """Return the best plan within a budget; ``None`` if there is none or it was measured."""
        try:
            found = _find(self.task, budget, 1.0, curve)
        except (InfeasibleError, NoPlanError):
            if not self.tried:
                raise
            return None
        self._found = found
        return None if any(found.formats == o.formats for o in self.tried) else found

    def _gains_little(self, holds: Outcome | None, found: Outcome) -> bool:
        """Whether the next plan is expected to be no better than the best one within the budget."""
        cost = self.task.tables.cost.total(found.formats)
        return holds is not None and cost > (1 - GAIN) * holds.value

    def _gain(self, holds: Outcome, fails: float) -> float:
        """Return the largest share of the cost that a plan between the two budgets could save."""
        task = self.task
        if math.isinf(fails):
            costs, tables = task.tables.cost.cost, task.tables
            least = sum(
                min(int(row[k]) for k in columns)
                for row, columns in zip(costs, tables.allowed, strict=True)
            )
            columns = tables.columns(holds.formats)
            now = sum(int(row[k]) for row, k in zip(costs, columns, strict=True))
            return (now - least) / max(1, now)
        try:
            best = _find(task, fails, 1.0, DropCurve())
        except NoPlanError:
            return 1.0
        return 1 - task.tables.cost.total(best.formats) / holds.value

    def _total(self, formats: Formats) -> float:
        return self.task.tables.predicted_drop(formats)
