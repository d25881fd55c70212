"""The paper's searches: change one layer at a time, and measure every candidate."""

import math
from collections.abc import Callable, Sequence

from aiq import solver
from aiq.errors import InfeasibleError
from aiq.formats import REFERENCE
from aiq.planning.accuracy import AccuracyMeter
from aiq.planning.task import Formats, Outcome, SearchStoppedError, Task
from aiq.progress import Progress

OVERSIZE = 1e6
"""Weight of the excess over the size budget in the objective; it outweighs any other gain."""


def search_measured(task: Task, meter: AccuracyMeter, progress: Progress) -> Outcome:
    """Search as the paper does, by measuring the accuracy of every candidate.

    Raises
    ------
    InfeasibleError
        If the search found no plan within the budgets.
    SearchStoppedError
        On Ctrl-C; it holds the best plan that was measured.
    """
    most = sum(len(columns) for columns in task.tables.choices)
    done = 0
    best: Outcome | None = None

    def drop(formats: Formats) -> float:
        nonlocal done, best
        done += 1
        progress("evaluate candidates", done, max(done, most))
        accuracy = meter.accuracy(formats)
        value = task.value(formats, accuracy.drop, accuracy.drop_limit)
        if not task.too_large(formats) and value < (math.inf if best is None else best.value):
            best = Outcome(formats, value, accuracy.drop, 1.0, None, accuracy, None)
        return accuracy.drop if task.weighted_by is not None else accuracy.drop_limit

    try:
        found = walk(task, drop)
    except KeyboardInterrupt:
        raise SearchStoppedError(best) from None
    formats = task.tables.formats(found.choices)
    accuracy = meter.accuracy(formats)
    return Outcome(formats, found.value, accuracy.drop, 1.0, None, accuracy, None)


def walk(task: Task, drop: Callable[[Formats], float]) -> solver.Measured:
    """Return the plan that the paper's search finds, from float32, with drops by `drop`."""
    tables = task.tables
    reference = tables.cost.formats.index(REFERENCE)

    def value(choices: Sequence[int]) -> float:
        formats = tables.formats(choices)
        excess = 0.0
        if task.max_size is not None:
            excess = max(0.0, tables.size(formats) / max(1, task.max_size) - 1)
        return task.value(formats, drop(formats)) + OVERSIZE * excess

    search = solver.greedy_measured if task.method == "greedy" else solver.coordinate_measured
    start = [c.index(reference) if reference in c else 0 for c in tables.choices]
    found = search([len(columns) for columns in tables.choices], value, start)
    formats = tables.formats(found.choices)
    if math.isinf(found.value) or task.too_large(formats):
        raise InfeasibleError(
            f"The {task.method} search found no plan within the budgets; its last one has "
            f"{tables.size(formats):.0f} bytes of weights. Use method exact, which finds a plan "
            "if there is one."
        )
    return found
