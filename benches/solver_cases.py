"""Problems on which the solver is timed and checked.

They are networks with sizes, costs and drops like those of quantised layers, and Pisinger's
classes.
"""

import math
from dataclasses import dataclass

import numpy as np

from aiq.solver import Problem, solve

LOSS_RANGE = 10**9
# (weight bits, activation bits, group-wise scales) of each choice
FORMATS = {
    4: [(16, 16, 0), (8, 8, 0), (4, 8, 0), (4, 4, 0)],
    6: [(16, 16, 0), (8, 16, 0), (8, 8, 0), (4, 16, 0), (4, 8, 0), (4, 4, 0)],
    8: [
        *[(16, 16, 0), (8, 16, 0), (8, 8, 0), (6, 8, 0)],
        *[(4, 16, 1), (4, 8, 1), (4, 8, 0), (4, 4, 0)],
    ],
}


@dataclass
class Case:
    """One problem: tables of shape (layers, choices), edges, budgets."""

    cost: np.ndarray
    drop: np.ndarray
    size: np.ndarray | None
    edges: list
    max_drop: int
    max_size: int | None = None

    def evaluate(self, x):
        i = np.arange(len(x))
        cost, drop = int(self.cost[i, x].sum()), int(self.drop[i, x].sum())
        for u, v, edge_cost, edge_drop in self.edges:
            cost += int(edge_cost[x[u], x[v]])
            drop += int(edge_drop[x[u], x[v]])
        size = 0 if self.size is None else int(self.size[i, x].sum())
        return cost, drop, size

    def fits(self, x):
        _, drop, size = self.evaluate(x)
        return drop <= self.max_drop and (self.max_size is None or size <= self.max_size)


def edge_list(graph, layers):
    """Which layers are joined.

    ``none``, ``chain``, or ``residual`` (blocks of three layers and an addition that also reads the
    block's input: treewidth 2). ``encoder-decoder``: a chain, then decoder blocks of two layers and
    an addition, each of which also reads the end of the chain (treewidth 3). ``concat``: every
    second layer is a concatenation of the layer before and the previous concatenation, which all
    later layers read (treewidth 2).
    """
    chain = [(i, i + 1) for i in range(layers - 1)]
    match graph:
        case "none":
            return []
        case "chain":
            return chain
        case "residual":
            starts = range(0, layers - 4, 4)
            return [pair for s in starts for pair in [*chain[s : s + 4], (s, s + 4)]]
        case "encoder-decoder":
            half = layers // 2
            starts = range(half, layers - 2, 2)
            reads = [(half - 1, i) for i in range(half + 1, layers)]
            return chain + reads + [(s, s + 2) for s in starts]
        case "concat":
            return chain + [(i, i + 2) for i in range(1, layers - 2, 2)]
    raise ValueError(f"unknown graph {graph}")


def network(layers, choices, seed, kind="cnn", graph="none", minimize="bytes"):
    """A network's tables: ``cnn`` layers differ, ``llm`` repeats seven matrix shapes.

    graph: see `edge_list`.
    """
    r = np.random.default_rng([seed, layers, choices, len(kind)])
    w, a, grouped = np.array(FORMATS[choices], float).T
    if kind == "cnn":
        params = np.exp(r.normal(np.log(6e5), 1.2, layers)).astype(np.int64) + 500
        acts = np.exp(r.normal(np.log(3e5), 0.9, layers)).astype(np.int64) + 500
        flops = 2 * params * np.exp(r.normal(np.log(200), 1.0, layers))
    else:
        d, f, kv, tokens = 4096, 14336, 1024, 128
        shapes = [(d, d), (d, kv), (d, kv), (d, d), (d, f), (d, f), (f, d)]
        params = np.array([math.prod(shapes[i % 7]) for i in range(layers)])
        acts = np.array([tokens * shapes[i % 7][0] for i in range(layers)])
        flops = 2.0 * params * tokens
    size = params[:, None] * (w + 0.125 * grouped) / 8
    moved = size + acts[:, None] * a / 8
    sw, sa = np.exp(r.normal(0, 1.0, layers)), np.exp(r.normal(0, 1.0, layers))
    drop = (params * sw)[:, None] * 4.0**-w * np.where(grouped > 0, 0.45, 1.0)
    drop += 0.3 * (acts * sa)[:, None] * 4.0**-a
    drop *= np.exp(r.normal(0, 0.1, drop.shape))
    drop *= LOSS_RANGE / (drop.max(1).sum() - drop.min(1).sum())
    drop = np.rint(drop).astype(np.int64)
    peak = 400e12 / np.maximum(w, a)
    picoseconds = (np.maximum(flops[:, None] / peak, moved / 1.0e12) + 2e-6) * 1e12
    cost = np.rint(moved if minimize == "bytes" else picoseconds).astype(np.int64)
    pairs = edge_list(graph, layers)
    edges = []
    rho = r.normal(0, 0.15, max(len(pairs), 1))
    differ = a[:, None] != a[None, :]
    for (u, v), strength in zip(pairs, rho, strict=False):
        edge_cost = np.where(differ, 0.25 * acts[u] * (a[:, None] + a[None, :]) / 8 + 1000, 0)
        edge_drop = strength * np.sqrt(drop[u, :, None].astype(float) * drop[v])
        edges.append(
            (u, v, np.rint(edge_cost).astype(np.int64), np.rint(edge_drop).astype(np.int64))
        )
    low, high = int(drop.min(1).sum()), int(drop.max(1).sum())
    case = Case(cost, drop, np.rint(size).astype(np.int64), edges, low + (high - low) // 10)
    if minimize == "time":  # second budget: the tightest of these sizes that is feasible
        found = solve(Problem(cost, drop, case.size), max_drop=case.max_drop)
        for share in (0.92, 0.96, 0.98, 0.99, 0.995):
            case.max_size = int(found.size * share)
            least = solve(Problem(cost, drop, case.size), max_drop=case.max_drop, minimize="size")
            if least.size <= case.max_size:
                break
    return case


def pisinger(kind, seed, layers=1000, choices=8, reach=10_000):
    """Pisinger's classes (1995) as minimisation: drop is the weight, cost the profit forgone."""
    r = np.random.default_rng(seed)
    weight = r.integers(1, reach + 1, (layers, choices))
    if kind == "uncorrelated":
        profit = r.integers(1, reach + 1, (layers, choices))
    elif kind == "weakly":
        profit = np.maximum(1, weight + r.integers(-10, 11, (layers, choices)))
    elif kind == "strongly":
        steps = r.integers(1, reach // choices + 1, (layers, choices))
        weight, profit = np.cumsum(steps, 1), np.cumsum(steps + 10, 1)
    elif kind == "subset-sum":
        profit = weight.copy()
    else:  # zig-zag
        weight = np.sort(weight, 1)
        profit = np.sort(r.integers(1, reach + 1, (layers, choices)), 1)
    budget = int((weight.min(1).sum() + weight.max(1).sum()) // 2)
    return Case(profit.max() - profit, weight, None, [], budget)


def hard():
    """Return a problem that takes minutes: two budgets that correlate with the objective."""
    r = np.random.default_rng(1)
    weight, other = np.cumsum(r.integers(1, 10**5, (2, 3000, 8)), 2)
    cost = (weight + other).max() - weight - other + 10 * np.arange(8)[::-1]
    budget = int((weight.min(1).sum() + weight.max(1).sum()) // 2)
    return Problem(cost, weight, other), {"max_drop": budget, "max_size": budget}
