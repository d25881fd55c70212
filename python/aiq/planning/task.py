"""What a search looks for, and what it found."""

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
    """What to search for.

    Attributes
    ----------
    tables
        Costs and drops.
    weighted_by
        Lambda of the paper's objective, or ``None`` to minimise the cost under `max_drop`.
    max_drop
        Largest accuracy drop, as a fraction.
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

    def value(self, formats: Formats, drop: float, limit: float | None = None) -> float:
        """Return the objective of a plan that loses `drop`, at most `limit`: smaller is better."""
        if self.weighted_by is not None:
            return self.tables.weighted(formats, drop, self.weighted_by)
        within = (drop if limit is None else limit) <= self.max_drop
        return self.tables.cost.total(formats) if within else math.inf

    def too_large(self, formats: Formats) -> bool:
        """Whether the weights of a plan take more than they may."""
        return self.max_size is not None and self.tables.size(formats) > self.max_size

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
    predicted_drop
        As the tables, bent to what was measured before, predict it.
    drop_factor
        What the predicted drops were multiplied by in the search for the plan.
    drop_budget
        Drop by the tables that the solve allowed, or ``None`` without a budget.
    accuracy
        Measured, or ``None``.
    solution
        The solver's answer, or ``None`` for a walk that proves nothing.
    bend
        From drops by the tables to drops.
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
        The best so far, or ``None``.
    """

    def __init__(self, outcome: Outcome | None) -> None:
        super().__init__()
        self.outcome = outcome
