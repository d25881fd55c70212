"""An independent checker of certificates, in plain Python integers."""

from collections.abc import Iterator
from dataclasses import dataclass

from aiq.solver.certificate import Certificate, Proof
from aiq.solver.congruence import Congruence, usable
from aiq.solver.problem import Problem
from aiq.solver.relaxation import EVERYTHING, Domain, Point, Relaxation, Tables, add, dot


@dataclass(frozen=True, slots=True)
class Check:
    """What the checker found out by itself.

    Attributes
    ----------
    ok
        Whether every claim of the certificate that was checked holds.
    failures
        One sentence for every claim that does not.
    values
        Recomputed cost, loss and size of the plan; None without a plan.
    bound
        Lower bound on the objective that the checker proved; None if the search claimed none.
    """

    ok: bool
    failures: tuple[str, ...]
    values: tuple[int, int, int] | None
    bound: int | None


def check(problem: Problem, certificate: Certificate, replay: bool = True) -> Check:
    """Verify a certificate without the solver: feasibility, objective, and lower bound.

    Bounds are recomputed by a dynamic program per subproblem. Subproblems that the solver closed
    by enumeration are enumerated again, unless `replay` is false: then only their Lagrangian bound
    is verified, and `bound` may be smaller than claimed without that being a failure.

    Parameters
    ----------
    problem
        The tables the certificate speaks of.
    certificate
        From a solution of that problem.
    replay
        Whether to enumerate; plain Python, so seconds for a thousand layers.
    """
    failures = []
    tables = Tables(problem, certificate)
    values = None
    if certificate.choices:
        if not tables.is_plan(certificate.choices):
            return Check(False, ("the plan does not fit the layers",), None, None)
        values = tables.evaluate(certificate.choices)
        if values != certificate.values:
            failures.append(f"the plan measures {values}, not {certificate.values}")
        for name, value, limit in zip(
            ("cost", "loss", "size"), values, certificate.limits, strict=True
        ):
            if limit is not None and value > limit:
                failures.append(f"the plan's {name} is {value}, above its budget {limit}")
        objective = values[tables.objective]
        if certificate.status == "optimal" and certificate.bound != objective:
            failures.append(f"optimal, but the bound {certificate.bound} is not {objective}")
    elif certificate.status == "optimal":
        failures.append("optimal, but there is no plan")
    claim = certificate.bound
    if certificate.status == "infeasible":
        claim = EVERYTHING
    if claim is None or not certificate.proof:
        return Check(not failures, tuple(failures), values, None)
    proved = _verify(tables, certificate.proof, claim, replay)
    if proved < claim and (replay or certificate.status == "heuristic"):
        failures.append(f"only {proved} is proved, less than the claimed bound {claim}")
    return Check(not failures, tuple(failures), values, min(proved, claim))


def _verify(tables: Tables, proofs: tuple[Proof, ...], claim: int, replay: bool) -> int:
    """Prove a bound by the branching tree, at most `claim`."""
    everything = [list(range(tables.count(i))) for i in range(tables.layers)]
    tables.limits = usable(tables)
    congruence = Congruence(tables)
    pending = [(0, everything)]
    proved = claim
    while pending:
        at, domain = pending.pop()
        proof = proofs[at]
        weights = tables.pick(proof.weights)
        if min(weights) < 0:
            return -EVERYTHING
        relaxation = Relaxation(tables, domain, weights)
        slack = relaxation.least - dot(weights[1:], tuple(tables.limits))
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
        gap = weights[0] * below - slack + 1 if weights[0] else EVERYTHING**2
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
            proved = min(proved, _enumerate(tables, keep, weights, claim, below))
        else:
            proved = min(proved, bound)
    return proved


def _enumerate(tables: Tables, domain: Domain, weights: Point, claim: int, below: int) -> int:
    """Find the least objective within the budgets over a domain, at most `claim`.

    Labels (sums of points) run through the elimination like the least sums do; those whose
    weighted sum cannot belong to a plan that costs at most `below`, with the budgets used up, are
    dropped, and so are dominated ones.
    """
    relaxation = Relaxation(tables, domain, weights)
    slack = relaxation.least - dot(weights[1:], tuple(tables.limits))
    gap = weights[0] * below - slack + 1 if weights[0] else EVERYTHING**2
    labels: list[dict[Point, list[Point]]] = [{} for _ in relaxation.order]
    roots = []
    for v in relaxation.order:
        for s in relaxation.rows(v):
            found: list[Point] = []
            for x in domain[v]:
                partial = [relaxation.own(v, s, x)]
                base = dot(weights, partial[0])
                rest = relaxation.joint(v, s, x) - base + relaxation.down[v][s] - relaxation.least
                for child, key in relaxation.keys(v, s, x):
                    rest -= relaxation.up[child][key]
                    joined = [add(p, q) for p in partial for q in labels[child][key]]
                    partial = _undominated(p for p in joined if dot(weights, p) + rest < gap)
                found += partial
            labels[v][s] = _undominated(
                p for p in found if dot(weights, p) + relaxation.down[v][s] - relaxation.least < gap
            )
        for child in relaxation.children[v]:
            labels[child] = {}
        if not relaxation.separator[v]:
            roots.append((relaxation.up[v][()], labels[v][()]))

    # components whose second option is closest to the first go first
    def leaving(root: tuple[int, list[Point]]) -> int:
        excess = sorted(dot(weights, p) - root[0] for p in root[1])
        return excess[1] if len(excess) > 1 else EVERYTHING**2

    states = [tuple(0 for _ in tables.measures)]
    rest = relaxation.least
    for least, options in sorted(roots, key=leaving):
        rest -= least
        sums = (add(p, q) for p in states for q in options)
        states = _undominated(p for p in sums if dot(weights, p) + rest - relaxation.least < gap)
    fits = [p[0] for p in states if all(u <= b for u, b in zip(p[1:], tables.limits, strict=True))]
    return min([claim, *fits])


def _undominated(points: Iterator[Point]) -> list[Point]:
    """Points that no other is at most as large as, in every coordinate."""
    kept: list[Point] = []
    best: dict[int, int] = {}
    for point in sorted(points, key=lambda p: (p[1:], p[0])):
        if len(point) < 3:
            if not kept or point[0] < kept[-1][0]:
                kept.append(point)
        elif not any(b <= point[2] and c <= point[0] for b, c in best.items()):
            best = {b: c for b, c in best.items() if b < point[2] or c < point[0]}
            best[point[2]] = point[0]
            kept.append(point)
    return kept
