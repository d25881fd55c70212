"""An independent checker of certificates, in plain Python integers.

It shares no code with the solver, which computes the same in Rust.
"""

from dataclasses import dataclass

from aiq.errors import InputError, type_of
from aiq.solver.certificate import Certificate, Proof
from aiq.solver.congruence import Congruence, reachable_limits
from aiq.solver.labels import least_objective
from aiq.solver.problem import Number, Problem
from aiq.solver.relaxation import (
    EVERYTHING,
    UNLIMITED,
    Effort,
    IntegerTables,
    Relaxation,
    TooMuchError,
    dot,
)
from aiq.solver.solve import fixed_limits
from aiq.solver.wellformed import MEASURES, malformed

MAX_WORK = 50_000_000
"""Largest number of table entries and sums to process by default, which takes about a minute."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a check.

    Attributes
    ----------
    ok
        Whether every claim of the certificate is proved.
    failures
        A sentence for every claim that is not proved.
    values
        Recomputed cost, drop and size of the plan; None without a plan.
    bound
        Lower bound of the objective that the checker proved, at most the claimed one. It is None if
        no bound was claimed or the certificate is malformed, and ``2**62`` if there is no plan.
    """

    ok: bool
    failures: tuple[str, ...]
    values: tuple[int, int, int] | None
    bound: int | None


def check(
    problem: Problem,
    certificate: Certificate,
    max_drop: Number | None = None,
    max_size: Number | None = None,
    minimize: str = "cost",
    *,
    max_cost: Number | None = None,
    replay: bool = True,
    max_work: int = MAX_WORK,
) -> Check:
    """Verify a certificate without the solver: feasibility, objective, and lower bound.

    The caller gives problem, budgets and objective as they were given to `solve`; a certificate for
    another question is not accepted. The bound of each subproblem is recomputed by a dynamic
    program. Subproblems that the solver closed by enumeration are enumerated again.

    The status ``optimal`` claims that no plan within the budgets is better, and ``infeasible`` that
    there is no plan. With another status, the plan and the bound are proved, if there are any.

    Parameters
    ----------
    problem
        The tables.
    certificate
        Certificate of a solution of that problem, from any source.
    max_drop, max_size, max_cost, minimize
        Budgets and objective that were given to `solve`.
    replay
        Whether to enumerate in plain Python, which takes seconds for a thousand layers. Without it,
        a certificate that rests on an enumeration is not accepted, and `bound` is the Lagrangian
        bound.
    max_work
        Largest number of table entries and sums to process; a proof that needs more is not
        accepted.

    Raises
    ------
    InputError
        If the problem is not a `Problem`, the certificate not a `Certificate`, or a budget is not
        valid. A wrong claim in a certificate is a failure, not an error.
    """
    if not isinstance(problem, Problem):
        raise InputError(f"problem is {type_of(problem)}; give the aiq.solver.Problem")
    if type(certificate) is not Certificate:
        kind = type(certificate).__name__
        raise InputError(f"certificate is a {kind}; give the certificate of a Solution")
    if minimize not in MEASURES:
        raise InputError(f"cannot minimise {minimize!r}; use cost, drop or size")
    limits = fixed_limits(problem, max_cost, max_drop, max_size)
    fault = malformed(problem, certificate)
    if fault is not None:
        return Check(False, (f"{fault}.",), None, None)
    failures = []
    if certificate.minimize != minimize:
        failures.append(f"it minimises the {certificate.minimize}, not the {minimize}.")
    for name, stated, limit in zip(MEASURES, certificate.limits, limits, strict=True):
        if stated != limit:
            failures.append(f"its {name} budget is {stated}, not {limit} as asked.")
    if failures:
        return Check(False, tuple(failures), None, None)
    tables = IntegerTables(problem, MEASURES.index(minimize), limits)
    values = tables.evaluate(certificate.choices) if certificate.choices else None
    failures = _plan_failures(certificate, values, tables.objective)
    claim = EVERYTHING if certificate.status == "infeasible" else certificate.bound
    if claim is None:
        if certificate.proof:
            failures.append("it has a proof, but no bound that this could prove.")
        return Check(not failures, tuple(failures), values, None)
    proved = -EVERYTHING
    try:
        proved = _verify(tables, certificate.proof, claim, replay, Effort(max_work))
    except TooMuchError:
        failures.append(f"the proof needs more than {max_work} steps; allow more with max_work.")
    if proved < claim:
        said = "that there is no plan" if claim == EVERYTHING else f"the bound {claim}"
        failures.append(f"{said} is not proved, only the bound {proved}.")
    return Check(not failures, tuple(failures), values, proved)


def _plan_failures(
    certificate: Certificate, values: tuple[int, int, int] | None, at: int
) -> list[str]:
    """Return the failures of the plan, and of what the status claims about it."""
    failures: list[str] = []
    status, bound = certificate.status, certificate.bound
    if certificate.values != (values or (0, 0, 0)):
        failures.append(f"the plan measures {values}, not {certificate.values}.")
    if values is None:
        if status in {"optimal", "heuristic"}:
            failures.append(f"{status}, but there is no plan.")
        if status == "infeasible" and bound is not None:
            failures.append("infeasible, but there is a bound.")
        return failures
    for name, value, limit in zip(MEASURES, values, certificate.limits, strict=True):
        if limit is not None and value > limit:
            failures.append(f"the plan's {name} is {value}, above its budget {limit}.")
    if status == "infeasible":
        failures.append("infeasible, but there is a plan.")
    elif status == "optimal" and bound != values[at]:
        failures.append(f"optimal, but the bound {bound} is not {values[at]}.")
    elif bound is not None and bound > values[at]:
        failures.append(f"the bound {bound} is above the plan's {values[at]}.")
    return failures


def _verify(
    tables: IntegerTables, proofs: tuple[Proof, ...], claim: int, replay: bool, effort: Effort
) -> int:
    """Return the lower bound that the branching tree proves, at most `claim`.

    The proofs must be a tree, so that each subproblem is visited at most once.
    """
    if not proofs:
        return -EVERYTHING
    everything = [list(range(tables.count(i))) for i in range(tables.layers)]
    limits = reachable_limits(tables)
    congruence = Congruence(tables, limits)
    pending = [(0, everything)]
    proved = claim
    while pending:
        at, domain = pending.pop()
        proof = proofs[at]
        weights = tables.pick(proof.weights)
        relaxation = Relaxation(tables, domain, weights, effort)
        slack = relaxation.least - dot(weights[1:], limits)
        if weights[0] == 0:
            if slack > 0:
                continue  # no plan of this subproblem is within the budgets
            bound = -EVERYTHING
        else:
            bound = congruence.up(-((-slack) // weights[0]), weights)
        if bound >= claim:
            continue
        # An excess of this size or more shows that a plan is not cheaper than the claim.
        below = congruence.down(claim - 1, weights)
        gap = weights[0] * below - slack + 1 if weights[0] else UNLIMITED
        keep = [
            [x for x in domain[v] if relaxation.marginals[v][x] - relaxation.least < gap]
            for v in range(tables.layers)
        ]
        if any(not choices for choices in keep):
            continue
        if proof.closed == "branched":
            v, choice = proof.layer, proof.choice
            for child, side in (
                (proof.equal, [x for x in keep[v] if x == choice]),
                (proof.other, [x for x in keep[v] if x != choice]),
            ):
                if side:
                    pending.append((child, [*keep[:v], side, *keep[v + 1 :]]))
        elif replay and proof.closed == "enumerated":
            least = least_objective(tables, keep, (weights, below), limits, effort)
            proved = proved if least is None else min(proved, least)
        else:
            proved = min(proved, bound)
    return proved
