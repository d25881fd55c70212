"""Enumeration, in plain Python integers, of the plans that a bound does not exclude."""

from collections.abc import Iterable

from aiq.solver.relaxation import (
    UNLIMITED,
    Domain,
    Effort,
    IntegerTables,
    Point,
    Relaxation,
    add,
    dot,
)


def least_objective(
    tables: IntegerTables, domain: Domain, scope: tuple[Point, int], limits: Point, effort: Effort
) -> int | None:
    """Return the smallest objective of a domain's plans within the limits; None without a plan.

    Labels (sums of points) pass through the elimination like the least sums do. A label is dropped
    if it is dominated, or if its weighted sum excludes every plan of interest.

    Parameters
    ----------
    tables, domain
        The layers, and the choices that each still has.
    scope
        Weights of the objective and the limited measures, and the largest objective of interest in
        a plan that uses up its budgets.
    limits
        Limits of the limited measures.
    effort
        Limit on the work of the enumeration.
    """
    weights, below = scope
    relaxation = Relaxation(tables, domain, weights, effort)
    slack = relaxation.least - dot(weights[1:], limits)
    gap = weights[0] * below - slack + 1 if weights[0] else UNLIMITED
    roots = _components(relaxation, gap, effort)

    # Components whose second option is closest to the first come first.
    def leaving(root: tuple[int, list[Point]]) -> int:
        excess = sorted(dot(weights, p) - root[0] for p in root[1])
        return excess[1] if len(excess) > 1 else UNLIMITED

    states = [tuple(0 for _ in tables.measures)]
    rest = relaxation.least
    for least, options in sorted(roots, key=leaving):
        rest -= least
        effort.spend(len(states) * len(options))
        sums = (add(p, q) for p in states for q in options)
        states = _undominated(p for p in sums if dot(weights, p) + rest - relaxation.least < gap)
    fits = (p[0] for p in states if all(u <= b for u, b in zip(p[1:], limits, strict=True)))
    return min(fits, default=None)


def _components(relaxation: Relaxation, gap: int, effort: Effort) -> list[tuple[int, list[Point]]]:
    """Return the least weighted sum and the labels of every connected component."""
    weights, domain = relaxation.weights, relaxation.domain
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
                    effort.spend(len(partial) * len(labels[child][key]))
                    joined = (add(p, q) for p in partial for q in labels[child][key])
                    partial = _undominated(p for p in joined if dot(weights, p) + rest < gap)
                found += partial
            labels[v][s] = _undominated(
                p for p in found if dot(weights, p) + relaxation.down[v][s] - relaxation.least < gap
            )
        for child in relaxation.children[v]:
            labels[child] = {}
        if not relaxation.separator[v]:
            roots.append((relaxation.up[v][()], labels[v][()]))
    return roots


def _undominated(points: Iterable[Point]) -> list[Point]:
    """Return the points that no other is at most as large as, in every coordinate."""
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
