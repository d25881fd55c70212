"""What the solver proved about a plan, and the certificate that proves it to others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from aiq.errors import InputError
from aiq.solver import Certificate, Check, Problem, Solution
from aiq.solver import check as check_certificate
from aiq.typed import Count, Name, NonNegative

MOST_NUMBERS = 60_000
"""A certificate with more numbers than these, about a megabyte as JSON, is not kept."""

TENTH = 0.001
"""The step of the shadow price: a tenth of a percentage point, or so much of another metric."""

Row = tuple[Annotated[int, Meta(ge=-(2**62), le=2**62)], ...]


@dataclass(frozen=True, slots=True)
class SolveSummary:
    """The solver's result: how good the choice is on the tables.

    Attributes
    ----------
    status
        ``optimal``, ``heuristic``, ``time_limit``, ``node_limit`` or ``interrupted``; ``measured``
        if the stopwatch preferred another plan than the solver.
    value, bound, gap
        Objective of the plan, lower bound of every plan within the budgets, and their relative
        difference; ``None`` where a method gives no bound.
    unit
        Unit of `value` and `bound`: ``bytes``, ``seconds``, or ``objective`` (the weighted one).
    nodes, seconds
        Number of subproblems that were visited, and time of the search.
    drop_budget
        Largest sum of the drops of single layers in the solve; it comes from measured plans.
        ``None`` without a budget.
    drop_factor
        Factor by which the drops of single layers were multiplied in the weighted objective; it
        comes from measured plans.
    cheapest
        Whether no plan of any accuracy drop is cheaper: then the plan is optimal whatever the
        layers lose, and `value` is a bound on all plans within the size budget.
    closed
        Number of subproblems of the solver's certificate by how they were closed: ``bound``,
        ``enumerated``, ``infeasible``, ``branched`` or ``open``. If none is open, the proof is
        complete.
    per_tenth
        Shadow price: what 0.1 pp more accuracy drop would save, in `unit`; ``None`` where no drop
        budget was solved for.
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
    per_tenth: NonNegative | None = None


@dataclass(frozen=True, slots=True)
class CertificateEdge:
    """Costs and drops that depend on the formats of two decisions, as fixed-point integers.

    Attributes
    ----------
    source, target
        Positions of the decisions.
    cost, drop
        Values by choice of the source, then of the target, flat; no drops are zeros.
    """

    source: Count
    target: Count
    cost: Row
    drop: Row


@dataclass(frozen=True, slots=True)
class PlanCertificate:
    """The solver's certificate with the problem that it speaks of, in fixed-point integers.

    Attributes
    ----------
    cost, drop, size
        Cost, drop and size of each choice, for each decision.
    edges
        Costs and drops that depend on two decisions.
    decisions
        The decision of each layer of the plan; layers that share a weight share one.
    claim
        The solver's claim, with its proof.
    """

    cost: tuple[Row, ...]
    drop: tuple[Row, ...]
    size: tuple[Row, ...]
    edges: tuple[CertificateEdge, ...]
    decisions: tuple[Count, ...]
    claim: Certificate

    def check(self, chosen: Sequence[int], status: str) -> Check:
        """Return what the independent checker says of the claim, and whether it is of this plan.

        Parameters
        ----------
        chosen
            The choice of each layer of the plan.
        status
            Status by the plan's summary; ``measured`` if the stopwatch preferred another plan.

        Raises
        ------
        InputError
            If the problem is not one that the solver could have solved.
        """
        counts = [len(row) for row in self.cost]
        edges = [
            (e.source, e.target, *(_matrix(values, counts, e) for values in (e.cost, e.drop)))
            for e in self.edges
        ]
        problem = Problem(self.cost, self.drop, self.size or None, edges)
        cost, drop, size = self.claim.limits
        found = check_certificate(
            problem, self.claim, drop, size, self.claim.minimize, max_cost=cost
        )
        failures = list(found.failures)
        if status != "measured":
            if status != self.claim.status:
                failures.append(f"the plan is {status}, the certificate {self.claim.status}.")
            if found.values is not None and not self._is_of(chosen):
                failures.append("the certificate is of a plan with other formats.")
        return replace(found, ok=not failures, failures=tuple(failures))

    def _is_of(self, chosen: Sequence[int]) -> bool:
        fits = len(self.decisions) == len(chosen) and max(self.decisions) < len(self.cost)
        return fits and [self.claim.choices[d] for d in self.decisions] == list(chosen)


def certificate_of(solution: Solution, decisions: Sequence[int]) -> PlanCertificate | None:
    """Return what a plan keeps of a solution; ``None`` if it would take about a megabyte or more.

    Parameters
    ----------
    solution
        The solver's answer.
    decisions
        The decision of each layer of the plan.
    """
    core, counts = solution.problem.core, solution.problem.n_choices
    edges = tuple(CertificateEdge(u, v, tuple(c), tuple(d)) for u, v, c, d in core.edges())
    numbers = 3 * sum(counts) + sum(len(e.cost) + len(e.drop) for e in edges)
    if numbers + 8 * len(solution.certificate.proof) > MOST_NUMBERS:
        return None
    ends = np.cumsum(counts)[:-1]
    cost, drop, size = (
        tuple(tuple(row.tolist()) for row in np.split(np.array(table, np.int64), ends))
        if table
        else ()
        for table in core.tables()
    )
    return PlanCertificate(cost, drop, size, edges, tuple(decisions), solution.certificate)


def _matrix(values: Row, counts: Sequence[int], edge: CertificateEdge) -> NDArray[np.int64]:
    """Return the matrix of an edge, zero if no values are given.

    Raises
    ------
    InputError
        If the values do not fill the matrix.
    """
    if max(edge.source, edge.target) >= len(counts):
        raise InputError("An edge of the certificate names a decision that it does not have.")
    shape = counts[edge.source], counts[edge.target]
    if len(values) not in {0, shape[0] * shape[1]}:
        raise InputError("An edge of the certificate does not fit the choices of its decisions.")
    return np.array(values or np.zeros(shape), np.int64).reshape(shape)
