"""An independent checker of certificates, in plain Python integers.

It shares no code with the solver: what the solver computes in Rust is computed here once more.
"""

from dataclasses import dataclass

from aiq.errors import InputError
from aiq.solver.certificate import Certificate, Proof
from aiq.solver.congruence import Congruence, usable
from aiq.solver.labels import least_objective
from aiq.solver.problem import Number, Problem
from aiq.solver.relaxation import (
    EVERYTHING,
    UNLIMITED,
    Effort,
    Relaxation,
    Tables,
    TooMuchError,
    dot,
)
from aiq.solver.solve import fixed_limits
from aiq.solver.wellformed import MEASURES, malformed

MAX_WORK = 50_000_000
"""Table entries and sums that are looked at by default: about a minute."""


@dataclass(frozen=True, slots=True)
class Check:
    """What the checker found out by itself.

    Attributes
    ----------
    ok
        Whether every claim of the certificate is proved.
    failures
        One sentence for every claim that is not.
    values
        Recomputed cost, loss and size of the plan; None without a plan.
    bound
        Lower bound on the objective that the checker proved, at most the claimed one; None if
        nothing was claimed or the certificate is malformed. ``2**62`` says that there is no plan.
    """

    ok: bool
    failures: tuple[str, ...]
    values: tuple[int, int, int] | None
    bound: int | None


def check(
    problem: Problem,
    certificate: Certificate,
    max_loss: Number | None = None,
    max_size: Number | None = None,
    minimize: str = "cost",
    *,
    max_cost: Number | None = None,
    replay: bool = True,
    max_work: int = MAX_WORK,
) -> Check:
    """Verify a certificate without the solver: feasibility, objective, and lower bound.

    The question is the caller's: problem, budgets and objective as they were given to `solve`. A
    certificate that answers another one is not accepted. Bounds are recomputed by a dynamic
    program per subproblem, and subproblems that the solver closed by enumeration are enumerated
    again.

    A certificate proves what its status says: ``optimal`` that no plan within the budgets is
    better, ``infeasible`` that there is none. The others prove their plan, if there is one, and
    their bound, if there is one.

    Parameters
    ----------
    problem
        The tables the certificate speaks of.
    certificate
        From a solution of that problem, or from a stranger.
    max_loss, max_size, max_cost, minimize
        As given to `solve`.
    replay
        Whether to enumerate; plain Python, so seconds for a thousand layers. Without it, a
        certificate that rests on an enumeration is not accepted, and `bound` is what the
        Lagrangian bounds prove alone.
    max_work
        Table entries and sums to look at; a proof that needs more is not accepted.

    Raises
    ------
    InputError
        If the problem is no `Problem`, the certificate no `Certificate`, or a budget is bad. What
        is wrong inside a certificate is a failure instead.
    """
    if not isinstance(problem, Problem):
        raise InputError(f"problem is a {type(problem).__name__}; give the aiq.solver.Problem")
    if type(certificate) is not Certificate:
        kind = type(certificate).__name__
        raise InputError(f"certificate is a {kind}; give the certificate of a Solution")
    if minimize not in MEASURES:
        raise InputError(f"cannot minimise {minimize!r}; use cost, loss or size")
    limits = fixed_limits(problem, max_cost, max_loss, max_size)
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
    tables = Tables(problem, MEASURES.index(minimize), limits)
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
    """List what is wrong with the plan, and with what the status says of it."""
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
    tables: Tables, proofs: tuple[Proof, ...], claim: int, replay: bool, effort: Effort
) -> int:
    """Prove a bound by the branching tree, at most `claim`.

    The proofs must be a tree, so that each subproblem is visited at most once.
    """
    if not proofs:
        return -EVERYTHING
    everything = [list(range(tables.count(i))) for i in range(tables.layers)]
    limits = usable(tables)
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
        # excess from which on a plan cannot be cheaper than the claim
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
