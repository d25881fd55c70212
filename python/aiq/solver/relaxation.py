"""The Lagrangian relaxation in plain Python integers, which the checker recomputes."""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import product
from math import prod

from aiq.solver.problem import Problem

EVERYTHING = 2**62
"""A number above any objective; as a bound it means that there is no plan."""

UNLIMITED = EVERYTHING**4
"""A number above any weighted sum."""

Domain = list[list[int]]
Point = tuple[int, ...]


class IntegerTables:
    """The objective and the limited measures of a problem, as plain lists."""

    def __init__(self, problem: Problem, objective: int, limits: tuple[int | None, ...]) -> None:
        self.objective = objective
        self.measures = [objective] + [m for m in range(3) if limits[m] is not None]
        self.limits = tuple(b for b in limits if b is not None)
        self.all_measures = problem.core.tables()
        self.offsets = [0]
        for count in problem.n_choices:
            self.offsets.append(self.offsets[-1] + count)
        self.raw_edges = problem.core.edges()
        self.layers = problem.n_layers
        # Matrices by (u, v), u < v; each entry is a point.
        self.edges: dict[tuple[int, int], dict[tuple[int, int], Point]] = {}
        self.neighbours: list[set[int]] = [set() for _ in range(self.layers)]
        for u, v, cost, drop in self.raw_edges:
            columns = self.count(v)
            matrix = self.edges.setdefault((min(u, v), max(u, v)), {})
            for at, value in enumerate(cost):
                triple = (value, drop[at] if drop else 0, 0)
                point = tuple(triple[m] for m in self.measures)
                a, b = divmod(at, columns)
                key = (a, b) if u < v else (b, a)
                matrix[key] = add(matrix[key], point) if key in matrix else point
            self.neighbours[u].add(v)
            self.neighbours[v].add(u)
        self.order, self.separator = eliminate(self.neighbours)

    def count(self, layer: int) -> int:
        """Return the number of choices of a layer."""
        return self.offsets[layer + 1] - self.offsets[layer]

    def evaluate(self, choices: tuple[int, ...]) -> tuple[int, int, int]:
        """Return cost, drop and size of a plan."""
        total = [0, 0, 0]
        for i, c in enumerate(choices):
            for m, table in enumerate(self.all_measures):
                total[m] += table[self.offsets[i] + c] if table else 0
        for u, v, cost, drop in self.raw_edges:
            at = choices[u] * self.count(v) + choices[v]
            total[0] += cost[at]
            total[1] += drop[at] if drop else 0
        return (total[0], total[1], total[2])

    def node(self, layer: int, choice: int) -> Point:
        """Return the point of one choice."""
        at = self.offsets[layer] + choice
        tables = self.all_measures
        return tuple(tables[m][at] if tables[m] else 0 for m in self.measures)

    def points(self) -> Iterator[list[Point]]:
        """Yield the points of every layer and of every edge."""
        for layer in range(self.layers):
            yield [self.node(layer, choice) for choice in range(self.count(layer))]
        for matrix in self.edges.values():
            yield list(matrix.values())

    def pair(self, u: int, a: int, v: int, b: int) -> Point:
        """Return the point of an edge for the choices of its two layers."""
        return self.edges[u, v][a, b] if u < v else self.edges[v, u][b, a]

    def pick(self, weights: tuple[int, int, int]) -> Point:
        """Return the weights of the measures that points have, in their order."""
        return tuple(weights[m] for m in self.measures)


def add(a: Point, b: Point) -> Point:
    """Add two points."""
    return tuple(x + y for x, y in zip(a, b, strict=True))


def dot(a: Point, b: Point) -> int:
    """Return the weighted sum of a point."""
    return sum(x * y for x, y in zip(a, b, strict=True))


class TooMuchError(Exception):
    """A proof needs more steps than the checker may take."""


class Effort:
    """Counts the steps that the checker may still take."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def spend(self, steps: int) -> None:
        """Subtract steps before they are taken, so that no proof can take more.

        Raises
        ------
        TooMuchError
            If there are not enough steps left.
        """
        self._left -= steps
        if self._left < 0:
            raise TooMuchError


class Relaxation:
    """Least weighted sums over all plans of a domain, by eliminating layer after layer."""

    def __init__(
        self, tables: IntegerTables, domain: Domain, weights: Point, effort: Effort
    ) -> None:
        self.tables, self.domain, self.weights = tables, domain, weights
        self.order, self.separator = tables.order, tables.separator
        for v in self.order:
            effort.spend(prod(len(domain[s]) for s in (v, *self.separator[v])))
        self.children: list[list[int]] = [[] for _ in self.order]
        self.up: list[dict[Point, int]] = [{} for _ in self.order]
        self.least = 0
        for v in self.order:
            for s in self.rows(v):
                self.up[v][s] = min(self.joint(v, s, x) for x in domain[v])
            if self.separator[v]:
                self.children[self.separator[v][0]].append(v)
            else:
                self.least += self.up[v][()]
        self.down: list[dict[Point, int]] = [{} for _ in self.order]
        self.marginals: list[dict[int, int]] = [{} for _ in self.order]
        for v in reversed(self.order):
            self._descend(v)

    def rows(self, v: int) -> Iterator[Point]:
        """Yield the choices of the layers that separate a layer from the later ones."""
        return product(*(self.domain[s] for s in self.separator[v]))

    def own(self, v: int, s: Point, x: int) -> Point:
        """Return the sum of the layer's point and those of its edges to the separator."""
        point = self.tables.node(v, x)
        for u, a in zip(self.separator[v], s, strict=True):
            if u in self.tables.neighbours[v]:
                point = add(point, self.tables.pair(v, x, u, a))
        return point

    def keys(self, v: int, s: Point, x: int) -> Iterator[tuple[int, Point]]:
        """Yield the entries of children that belong to a row and a choice."""
        known = dict(zip(self.separator[v], s, strict=True))
        known[v] = x
        for child in self.children[v]:
            yield child, tuple(known[u] for u in self.separator[child])

    def joint(self, v: int, s: Point, x: int) -> int:
        """Return the smallest weighted sum of a layer and all layers below it."""
        below = sum(self.up[child][key] for child, key in self.keys(v, s, x))
        return dot(self.weights, self.own(v, s, x)) + below

    def _descend(self, v: int) -> None:
        if not self.separator[v]:
            self.down[v][()] = self.least - self.up[v][()]
        marginals = dict.fromkeys(self.domain[v], UNLIMITED)
        for s in self.rows(v):
            for x in self.domain[v]:
                total = self.joint(v, s, x) + self.down[v][s]
                marginals[x] = min(marginals[x], total)
                for child, key in self.keys(v, s, x):
                    rest = total - self.up[child][key]
                    self.down[child][key] = min(self.down[child].get(key, rest), rest)
        self.marginals[v] = marginals


def eliminate(neighbours: list[set[int]]) -> tuple[list[int], list[list[int]]]:
    """Return an order, smallest degree first, and the later neighbours of each layer in it."""
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
