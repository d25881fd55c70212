"""The task of a search, and its outcome."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from aiq import solver
from aiq.formats import Format
from aiq.plan import Accuracy
from aiq.planning.drop_curve import DropCurve
from aiq.planning.tables import POINTS, Tables

Formats = Mapping[str, Format]


@dataclass(frozen=True, slots=True)
class Task:
    """The task of a search.

    Attributes
    ----------
    tables
        Costs and drops of every layer in every format.
    weighted_by
        Lambda of the paper's objective, or ``None`` to minimise the cost within `max_drop`.
    max_drop
        Largest accuracy drop, as a fraction; infinite if the drop is minimised.
    confidence
        Confidence with which the drop of a measured plan must be within `max_drop`: 0.5 to 1.
    max_size
        Largest size of all weights in bytes, or ``None``.
    least_drop
        Whether the drop is minimised, within `max_cost` and `max_size`.
    max_cost
        Largest cost in the unit of the tables, or ``None``.
    method
        Name of the solver's method.
    time_limit
        Largest time of one solve in seconds, or ``None``.
    """

    tables: Tables
    weighted_by: float | None
    max_drop: float
    confidence: float
    max_size: int | None
    method: str
    time_limit: float | None
    least_drop: bool = False
    max_cost: float | None = None

    def value(self, formats: Formats, drop: float, limit: float | None = None) -> float:
        """Return the objective of a plan, smaller being better; infinite if over the budget.

        `drop` is the plan's drop, and `limit` its upper limit, which decides if it is given.
        """
        if self.weighted_by is not None:
            return self.tables.weighted(formats, drop, self.weighted_by)
        if self.least_drop:
            return drop
        within = (drop if limit is None else limit) <= self.max_drop
        return self.tables.cost.total(formats) if within else math.inf

    def too_large(self, formats: Formats) -> bool:
        """Whether a plan exceeds the budget on the size of its weights, or on its cost."""
        large = self.max_size is not None and self.tables.size(formats) > self.max_size
        dear = self.max_cost is not None and self.tables.cost.total(formats) > self.max_cost
        return large or dear

    def useful_drop(self, formats: Formats, value: float) -> float:
        """Return the largest drop at which a plan can still be better than `value`."""
        if self.weighted_by is None:
            return self.max_drop
        if self.weighted_by == 1:
            return math.inf
        return (value - self.value(formats, 0.0)) / ((1 - self.weighted_by) * POINTS)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a search.

    Attributes
    ----------
    formats
        The plan.
    value
        Objective of the plan: smaller is better.
    predicted_drop
        Drop that `curve` predicts for the plan, as a fraction.
    drop_factor
        Factor of the tables' drops in the weighted objective that was solved.
    drop_budget
        Largest drop by the tables in the solve, as a fraction; ``None`` without a budget.
    accuracy
        Measured accuracy of the plan, or ``None``.
    solution
        The solver's answer, or ``None`` for a walk, which proves nothing.
    curve
        Curve from the sum of the tables' drops to the drop of a plan.
    """

    formats: Formats
    value: float
    predicted_drop: float
    drop_factor: float
    drop_budget: float | None
    accuracy: Accuracy | None
    solution: solver.Solution | solver.WeightedSolution | None
    curve: DropCurve = DropCurve()  # noqa: RUF009  (frozen)


class SearchStoppedError(KeyboardInterrupt):
    """Ctrl-C during a search.

    Attributes
    ----------
    outcome
        The best outcome before Ctrl-C, or ``None``.
    """

    def __init__(self, outcome: Outcome | None) -> None:
        super().__init__()
        self.outcome = outcome
