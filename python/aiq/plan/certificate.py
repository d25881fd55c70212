"""What the solver proved about a plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiq.typed import (
    Count,
    Name,
    NonNegative,
)


@dataclass(frozen=True, slots=True)
class SolveSummary:
    """How good the choice is on the tables: what the solver can vouch for.

    Attributes
    ----------
    status
        ``optimal``, ``heuristic``, ``time_limit``, ``node_limit`` or ``interrupted``; ``measured``
        if the stopwatch preferred another plan than the solver.
    value, bound, gap
        Objective of the plan, lower bound of every plan within the budgets, and their relative
        difference; ``None`` where a method gives no bound.
    unit
        Of `value` and `bound`: ``bytes``, ``seconds``, or ``objective`` (the weighted one).
    nodes, seconds
        Search effort.
    drop_budget
        Sum of single-layer drops that the solve allowed, corrected by measurement; ``None``
        without a budget.
    drop_factor
        What the single-layer drops were multiplied by, corrected by measurement.
    cheapest
        Whether no plan of any accuracy drop is cheaper: then the plan is optimal whatever the
        layers lose, and `value` is a bound on all plans within the size budget.
    closed
        Subproblems of the solver's certificate by what closed them: ``bound``, ``enumerated``,
        ``infeasible``, ``branched`` or ``open``. The proof is complete if none is open.
    """

    status: Name
    value: float
    bound: float | None
    gap: float | None
    unit: Name
    nodes: Count
    seconds: NonNegative
    drop_budget: float | None
    drop_factor: float
    cheapest: bool = False
    closed: Mapping[Name, Count] = field(default_factory=dict)
