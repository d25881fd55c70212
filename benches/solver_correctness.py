"""Compare the answers of the exact solver with enumeration and with HiGHS.

Enumeration: random problems of up to seven layers, every plan evaluated by NumPy. HiGHS: networks
of up to 224 layers with gap 0. HiGHS works in floating point, so that its plan may exceed a budget
by its tolerance; such a plan must not cost more than ours. Certificates go through the checker.

    python benches/solver_correctness.py    # 6,000 and 320 problems, about five minutes

Exits with 1 if any answer differs. The tests run the first few of the same problems.
"""

import argparse
import collections
import sys
import time

import numpy as np
from common import save
from solver_cases import edge_list, network
from solver_peers import run_highspy

from aiq.solver import Problem, check, solve

GRAPHS = ("none", "chain", "tree", "residual", "encoder-decoder", "concat", "width 3")
VALUES = ("ties", "signed", "large", "correlated", "multiples", "one choice")
BUDGETS = ("none", "inside", "least", "below the least", "greatest", "two", "two, tight")
SIZES = (12, 24, 36, 54, 54, 80, 112, 160, 200, 224)


def pairs(graph, layers, r):
    """The edges of a small graph, in random directions."""
    if graph == "tree":
        found = [(int(r.integers(0, v)), v) for v in range(1, layers)]
    elif graph == "width 3":  # a random part of a 3-tree
        kept = [set(range(min(4, layers)))]
        found = [(u, v) for v in range(1, min(4, layers)) for u in range(v)]
        for v in range(4, layers):
            clique = set(r.permutation(sorted(kept[r.integers(0, len(kept))]))[:3].tolist())
            kept.append(clique | {v})
            found += [(u, v) for u in clique]
        found = [pair for pair in found if r.random() < 0.8]
    else:
        found = edge_list(graph, layers)
    return [(u, v) if r.random() < 0.7 else (v, u) for u, v in found]


def small(seed):
    """A random problem, a budget on drop and one on size, and what makes it special."""
    r = np.random.default_rng([7, seed])
    graph, values = GRAPHS[seed % len(GRAPHS)], VALUES[seed // len(GRAPHS) % len(VALUES)]
    layers = int(r.integers(1, 8))
    n = np.ones(layers, int) if values == "one choice" else r.integers(1, 5, layers)
    low, high = {"ties": (0, 4), "large": (-(1 << 38), 1 << 40)}.get(values, (-4, 25))
    unit = 12 if values == "multiples" else 1
    cost, drop, size = ([unit * r.integers(low, high, k) for k in n] for _ in range(3))
    edges = []
    for u, v in pairs(graph, layers, r):
        shape = (n[u], n[v])
        terms = [unit * r.integers(-(high // 4), high // 3 + 1, shape) for _ in range(2)]
        edges.append((u, v, terms[0], terms[1] * (r.random() < 0.6)))
    if values == "correlated":  # every step of the budget saves ten more than it uses
        steps = [np.cumsum(r.integers(1, 30, k)) for k in n]
        drop, cost = steps, [500 - s - 10 * np.arange(len(s)) for s in steps]
        edges = [(u, v, 10 * e, 0 * f) for u, v, e, f in edges]
    return (graph, values), (cost, drop, size, edges)


def every_plan(cost, drop, size, edges):
    """Cost, drop and size of every plan."""
    grid = np.indices([len(c) for c in cost]).reshape(len(cost), -1)
    totals = [sum(t[i] for t, i in zip(table, grid, strict=True)) for table in (cost, drop, size)]
    for u, v, edge_cost, edge_drop in edges:
        totals[0] = totals[0] + edge_cost[grid[u], grid[v]]
        totals[1] = totals[1] + edge_drop[grid[u], grid[v]]
    return np.array(totals)


def limits(kind, plans, r):
    """Budgets on drop and size of a kind."""
    _, drop, size = plans
    least, greatest = int(drop.min()), int(drop.max())
    tight, loose = (least + int(share * (greatest - least)) for share in (0.1, 0.4))
    return {
        "none": {},
        "inside": {"max_drop": int(r.integers(least, greatest + 1))},
        "least": {"max_drop": least},
        "below the least": {"max_drop": least - 1},
        "greatest": {"max_drop": greatest},
        "two": {"max_drop": loose, "max_size": int(np.median(size))},
        "two, tight": {"max_drop": tight, "max_size": int(np.quantile(size, 0.3))},
    }[kind]


def against_enumeration(seed):
    """Return the differences from enumeration in words, and the class of the problem."""
    kind, tables = small(seed)
    cost, drop, size, edges = tables
    plans = every_plan(*tables)
    r = np.random.default_rng([8, seed])
    budgets = limits(BUDGETS[seed % len(BUDGETS) - seed // 7 % len(BUDGETS)], plans, r)
    budgets = {name: value for name, value in budgets.items() if value >= 0}
    inside = np.ones(plans.shape[1], bool)
    for at, name in ((1, "max_drop"), (2, "max_size")):
        inside &= plans[at] <= budgets.get(name, np.iinfo(np.int64).max)
    problem = Problem(cost, drop, size, edges)
    found = solve(problem, **budgets)
    verdict = check(problem, found.certificate, **budgets)
    wrong = list(verdict.failures)
    if not inside.any():
        if found.status != "infeasible":
            wrong.append(f"{found.status} instead of infeasible")
        if len(budgets) == 1 and found.nearest != ("drop", int(plans[1].min())):
            wrong.append(f"nearest {found.nearest} instead of {plans[1].min()}")
        return kind, wrong
    least = int(plans[0][inside].min())
    if (found.status, found.cost, found.bound, found.gap) != ("optimal", least, least, 0):
        wrong.append(f"{found.status}, cost {found.cost}, bound {found.bound} instead of {least}")
    return kind, wrong


def large(seed):
    """A network of up to 224 layers."""
    r = np.random.default_rng([9, seed])
    graph = ("none", "chain", "residual", "encoder-decoder", "concat")[seed % 5]
    layers, choices = SIZES[seed // 5 % len(SIZES)], (4, 6)[seed // 50 % 2]
    case = network(layers, choices, seed, kind=("cnn", "llm")[seed // 7 % 2], graph=graph)
    low, high = int(case.drop.min(1).sum()), int(case.drop.max(1).sum())
    case.max_drop = low + int((high - low) * r.choice([0.01, 0.05, 0.1, 0.3, 0.6]))
    if seed % 4 == 0:
        plan = solve(Problem(case.cost, case.drop, case.size, case.edges), max_drop=case.max_drop)
        case.max_drop *= 2
        case.max_size = int(0.98 * plan.size)
    return (graph, layers, "one budget" if case.max_size is None else "two budgets"), case


def against_highs(seed, cap):
    """Return the differences from HiGHS, the class of the problem, and whether HiGHS finished."""
    kind, case = large(seed)
    problem = Problem(case.cost, case.drop, case.size, case.edges)
    found = solve(problem, max_drop=case.max_drop, max_size=case.max_size)
    verdict = check(problem, found.certificate, case.max_drop, case.max_size, replay=False)
    wrong = []
    if found.choices and (verdict.values != found.certificate.values or verdict.bound > found.cost):
        wrong.append(f"the checker finds {verdict.values} and the bound {verdict.bound}")
    proved, x = run_highspy(case, cap)
    if found.status == "infeasible":
        if x is not None:
            wrong.append("infeasible, but HiGHS has a plan")
        return kind, wrong, "infeasible" if proved else "stopped"
    if found.status != "optimal" or found.gap != 0:
        wrong.append(f"{found.status} with gap {found.gap}")
    if not case.fits(np.array(found.choices)):
        wrong.append("the plan exceeds a budget")
    if not proved:
        return kind, wrong, "stopped"
    if x is None:
        return kind, [*wrong, "HiGHS proves that there is no plan"], "infeasible"
    theirs = case.evaluate(x)[0]
    if not case.fits(x):
        if theirs > found.cost:
            wrong.append(f"HiGHS exceeds a budget and still costs {theirs}, above {found.cost}")
        return kind, wrong, "over budget"
    if theirs != found.cost:
        wrong.append(f"cost {found.cost} instead of {theirs}")
    return kind, wrong, "equal"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--enumerated", type=int, default=6000)
    parser.add_argument("--highs", type=int, default=320)
    parser.add_argument("--cap", type=float, default=60, help="seconds that HiGHS may take")
    options = parser.parse_args()
    started = time.monotonic()
    failures, classes, outcomes = [], collections.Counter(), collections.Counter()
    for seed in range(options.enumerated):
        kind, wrong = against_enumeration(seed)
        classes[", ".join(kind)] += 1
        failures += [f"enumeration, problem {seed}: {text}" for text in wrong]
    sizes = collections.Counter()
    for seed in range(options.highs):
        kind, wrong, outcome = against_highs(seed, options.cap)
        outcomes[outcome] += 1
        sizes[f"{kind[0]}, {kind[2]}"] += 1
        failures += [f"HiGHS, problem {seed}: {text}" for text in wrong]
        print(f"\rHiGHS {seed + 1}/{options.highs}", end="", file=sys.stderr)
    for text in failures:
        print(text)
    print(
        f"{len(failures)} mismatches: {options.enumerated} problems against enumeration, "
        f"{options.highs} against HiGHS up to L={max(SIZES)} ({dict(outcomes)}), "
        f"{time.monotonic() - started:.0f} s"
    )
    results = {
        "mismatches": failures,
        "enumerated": {"problems": options.enumerated, "classes": dict(classes)},
        "highs": {"problems": options.highs, "outcomes": dict(outcomes), "classes": dict(sizes)},
        "seconds": time.monotonic() - started,
    }
    save("solver_correctness", results, [0, max(options.enumerated, options.highs) - 1])
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
