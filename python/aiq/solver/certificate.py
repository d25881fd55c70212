"""What proves a solution, and an independent checker in plain Python integers."""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import product

from aiq.solver.problem import Problem


@dataclass(frozen=True, slots=True)
class Proof:
    """One subproblem of the branching tree.

    Attributes
    ----------
    weights
        Multipliers of cost, loss and size: non-negative integers.
    closed
        ``bound``, ``enumerated``, ``infeasible``, ``branched`` or ``open``.
    layer, choice
        If branched: the first side has this choice at this layer, the second all others.
    equal, other
        If branched: the two sides, as positions in the list of proofs.
    """

    weights: tuple[int, int, int]
    closed: str
    layer: int = 0
    choice: int = 0
    equal: int = 0
    other: int = 0


@dataclass(frozen=True, slots=True)
class Certificate:
    """A claim about a problem, and what lets a checker verify it. All numbers are fixed-point.

    Attributes
    ----------
    status
        As in the solution.
    minimize
        The objective: ``cost``, ``loss`` or ``size``.
    limits
        Largest allowed cost, loss and size; None is no budget.
    choices
        The plan; empty if there is none.
    values
        Cost, loss and size of the plan.
    bound
        Proved lower bound on the objective.
    proof
        The branching tree, root first.
    """

    status: str
    minimize: str
    limits: tuple[int | None, int | None, int | None]
    choices: tuple[int, ...]
    values: tuple[int, int, int]
    bound: int | None
    proof: tuple[Proof, ...]


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
    tables = _Tables(problem, certificate)
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
        claim = _EVERYTHING
    if claim is None or not certificate.proof:
        return Check(not failures, tuple(failures), values, None)
    proved = _verify(tables, certificate.proof, claim, replay)
    if proved < claim and (replay or certificate.status == "heuristic"):
        failures.append(f"only {proved} is proved, less than the claimed bound {claim}")
    return Check(not failures, tuple(failures), values, min(proved, claim))


_EVERYTHING = 2**62
"""More than any objective: a bound this high says that there is no plan."""

_Domain = list[list[int]]
_Point = tuple[int, ...]


class _Tables:
    """The objective and the limited measures of a problem, as plain lists."""

    def __init__(self, problem: Problem, certificate: Certificate) -> None:
        self.objective = ("cost", "loss", "size").index(certificate.minimize)
        self.measures = [self.objective] + [
            m for m in range(3) if certificate.limits[m] is not None
        ]
        self.limits = [b for b in certificate.limits if b is not None]
        self.all_measures = problem.core.tables()
        self.offsets = [0]
        for count in problem.n_choices:
            self.offsets.append(self.offsets[-1] + count)
        self.raw_edges = problem.core.edges()
        self.layers = problem.n_layers
        # matrices by (u, v), u < v, each entry a point
        self.edges: dict[tuple[int, int], dict[tuple[int, int], _Point]] = {}
        self.neighbours: list[set[int]] = [set() for _ in range(self.layers)]
        for u, v, cost, loss in self.raw_edges:
            columns = self.count(v)
            matrix = self.edges.setdefault((min(u, v), max(u, v)), {})
            for at, value in enumerate(cost):
                triple = (value, loss[at] if loss else 0, 0)
                point = tuple(triple[m] for m in self.measures)
                a, b = divmod(at, columns)
                key = (a, b) if u < v else (b, a)
                matrix[key] = _add(matrix[key], point) if key in matrix else point
            self.neighbours[u].add(v)
            self.neighbours[v].add(u)

    def count(self, layer: int) -> int:
        return self.offsets[layer + 1] - self.offsets[layer]

    def is_plan(self, choices: tuple[int, ...]) -> bool:
        return len(choices) == self.layers and all(
            0 <= c < self.count(i) for i, c in enumerate(choices)
        )

    def evaluate(self, choices: tuple[int, ...]) -> tuple[int, int, int]:
        total = [0, 0, 0]
        for i, c in enumerate(choices):
            for m, table in enumerate(self.all_measures):
                total[m] += table[self.offsets[i] + c] if table else 0
        for u, v, cost, loss in self.raw_edges:
            at = choices[u] * self.count(v) + choices[v]
            total[0] += cost[at]
            total[1] += loss[at] if loss else 0
        return (total[0], total[1], total[2])

    def node(self, layer: int, choice: int) -> _Point:
        at = self.offsets[layer] + choice
        tables = self.all_measures
        return tuple(tables[m][at] if tables[m] else 0 for m in self.measures)

    def pair(self, u: int, a: int, v: int, b: int) -> _Point:
        return self.edges[u, v][a, b] if u < v else self.edges[v, u][b, a]

    def pick(self, weights: tuple[int, int, int]) -> _Point:
        return tuple(weights[m] for m in self.measures)


def _add(a: _Point, b: _Point) -> _Point:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _dot(a: _Point, b: _Point) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


class _Relaxation:
    """Least weighted sums over all plans of a domain, by eliminating layer after layer."""

    def __init__(self, tables: _Tables, domain: _Domain, weights: _Point) -> None:
        self.tables, self.domain, self.weights = tables, domain, weights
        self.order, self.separator = _eliminate(tables.neighbours)
        self.position = {v: i for i, v in enumerate(self.order)}
        self.children: list[list[int]] = [[] for _ in self.order]
        self.up: list[dict[_Point, int]] = [{} for _ in self.order]
        self.least = 0
        for v in self.order:
            for s in self.rows(v):
                self.up[v][s] = min(self.joint(v, s, x) for x in domain[v])
            if self.separator[v]:
                self.children[self.separator[v][0]].append(v)
            else:
                self.least += self.up[v][()]
        self.down: list[dict[_Point, int]] = [{} for _ in self.order]
        self.marginals: list[dict[int, int]] = [{} for _ in self.order]
        for v in reversed(self.order):
            self._descend(v)

    def rows(self, v: int) -> Iterator[_Point]:
        return product(*(self.domain[s] for s in self.separator[v]))

    def own(self, v: int, s: _Point, x: int) -> _Point:
        """Sum the layer and its edges to the separator."""
        point = self.tables.node(v, x)
        for u, a in zip(self.separator[v], s, strict=True):
            if u in self.tables.neighbours[v]:
                point = _add(point, self.tables.pair(v, x, u, a))
        return point

    def keys(self, v: int, s: _Point, x: int) -> Iterator[tuple[int, _Point]]:
        """Name the children's entries that belong to a row and a choice."""
        known = dict(zip(self.separator[v], s, strict=True))
        known[v] = x
        for child in self.children[v]:
            yield child, tuple(known[u] for u in self.separator[child])

    def joint(self, v: int, s: _Point, x: int) -> int:
        below = sum(self.up[child][key] for child, key in self.keys(v, s, x))
        return _dot(self.weights, self.own(v, s, x)) + below

    def _descend(self, v: int) -> None:
        if not self.separator[v]:
            self.down[v][()] = self.least - self.up[v][()]
        marginals = dict.fromkeys(self.domain[v], _EVERYTHING**2)
        for s in self.rows(v):
            for x in self.domain[v]:
                total = self.joint(v, s, x) + self.down[v][s]
                marginals[x] = min(marginals[x], total)
                for child, key in self.keys(v, s, x):
                    rest = total - self.up[child][key]
                    self.down[child][key] = min(self.down[child].get(key, rest), rest)
        self.marginals[v] = marginals


def _eliminate(neighbours: list[set[int]]) -> tuple[list[int], list[list[int]]]:
    """Least degree first; returns the order and each layer's later neighbours in that order."""
    around = [set(n) for n in neighbours]
    heap = [(len(n), v) for v, n in enumerate(around)]
    heapify(heap)
    done = [False] * len(around)
    order: list[int] = []
    while heap:
        degree, v = heappop(heap)
        if done[v] or degree != len(around[v]):
            continue
        done[v] = True
        order.append(v)
        for u in around[v]:
            around[u] |= around[v]
            around[u] -= {u, v}
            heappush(heap, (len(around[u]), u))
    position = {v: i for i, v in enumerate(order)}
    return order, [sorted(around[v], key=position.__getitem__) for v in range(len(around))]


def _verify(tables: _Tables, proofs: tuple[Proof, ...], claim: int, replay: bool) -> int:
    """Prove a bound by the branching tree, at most `claim`."""
    everything = [list(range(tables.count(i))) for i in range(tables.layers)]
    pending = [(0, everything)]
    proved = claim
    while pending:
        at, domain = pending.pop()
        proof = proofs[at]
        weights = tables.pick(proof.weights)
        if min(weights) < 0:
            return -_EVERYTHING
        relaxation = _Relaxation(tables, domain, weights)
        slack = relaxation.least - _dot(weights[1:], tuple(tables.limits))
        if weights[0] == 0:
            if slack > 0:
                continue  # no plan of this subproblem is within the budgets
            bound = -_EVERYTHING
        else:
            bound = -((-slack) // weights[0])
        if bound >= claim:
            continue
        # excess from which on a plan cannot be cheaper than the claim
        gap = weights[0] * (claim - 1) - slack + 1 if weights[0] else _EVERYTHING**2
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
            proved = min(proved, _enumerate(tables, keep, weights, claim))
        else:
            proved = min(proved, bound)
    return proved


def _enumerate(tables: _Tables, domain: _Domain, weights: _Point, claim: int) -> int:
    """Find the least objective within the budgets over a domain, at most `claim`.

    Labels (sums of points) run through the elimination like the least sums do; those whose
    weighted sum cannot belong to a plan cheaper than `claim` are dropped, and so are dominated
    ones.
    """
    relaxation = _Relaxation(tables, domain, weights)
    slack = relaxation.least - _dot(weights[1:], tuple(tables.limits))
    gap = weights[0] * (claim - 1) - slack + 1 if weights[0] else _EVERYTHING**2
    labels: list[dict[_Point, list[_Point]]] = [{} for _ in relaxation.order]
    roots = []
    for v in relaxation.order:
        for s in relaxation.rows(v):
            found: list[_Point] = []
            for x in domain[v]:
                partial = [relaxation.own(v, s, x)]
                base = _dot(weights, partial[0])
                rest = relaxation.joint(v, s, x) - base + relaxation.down[v][s] - relaxation.least
                for child, key in relaxation.keys(v, s, x):
                    rest -= relaxation.up[child][key]
                    joined = [_add(p, q) for p in partial for q in labels[child][key]]
                    partial = _undominated(p for p in joined if _dot(weights, p) + rest < gap)
                found += partial
            labels[v][s] = _undominated(
                p
                for p in found
                if _dot(weights, p) + relaxation.down[v][s] - relaxation.least < gap
            )
        for child in relaxation.children[v]:
            labels[child] = {}
        if not relaxation.separator[v]:
            roots.append((relaxation.up[v][()], labels[v][()]))

    # components whose second option is closest to the first go first
    def leaving(root: tuple[int, list[_Point]]) -> int:
        excess = sorted(_dot(weights, p) - root[0] for p in root[1])
        return excess[1] if len(excess) > 1 else _EVERYTHING**2

    states = [tuple(0 for _ in tables.measures)]
    rest = relaxation.least
    for least, options in sorted(roots, key=leaving):
        rest -= least
        sums = (_add(p, q) for p in states for q in options)
        states = _undominated(p for p in sums if _dot(weights, p) + rest - relaxation.least < gap)
    fits = [p[0] for p in states if all(u <= b for u, b in zip(p[1:], tables.limits, strict=True))]
    return min([claim, *fits])


def _undominated(points: Iterator[_Point]) -> list[_Point]:
    """Points that no other is at most as large as, in every coordinate."""
    kept: list[_Point] = []
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
