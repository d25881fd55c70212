"""The loop that makes a plan true: search on tables, measure the plan, correct, search again.

The sum of single-layer losses is a prediction. What a plan really loses is measured once per round;
then the prediction is corrected by the one number it was wrong by, and the search, which takes
milliseconds, is run again.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from aiq import solver
from aiq.errors import InfeasibleError
from aiq.evaluate import Evaluator
from aiq.evaluate.confidence import drop_limit
from aiq.formats import REFERENCE, Format
from aiq.plan import Accuracy
from aiq.progress import Progress
from aiq.search.choose import Tables

Formats = Mapping[str, Format]
ROUNDS = 10
"""Most rounds; each is one evaluation of the network on all data."""

RESOLUTION = 1.01
"""Loss budgets closer than this ratio lead to the same plan, or to one as good."""

STRETCH = 4.0
"""Most by which one round may move the loss budget while only one side of it is known."""

HOPELESS = 2.0
"""A uniform plan predicted to lose this many times what the best plan does is not measured."""

OVERSIZE = 1e6
"""Weight of a broken size budget in a measured search: no gain elsewhere makes up for it."""


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
        Sum of single-layer losses.
    loss_factor
        What the predicted losses were multiplied by in the search for the plan.
    loss_budget
        Sum of single-layer losses that the solve allowed, or ``None`` without a budget.
    accuracy
        Measured, or ``None``.
    solution
        The solver's answer, or ``None`` for a walk that proves nothing.
    """

    formats: Formats
    value: float
    predicted_loss: float
    loss_factor: float
    loss_budget: float | None
    accuracy: Accuracy | None
    solution: solver.Solution | solver.WeightedSolution | None


class Scale:
    """Measures accuracy against the float32 network; the same plan is measured once."""

    def __init__(self, evaluator: Evaluator, confidence: float) -> None:
        self._evaluator = evaluator
        self._confidence = confidence
        self._known: dict[tuple[str, ...], Accuracy] = {}

    def known(self, formats: Formats) -> Accuracy | None:
        """Return the accuracy of a plan if it was measured."""
        return self._known.get(_key(formats))

    def accuracy(self, formats: Formats) -> Accuracy:
        """Return the accuracy of a plan."""
        key = _key(formats)
        if key not in self._known:
            evaluation = self._evaluator.evaluate(formats)
            same = all(format_ == REFERENCE for format_ in formats.values())
            self._known[key] = Accuracy(
                plan=evaluation.accuracy,
                baseline=self._evaluator.baseline.accuracy,
                samples=evaluation.samples,
                drop_limit=0.0 if same else drop_limit(evaluation, self._confidence),
                confidence=self._confidence,
            )
        return self._known[key]


def _key(formats: Formats) -> tuple[str, ...]:
    return tuple(format_.name for format_ in formats.values())


def search_tables(task: Task) -> Outcome:
    """Search once, on tables alone: there is no data to measure on."""
    return _Tables(task, None).find(task.max_drop, 1.0)


def search_verified(task: Task, scale: Scale, progress: Progress) -> Outcome:
    """Search on tables until the measured accuracy of the plan holds.

    The uniform plans that look better are measured too, so the result is never worse than the
    best uniform plan within the budget.

    Raises
    ------
    InfeasibleError
        If every plan that was measured loses more than the budget; names the least loss.
    """
    tables = _Tables(task, scale)
    rounds = _rounds_weighted if task.weighted_by is not None else _rounds_within
    tried: list[Outcome] = []
    for outcome in rounds(task, tables):
        tried.append(outcome)
        progress(_VERIFY, len(tried), ROUNDS)
    best = min(tried, key=lambda outcome: outcome.value)
    for formats in task.tables.uniform().values():
        loss = task.tables.predicted_loss(formats)
        hopeless = task.weighted_by is None and loss > HOPELESS * best.predicted_loss
        if hopeless or _too_large(task, formats) or task.value(formats, 0.0) >= best.value:
            continue
        accuracy = scale.accuracy(formats)
        value = task.value(formats, accuracy.drop, accuracy.drop_limit)
        if value < best.value:
            best = Outcome(
                formats, value, loss, best.loss_factor, best.loss_budget, accuracy, best.solution
            )
    progress(_VERIFY, ROUNDS, ROUNDS)
    if math.isinf(best.value):
        least = min(o.accuracy.drop_limit for o in tried if o.accuracy is not None)
        raise InfeasibleError(
            f"No plan lost at most {100 * task.max_drop:.3g} pp at {100 * task.confidence:g} % "
            f"confidence; the nearest feasible max_drop is {least:.4g} ({100 * least:.3g} pp). "
            "Allow formats with more bits, or give more data."
        )
    return best


def search_measured(task: Task, scale: Scale, progress: Progress) -> Outcome:
    """Search the paper's way: measure the accuracy of every candidate."""
    most = sum(len(columns) for columns in task.tables.allowed)
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
    start = [c.index(reference) if reference in c else 0 for c in tables.allowed]
    found = walk([len(columns) for columns in tables.allowed], value, start)
    formats = tables.formats(found.choices)
    if math.isinf(found.value) or _too_large(task, formats):
        raise InfeasibleError(
            f"The {task.method} search found no plan within the budgets; its last one has "
            f"{tables.size(formats):.0f} bytes of weights. Use method exact, which finds a plan "
            "if there is one."
        )
    return found


_VERIFY = "measure the plan, search again"


class _Tables:
    """Searches on tables, and measures what it found if there is something to measure with."""

    def __init__(self, task: Task, scale: Scale | None) -> None:
        self._task, self._scale = task, scale

    def find(self, loss_budget: float, loss_factor: float) -> Outcome:
        task, tables = self._task, self._task.tables
        solution: solver.Solution | solver.WeightedSolution | None = None
        budget = None
        if task.weighted_by is None:
            budget = loss_budget
            solution = tables.within(
                loss_budget,
                max_size=task.max_size,
                method=task.method,
                time_limit=task.time_limit,
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
        predicted = tables.predicted_loss(formats)
        if self._scale is None:
            value = task.value(formats, predicted)
            return Outcome(formats, value, predicted, loss_factor, budget, None, solution)
        accuracy = self._scale.accuracy(formats)
        value = task.value(formats, accuracy.drop, accuracy.drop_limit)
        return Outcome(formats, value, predicted, loss_factor, budget, accuracy, solution)


def _rounds_weighted(task: Task, tables: _Tables) -> Iterator[Outcome]:
    """Correct the losses by the factor of the last plan until the plan stays the same."""
    seen: list[Formats] = []
    factor = 1.0
    while len(seen) < ROUNDS:
        outcome = tables.find(math.inf, factor)
        if outcome.formats in seen:
            break
        yield outcome
        seen.append(outcome.formats)
        assert outcome.accuracy is not None
        if outcome.predicted_loss > 0:
            factor = max(outcome.accuracy.drop, 0.0) / outcome.predicted_loss


def _rounds_within(task: Task, tables: _Tables) -> Iterator[Outcome]:
    """Bisect the budget on the predicted loss until the measured one just holds.

    `holds` is the largest budget whose plan held, `fails` the smallest predicted loss that did
    not; while one side is open the budget moves in proportion to what the last plan missed by.
    """
    holds, fails = 0.0, math.inf
    budget = task.max_drop
    for _ in range(ROUNDS):
        try:
            outcome = tables.find(budget, 1.0)
        except InfeasibleError:
            if math.isinf(fails):
                raise
            break  # the table says that nothing loses less than what was just measured
        yield outcome
        assert outcome.accuracy is not None
        drop = outcome.accuracy.drop_limit
        if drop <= task.max_drop:
            holds = max(holds, budget)
            if _cheapest(task, outcome):
                break
        else:
            fails = min(fails, outcome.predicted_loss)
        if math.isinf(fails):
            budget = holds * min(STRETCH, max(task.max_drop / max(drop, 1e-9), RESOLUTION))
        elif holds == 0.0:
            budget = fails * max(1 / STRETCH, min(task.max_drop / drop, 1 / RESOLUTION))
        else:
            budget = math.sqrt(holds * fails)
        if fails <= holds * RESOLUTION or budget == 0.0:
            break


def _too_large(task: Task, formats: Formats) -> bool:
    return task.max_size is not None and task.tables.size(formats) > task.max_size


def _cheapest(task: Task, outcome: Outcome) -> bool:
    """Whether no budget on the loss can make the plan cheaper."""
    tables = task.tables
    least = sum(
        min(int(row[k]) for k in columns)
        for row, columns in zip(tables.cost.cost, tables.allowed, strict=True)
    )
    cost = sum(
        int(row[k])
        for row, k in zip(tables.cost.cost, tables.columns(outcome.formats), strict=True)
    )
    return cost == least
