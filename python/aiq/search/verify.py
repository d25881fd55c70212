"""The loop that makes a plan true: search on tables, measure the plan, correct, search again.

What a plan loses by the tables is a prediction. What it really loses is measured once per round;
then the prediction is bent to all that was measured (`aiq.search.joint`), pairs of layers that do
not add up are measured (`aiq.search.interaction`), and the search, which takes milliseconds, is run
again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from aiq import solver
from aiq.errors import InfeasibleError
from aiq.formats import REFERENCE, Format
from aiq.plan import Accuracy
from aiq.progress import Progress
from aiq.search import interaction, joint
from aiq.search.choose import POINTS, Tables
from aiq.search.joint import Bend
from aiq.search.scale import Scale
from aiq.sensitivity.looked import ERROR, divergence

Formats = Mapping[str, Format]
ROUNDS = 6
"""Most rounds; each is one evaluation of the network on all data."""

STRETCH = 4.0
"""Most by which one round may move the loss budget while only one side of it is known."""

GAIN = 0.002
"""Relative gain of the objective for which no further plan is measured."""

SIDES = 3.5
"""Samples whose answer changes for each one lost, before anything is measured."""

HOPELESS = 2.0
"""A uniform plan predicted to lose this many times the budget is not measured."""

OVERSIZE = 1e6
"""Weight of a broken size budget in a measured search: no gain elsewhere makes up for it."""

_STAGE = "measure the plan, search again"


@dataclass(frozen=True, slots=True)
class Task:
    """What to search for.

    Attributes
    ----------
    tables
        Costs and losses.
    weighted_by
        Lambda of the paper's objective, or ``None`` to minimise the cost under `max_drop`.
    max_drop
        Largest accuracy loss, as a fraction.
    confidence
        With which a measured plan must keep to `max_drop`, 0.5..1.
    max_size
        Largest size of all weights in bytes, or ``None``.
    method
        Of the solver.
    time_limit
        Seconds for one solve, or ``None``.
    """

    tables: Tables
    weighted_by: float | None
    max_drop: float
    confidence: float
    max_size: int | None
    method: str
    time_limit: float | None

    def value(self, formats: Formats, loss: float, limit: float | None = None) -> float:
        """Return the objective of a plan that loses `loss`, at most `limit`: smaller is better."""
        if self.weighted_by is not None:
            return self.tables.weighted(formats, loss, self.weighted_by)
        within = (loss if limit is None else limit) <= self.max_drop
        return self.tables.cost.total(formats) if within else math.inf

    def useful_drop(self, formats: Formats, value: float) -> float:
        """Return the largest drop with which a plan may be better than one of some value."""
        if self.weighted_by is None:
            return self.max_drop
        if self.weighted_by == 1:
            return math.inf
        return (value - self.value(formats, 0.0)) / ((1 - self.weighted_by) * POINTS)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found.

    Attributes
    ----------
    formats
        The plan.
    value
        Its objective.
    predicted_loss
        As the tables, bent to what was measured before, predict it.
    loss_factor
        What the predicted losses were multiplied by in the search for the plan.
    loss_budget
        Loss by the tables that the solve allowed, or ``None`` without a budget.
    accuracy
        Measured, or ``None``.
    solution
        The solver's answer, or ``None`` for a walk that proves nothing.
    bend
        From losses by the tables to drops.
    """

    formats: Formats
    value: float
    predicted_loss: float
    loss_factor: float
    loss_budget: float | None
    accuracy: Accuracy | None
    solution: solver.Solution | solver.WeightedSolution | None
    bend: Bend = Bend()  # noqa: RUF009  (frozen)


def search_tables(task: Task) -> Outcome:
    """Search once, on tables alone: there is no data to measure on."""
    found = _find(task, task.max_drop, 1.0, Bend())
    return replace(found, value=task.value(found.formats, found.predicted_loss))


def search_verified(task: Task, scale: Scale, progress: Progress) -> Outcome:
    """Search on tables until the measured accuracy of the plan holds.

    The uniform plans that look better are measured too, so the result is never worse than the
    best uniform plan within the budget.

    Raises
    ------
    InfeasibleError
        If every plan that was measured loses more than the budget; names the least loss, and how
        many samples would show that a plan holds.
    """
    loop = _Loop(task, scale, progress)
    (loop.weighted if task.weighted_by is not None else loop.within)()
    best = min(loop.tried, key=lambda outcome: outcome.value)
    for formats in task.tables.uniform().values():
        predicted = loop.bend().predict(loop.task.tables.predicted_loss(formats))
        hopeless = task.weighted_by is None and predicted > HOPELESS * task.max_drop
        if hopeless or _too_large(task, formats) or task.value(formats, 0.0) >= best.value:
            continue
        outcome = loop.measure(replace(best, formats=formats, predicted_loss=predicted), best.value)
        best = min(best, outcome, key=lambda outcome: outcome.value)
    progress(_STAGE, ROUNDS, ROUNDS)
    if math.isinf(best.value):
        raise InfeasibleError(_infeasible(task, scale, loop.tried))
    return best


def _infeasible(task: Task, scale: Scale, tried: Sequence[Outcome]) -> str:
    plans = [outcome.formats for outcome in tried]
    formats = min(plans, key=lambda formats: scale.accuracy(formats, task.max_drop).drop_limit)
    least = scale.accuracy(formats).drop_limit
    needed = scale.samples_needed(formats, task.max_drop)
    data = (
        "more data would not help"
        if needed is None
        else f"give about {needed:,} samples, which would show that a plan found here holds"
    )
    return (
        f"No plan lost at most {100 * task.max_drop:.3g} pp at {100 * task.confidence:g} % "
        f"confidence on {scale.evaluator.baseline.samples:,} samples; the nearest feasible "
        f"max_drop is {least:.4g} ({100 * least:.3g} pp). Allow formats with more bits, or {data}."
    )


def search_measured(task: Task, scale: Scale, progress: Progress) -> Outcome:
    """Search the paper's way: measure the accuracy of every candidate."""
    most = sum(len(columns) for columns in task.tables.choices)
    done = 0

    def loss(formats: Formats) -> float:
        nonlocal done
        done += 1
        progress("evaluate candidates", done, max(done, most))
        accuracy = scale.accuracy(formats)
        return accuracy.drop if task.weighted_by is not None else accuracy.drop_limit

    found = _walk(task, loss)
    formats = task.tables.formats(found.choices)
    accuracy = scale.accuracy(formats)
    return Outcome(formats, found.value, accuracy.drop, 1.0, None, accuracy, None)


def _walk(task: Task, loss: Callable[[Formats], float]) -> solver.Measured:
    """Walk from plan to plan, one layer at a time, with `loss` deciding; start at float32."""
    tables = task.tables
    reference = tables.cost.formats.index(REFERENCE)

    def value(choices: Sequence[int]) -> float:
        formats = tables.formats(choices)
        excess = 0.0
        if task.max_size is not None:
            excess = max(0.0, tables.size(formats) / max(1, task.max_size) - 1)
        return task.value(formats, loss(formats)) + OVERSIZE * excess

    walk = solver.greedy_measured if task.method == "greedy" else solver.coordinate_measured
    start = [c.index(reference) if reference in c else 0 for c in tables.choices]
    found = walk([len(columns) for columns in tables.choices], value, start)
    formats = tables.formats(found.choices)
    if math.isinf(found.value) or _too_large(task, formats):
        raise InfeasibleError(
            f"The {task.method} search found no plan within the budgets; its last one has "
            f"{tables.size(formats):.0f} bytes of weights. Use method exact, which finds a plan "
            "if there is one."
        )
    return found


def _find(task: Task, loss_budget: float, loss_factor: float, bend: Bend) -> Outcome:
    """Search on the tables; the value of what is found is to be measured."""
    tables, budget = task.tables, None
    solution: solver.Solution | solver.WeightedSolution | None = None
    if task.weighted_by is None:
        budget = loss_budget
        solution = tables.within(
            loss_budget, max_size=task.max_size, method=task.method, time_limit=task.time_limit
        )
        choices = solution.choices
    elif task.method == "exact":
        solution = tables.best_weighted(
            task.weighted_by, loss_factor, max_size=task.max_size, time_limit=task.time_limit
        )
        choices = solution.choices
    else:
        choices = _walk(task, lambda f: loss_factor * tables.predicted_loss(f)).choices
    formats = tables.formats(choices)
    predicted = bend.predict(tables.predicted_loss(formats))
    return Outcome(formats, math.inf, predicted, loss_factor, budget, None, solution, bend)


def _factor(task: Task, bend: Bend) -> float:
    """Return the slope of the bend at the plan that is best by it: losses count that much there."""
    assert task.weighted_by is not None
    weight = (1 - task.weighted_by) * POINTS
    points = task.tables.trade_offs(task.weighted_by)
    _, total = min((rest + weight * bend.predict(total), total) for total, rest in points)
    return bend.slope(total)


class _Loop:
    """Finds plans, measures them, and learns from them."""

    def __init__(self, task: Task, scale: Scale, progress: Progress) -> None:
        self.task, self.tried = task, list[Outcome]()
        self._last: joint.Point = (0.0, 0.0, 0.0)
        self._scale, self._progress = scale, progress

    def bend(self) -> Bend:
        """Return the bend by all that was measured so far."""
        points = [self._point(outcome.formats) for outcome in self.tried]
        return joint.fit(self.task.tables.measured(), points)

    def look(self, found: Outcome) -> bool:
        """Learn from a look at a plan as a whole, before all samples are spent on the first one."""
        per_nat = self.task.tables.per_nat
        if self.tried or per_nat is None:
            return False
        drop = per_nat * divergence(self._scale.evaluator, found.formats)
        self._last = (self._total(found.formats), drop, ERROR * drop)
        return True

    def measure(self, found: Outcome, value: float = math.inf) -> Outcome:
        """Return a plan with its measured value, measured in full if it may beat `value`."""
        task = self.task
        useful = task.useful_drop(found.formats, value)
        accuracy = self._scale.accuracy(found.formats, useful)
        measured = task.value(found.formats, accuracy.drop, accuracy.drop_limit)
        outcome = replace(found, value=measured, accuracy=accuracy)
        self.tried.append(outcome)
        self._last = self._point(found.formats)
        self._progress(_STAGE, min(len(self.tried), ROUNDS), ROUNDS)
        return outcome

    def interact(self, outcome: Outcome) -> None:
        """Hand the solver the losses of pairs of layers, if those of single ones do not add up."""
        tables, found = self.task.tables, self._scale.evaluation(outcome.formats, -1.0)
        pairs = interaction.measure(tables, self._scale.evaluator, outcome.formats, found)
        self.task = replace(self.task, tables=replace(tables, interactions=pairs))
        self._last = self._point(outcome.formats)

    def weighted(self) -> None:
        """Measure the plan that the bend says is best, until that one was measured."""
        task, best = self.task, math.inf
        while len(self.tried) < ROUNDS:
            bend = self.bend()
            found = _find(self.task, math.inf, _factor(self.task, bend), bend)
            expected = task.value(found.formats, found.predicted_loss)
            seen = any(found.formats == outcome.formats for outcome in self.tried)
            if seen or expected >= best - GAIN * abs(best):
                break
            best = min(best, self.measure(found, best).value)
            if len(self.tried) == 1:
                self.interact(self.tried[0])

    def within(self) -> None:
        """Move the loss budget to where the measured limit just holds.

        Until one plan held and another failed, the bend and what it leans to say where that is;
        then each round halves what is between. `holds` is the largest loss by the tables of a plan
        that held, `fails` the smallest of one that did not; the budget stays between them.
        """
        task = self.task
        least = sum(
            min(float(row[k]) for k in columns)
            for row, columns in zip(task.tables.loss, task.tables.allowed, strict=True)
        )
        samples = self._scale.evaluator.baseline.samples
        margin = self._scale.quantile * math.sqrt(SIDES * task.max_drop / samples)
        holds: Outcome | None = None
        fails = math.inf
        for _ in range(ROUNDS):
            target = max(task.max_drop - margin, task.max_drop / STRETCH)
            floor = 0.0 if holds is None else self._total(holds.formats)
            found = self._next(target, floor, fails, least)
            if found is not None and self.look(found):
                # a size budget may leave no plan that loses less: then the first is measured
                with suppress(InfeasibleError):
                    found = self._next(target, floor, fails, least)
            if found is None:
                break
            outcome = self.measure(found)
            assert outcome.accuracy is not None
            margin = outcome.accuracy.drop_limit - outcome.accuracy.drop
            if math.isinf(outcome.value):
                fails = min(fails, self._total(outcome.formats))
            elif holds is None or outcome.value < holds.value:
                holds = outcome
            if len(self.tried) == 1:
                before = self.task
                self.interact(outcome)
                if self.task is not before and math.isfinite(fails):
                    fails = self._total(outcome.formats)
            if holds is not None and self._gain(holds, fails) <= GAIN:
                break

    def _next(self, target: float, holds: float, fails: float, least: float) -> Outcome | None:
        """Return the plan to consider next: the best that should drop by `target`."""
        bend = self.bend()
        budget = bend.inverse(target / joint.lean(bend, self._last))
        return self._new(self._between(budget, holds, fails, least), bend)

    def _between(self, budget: float, holds: float, fails: float, least: float) -> float:
        """Return a budget between what holds and what fails, halfway if both are known."""
        if not self.tried:
            return max(budget, least)
        if math.isinf(fails):
            return min(max(budget, holds * (1 + GAIN)), holds * STRETCH or budget)
        if holds > 0:
            return math.sqrt(max(holds, fails / STRETCH) * fails)
        return min(max(budget, fails / STRETCH), fails * (1 - GAIN))

    def _new(self, budget: float, bend: Bend) -> Outcome | None:
        """Return the best plan of a budget, or ``None`` if there is none or it was measured."""
        try:
            found = _find(self.task, budget, 1.0, bend)
        except InfeasibleError:
            if not self.tried:
                raise
            return None
        return None if any(found.formats == o.formats for o in self.tried) else found

    def _gain(self, holds: Outcome, fails: float) -> float:
        """Return the part of the cost that a plan between the two budgets could save at most."""
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
        best = _find(task, fails, 1.0, Bend())
        return 1 - task.tables.cost.total(best.formats) / holds.value

    def _point(self, formats: Formats) -> joint.Point:
        found = self._scale.evaluation(formats, -1.0)
        error = math.hypot(found.drop_error, 1 / found.samples)
        return self._total(formats), found.drop, error

    def _total(self, formats: Formats) -> float:
        return self.task.tables.predicted_loss(formats)


def _too_large(task: Task, formats: Formats) -> bool:
    return task.max_size is not None and task.tables.size(formats) > task.max_size
