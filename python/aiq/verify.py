"""The loop that makes a plan true: search on tables, measure the plan, correct, search again.

The sum of single-layer losses is a prediction. What a plan really loses is measured once per round;
then the prediction is corrected by the one number it was wrong by, and the search, which takes
milliseconds, is run again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aiq import solver
from aiq.choose import Tables
from aiq.errors import InfeasibleError
from aiq.evaluate import Evaluator
from aiq.formats import Format
from aiq.plan import Accuracy

Formats = Mapping[str, Format]
Progress = Callable[[str, int, int], None]

ROUNDS = 10
"""Most rounds; each is one evaluation of the network on all data."""

RESOLUTION = 1.01
"""Loss budgets closer than this ratio lead to the same plan, or to one as good."""

STRETCH = 4.0
"""Most by which one round may move the loss budget while only one side of it is known."""

HOPELESS = 2.0
"""A uniform plan whose corrected loss is this many budgets is not worth an evaluation."""

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
    max_size: int | None
    method: str
    time_limit: float | None

    def value(self, formats: Formats, loss: float) -> float:
        """Return the objective of a plan that loses `loss`: smaller is better."""
        if self.weighted_by is not None:
            return self.tables.weighted(formats, loss, self.weighted_by)
        return self.tables.cost.total(formats) if loss <= self.max_drop else math.inf


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
        Measured over predicted loss.
    loss_budget
        Sum of single-layer losses that the solve allowed, or ``None`` without a budget.
    accuracy
        Measured, or ``None``.
    solution
        The solver's answer, or ``None`` for a search without tables.
    """

    formats: Formats
    value: float
    predicted_loss: float
    loss_factor: float
    loss_budget: float | None
    accuracy: Accuracy | None
    solution: solver.Solution | None


def search_tables(task: Task) -> Outcome:
    """Search once, on tables alone: there is no data to measure on."""
    solution = _solve(task, task.max_drop, 1.0)
    formats = task.tables.formats(solution.choices)
    loss = task.tables.predicted_loss(formats)
    budget = None if task.weighted_by is not None else task.max_drop
    return Outcome(formats, task.value(formats, loss), loss, 1.0, budget, None, solution)


def search_verified(task: Task, evaluator: Evaluator, progress: Progress) -> Outcome:
    """Search on tables until the measured accuracy of the plan holds.

    The uniform plans that look better are measured too, so the result is never worse than the
    best uniform plan within the budget.

    Raises
    ------
    InfeasibleError
        If every plan that was measured loses more than the budget; names the least loss.
    """
    scale = _Scale(evaluator)
    rounds = _rounds_weighted if task.weighted_by is not None else _rounds_within
    tried: list[Outcome] = []
    for outcome in rounds(task, scale):
        tried.append(outcome)
        progress("measure the plan, search again", len(tried), ROUNDS)
    best = min(tried, key=lambda outcome: outcome.value)
    for formats in task.tables.uniform():
        loss = task.tables.predicted_loss(formats)
        hopeless = task.weighted_by is None and loss * best.loss_factor > HOPELESS * task.max_drop
        if hopeless or _too_large(task, formats) or task.value(formats, 0.0) >= best.value:
            continue
        accuracy = scale.accuracy(formats)
        value = task.value(formats, accuracy.drop)
        if value < best.value:
            best = Outcome(
                formats, value, loss, best.loss_factor, best.loss_budget, accuracy, best.solution
            )
    progress("measure the plan, search again", ROUNDS, ROUNDS)
    if math.isinf(best.value):
        least = min(tried, key=lambda outcome: outcome.accuracy.drop if outcome.accuracy else 0.0)
        assert least.accuracy is not None
        raise InfeasibleError(
            f"No plan lost at most {100 * task.max_drop:.3g} pp; the nearest feasible max_drop is "
            f"{least.accuracy.drop:.4g} ({100 * least.accuracy.drop:.3g} pp), or allow formats "
            "with more bits."
        )
    return best


def search_measured(task: Task, evaluator: Evaluator, progress: Progress) -> Outcome:
    """Search the paper's way: measure the accuracy of every candidate."""
    scale = _Scale(evaluator)
    counts = [len(columns) for columns in task.tables.allowed]
    done = 0

    def value(choices: Sequence[int]) -> float:
        nonlocal done
        formats = task.tables.formats(choices)
        loss = scale.accuracy(formats).drop
        done += 1
        progress("evaluate candidates", done, max(done, sum(counts)))
        excess = 0.0
        if task.max_size is not None:
            excess = max(0.0, task.tables.size(formats) / max(1, task.max_size) - 1)
        return task.value(formats, loss) + OVERSIZE * excess

    search = solver.greedy_measured if task.method == "greedy" else solver.coordinate_measured
    found = search(counts, value)
    formats = task.tables.formats(found.choices)
    accuracy = scale.accuracy(formats)
    if _too_large(task, formats) or math.isinf(found.value):
        raise InfeasibleError(
            f"The {task.method} search found no plan within the budgets; its last one has "
            f"{task.tables.size(formats):.0f} bytes of weights and loses "
            f"{100 * accuracy.drop:.3g} pp. Use method exact, which finds one if there is one."
        )
    return Outcome(formats, found.value, accuracy.drop, 1.0, None, accuracy, None)


class _Scale:
    """Measures accuracy against the float32 network; the same plan is measured once."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._known: dict[tuple[str, ...], Accuracy] = {}
        self._baseline = evaluator.baseline.accuracy

    def accuracy(self, formats: Formats) -> Accuracy:
        key = tuple(format_.name for format_ in formats.values())
        if key not in self._known:
            evaluation = self._evaluator.evaluate(formats)
            self._known[key] = Accuracy(evaluation.accuracy, self._baseline, evaluation.samples)
        return self._known[key]


def _solve(task: Task, loss_budget: float, loss_factor: float) -> solver.Solution:
    tables = task.tables
    if task.weighted_by is not None:
        return tables.best_weighted(
            task.weighted_by, loss_factor, method=task.method, max_size=task.max_size
        )
    return tables.within(
        loss_budget, max_size=task.max_size, method=task.method, time_limit=task.time_limit
    )


def _rounds_weighted(task: Task, scale: _Scale) -> "list[Outcome]":
    """Correct the losses by the factor of the last plan until the plan stays the same."""
    outcomes: list[Outcome] = []
    factor = 1.0
    while len(outcomes) < ROUNDS:
        solution = _solve(task, math.inf, factor)
        outcome = _measure(task, scale, solution, None)
        if any(outcome.formats == earlier.formats for earlier in outcomes):
            break
        outcomes.append(outcome)
        factor = outcome.loss_factor
    return outcomes


def _rounds_within(task: Task, scale: _Scale) -> "list[Outcome]":
    """Bisect the budget on the predicted loss until the measured one just holds."""
    outcomes: list[Outcome] = []
    holds, fails = 0.0, math.inf
    budget = task.max_drop
    while len(outcomes) < ROUNDS:
        try:
            solution = _solve(task, budget, 1.0)
        except InfeasibleError:
            if not outcomes:
                raise
            holds = budget  # the table says that nothing loses so little
        else:
            outcome = _measure(task, scale, solution, budget)
            outcomes.append(outcome)
            assert outcome.accuracy is not None
            used = task.tables.predicted_loss(outcome.formats)
            if outcome.accuracy.drop <= task.max_drop:
                holds = max(holds, budget)
                step = task.max_drop / max(outcome.accuracy.drop, task.max_drop / STRETCH)
            else:
                fails = min(fails, used)
                step = max(task.max_drop / outcome.accuracy.drop, 1 / STRETCH)
        if math.isinf(fails):
            budget = holds * max(step, RESOLUTION)
            if _cheapest(task, outcomes[-1]):
                break
        elif holds == 0.0:
            budget = min(budget, fails) * step
        else:
            budget = math.sqrt(holds * fails)
        if fails <= holds * RESOLUTION or budget == 0.0:
            break
    return outcomes


def _measure(task: Task, scale: _Scale, solution: solver.Solution, budget: float | None) -> Outcome:
    formats = task.tables.formats(solution.choices)
    accuracy = scale.accuracy(formats)
    predicted = task.tables.predicted_loss(formats)
    factor = max(accuracy.drop, 0.0) / predicted if predicted > 0 else 1.0
    value = task.value(formats, accuracy.drop)
    return Outcome(formats, value, predicted, factor, budget, accuracy, solution)


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
