"""The exact solver against SciPy milp, highspy, CP-SAT and CBC, on the same integers.

Every time is one call from Python: NumPy tables in, choices and certificate out; the peers' time
includes building their model. Peers ask for gap 0 and are stopped at ``--peer-cap`` seconds; a
peer that was stopped counts with that time, so its ratio is a lower bound. Every answer is
re-evaluated in integers, and a peer that finds a better plan than a proved one stops the run.
Peers run one at a time, each in a process of its own: OR-Tools and highspy bring HiGHS libraries
that cannot be loaded together.

    python benches/solver.py            # all classes, 5 seeds; results/solver.json
    python benches/solver.py --quick    # the small classes, 2 seeds, not written

Finished classes are kept in the JSON file, so an interrupted run can be resumed with ``--resume``.
Needs the ``bench`` dependency group.
"""

import argparse
import importlib.metadata
import json
import math
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, milp

from aiq.solver import Problem, frontier, solve

RESULTS = Path(__file__).parent / "results" / "solver.json"
LOSS_RANGE = 10**9
REPEATS = 5
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
    loss: np.ndarray
    size: np.ndarray | None
    edges: list
    max_loss: int
    max_size: int | None = None

    def evaluate(self, x):
        i = np.arange(len(x))
        cost, loss = int(self.cost[i, x].sum()), int(self.loss[i, x].sum())
        for u, v, edge_cost, edge_loss in self.edges:
            cost += int(edge_cost[x[u], x[v]])
            loss += int(edge_loss[x[u], x[v]])
        size = 0 if self.size is None else int(self.size[i, x].sum())
        return cost, loss, size

    def fits(self, x):
        _, loss, size = self.evaluate(x)
        return loss <= self.max_loss and (self.max_size is None or size <= self.max_size)


# ------------------------------------------------------------------------------ instances


def network(layers, choices, seed, kind="cnn", graph="none", minimize="bytes"):
    """A network's tables: ``cnn`` layers differ, ``llm`` repeats seven matrix shapes.

    graph: ``chain``, or ``residual`` (blocks of three layers and an addition that also reads the
    block's input: treewidth 2).
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
    loss = (params * sw)[:, None] * 4.0**-w * np.where(grouped > 0, 0.45, 1.0)
    loss += 0.3 * (acts * sa)[:, None] * 4.0**-a
    loss *= np.exp(r.normal(0, 0.1, loss.shape))
    loss *= LOSS_RANGE / (loss.max(1).sum() - loss.min(1).sum())
    loss = np.rint(loss).astype(np.int64)
    peak = 400e12 / np.maximum(w, a)
    picoseconds = (np.maximum(flops[:, None] / peak, moved / 1.0e12) + 2e-6) * 1e12
    cost = np.rint(moved if minimize == "bytes" else picoseconds).astype(np.int64)
    pairs = []
    if graph == "chain":
        pairs = [(i, i + 1) for i in range(layers - 1)]
    elif graph == "residual":
        for start in range(0, layers - 4, 4):
            pairs += [(start + i, start + i + 1) for i in range(4)] + [(start, start + 4)]
    edges = []
    rho = r.normal(0, 0.15, max(len(pairs), 1))
    differ = a[:, None] != a[None, :]
    for (u, v), strength in zip(pairs, rho, strict=False):
        edge_cost = np.where(differ, 0.25 * acts[u] * (a[:, None] + a[None, :]) / 8 + 1000, 0)
        edge_loss = strength * np.sqrt(loss[u, :, None].astype(float) * loss[v])
        edges.append(
            (u, v, np.rint(edge_cost).astype(np.int64), np.rint(edge_loss).astype(np.int64))
        )
    low, high = int(loss.min(1).sum()), int(loss.max(1).sum())
    case = Case(cost, loss, np.rint(size).astype(np.int64), edges, low + (high - low) // 10)
    if minimize == "time":  # second budget: the tightest of these sizes that is feasible
        found = solve(Problem(cost, loss, case.size), max_loss=case.max_loss)
        for share in (0.92, 0.96, 0.98, 0.99, 0.995):
            case.max_size = int(found.size * share)
            least = solve(Problem(cost, loss, case.size), max_loss=case.max_loss, minimize="size")
            if least.size <= case.max_size:
                break
    return case


def pisinger(kind, seed, layers=1000, choices=8, reach=10_000):
    """Pisinger's classes (1995) as minimisation: loss is the weight, cost the profit forgone."""
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


# ------------------------------------------------------------------------------ solvers


def run_aiq(case, cap):
    problem = Problem(case.cost, case.loss, case.size, case.edges)
    found = solve(problem, max_loss=case.max_loss, max_size=case.max_size, time_limit=cap)
    return found.status == "optimal", np.array(found.choices)


def linear_model(case):
    """Columns: x, then y per edge; rows: one choice per layer, then the marginals of y."""
    layers, choices = case.cost.shape
    nx = layers * choices
    n_edges = len(case.edges)
    square = choices * choices
    cost = np.concatenate([case.cost.ravel(), *[e[2].ravel() for e in case.edges]]) / 1e3
    use = [np.concatenate([case.loss.ravel(), *[e[3].ravel() for e in case.edges]])]
    limits = [case.max_loss]
    if case.max_size is not None:
        use.append(np.concatenate([case.size.ravel(), np.zeros(n_edges * square)]))
        limits.append(case.max_size)
    rows = [
        sp.hstack(
            [
                sp.kron(sp.eye(layers), np.ones((1, choices))),
                sp.csr_matrix((layers, n_edges * square)),
            ]
        )
    ]
    right = [np.ones(layers)]
    if n_edges:
        for axis, end in ((0, [e[0] for e in case.edges]), (1, [e[1] for e in case.edges])):
            ones = np.ones((1, choices))
            block = sp.kron(sp.eye(choices), ones) if axis == 0 else sp.kron(ones, sp.eye(choices))
            at = (np.array(end)[:, None] * choices + np.arange(choices)).ravel()
            x = sp.csr_matrix((-np.ones(len(at)), (np.arange(len(at)), at)), (len(at), nx))
            rows.append(sp.hstack([x, sp.kron(sp.eye(n_edges), block)]))
            right.append(np.zeros(n_edges * choices))
    units = [limit / 1e4 for limit in limits]
    use = np.stack([u / unit for u, unit in zip(use, units, strict=True)])
    return cost, use, np.full(len(units), 1e4), sp.vstack(rows).tocsr(), np.concatenate(right), nx


def run_scipy(case, cap):
    cost, use, limits, rows, right, nx = linear_model(case)
    found = milp(
        cost,
        integrality=np.concatenate([np.ones(nx), np.zeros(len(cost) - nx)]),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(rows, right, right), LinearConstraint(use, -np.inf, limits)],
        options={"time_limit": cap, "mip_rel_gap": 0.0},
    )
    x = None if found.x is None else found.x[:nx].reshape(case.cost.shape).argmax(1)
    return found.status == 0, x


def run_highspy(case, cap):
    import highspy  # noqa: PLC0415

    cost, use, limits, rows, right, nx = linear_model(case)
    matrix = sp.vstack([rows, sp.csr_matrix(use)]).tocsc()
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(cost), matrix.shape[0]
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, np.zeros(len(cost)), np.ones(len(cost))
    lp.row_lower_ = np.concatenate([right, np.full(len(limits), -highspy.kHighsInf)])
    lp.row_upper_ = np.concatenate([right, limits])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = matrix.indptr, matrix.indices
    lp.a_matrix_.value_ = matrix.data
    integer, real = highspy.HighsVarType.kInteger, highspy.HighsVarType.kContinuous
    lp.integrality_ = [integer] * nx + [real] * (len(cost) - nx)
    h = highspy.Highs()
    h.setOptionValue("output_flag", False)
    h.setOptionValue("time_limit", float(cap))
    h.setOptionValue("mip_rel_gap", 0.0)
    h.passModel(lp)
    h.run()
    values = np.array(h.getSolution().col_value)
    x = values[:nx].reshape(case.cost.shape).argmax(1) if len(values) else None
    return h.getModelStatus() == highspy.HighsModelStatus.kOptimal, x


def run_cpsat(case, cap):
    from ortools.sat.python import cp_model  # noqa: PLC0415

    model = cp_model.CpModel()
    layers, choices = case.cost.shape
    xs = [[model.new_bool_var("") for _ in range(choices)] for _ in range(layers)]
    for row in xs:
        model.add_exactly_one(row)
    variables = [v for row in xs for v in row]
    costs, losses = case.cost.ravel().tolist(), case.loss.ravel().tolist()
    sizes = [] if case.max_size is None else case.size.ravel().tolist()
    for u, v, edge_cost, edge_loss in case.edges:
        ys = [[model.new_bool_var("") for _ in range(choices)] for _ in range(choices)]
        for j in range(choices):
            model.add(sum(ys[j]) == xs[u][j])
            model.add(sum(row[j] for row in ys) == xs[v][j])
        variables += [y for row in ys for y in row]
        costs += edge_cost.ravel().tolist()
        losses += edge_loss.ravel().tolist()
    total = cp_model.LinearExpr.weighted_sum
    model.add(total(variables, losses) <= case.max_loss)
    if sizes:
        model.add(total(variables[: len(sizes)], sizes) <= case.max_size)
    model.minimize(total(variables, costs))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = float(cap)
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return False, None
    x = np.array([next(k for k, v in enumerate(row) if solver.value(v)) for row in xs])
    return status == cp_model.OPTIMAL, x


def run_cbc(case, cap):
    import pulp  # noqa: PLC0415

    cost, use, limits, rows, right, nx = linear_model(case)
    model = pulp.LpProblem("q", pulp.LpMinimize)
    xs = [
        pulp.LpVariable(f"x{i}", 0, 1, "Binary" if i < nx else "Continuous")
        for i in range(len(cost))
    ]
    model += pulp.LpAffineExpression(zip(xs, cost.tolist(), strict=True))
    for i, value in enumerate(right.tolist()):
        span = slice(rows.indptr[i], rows.indptr[i + 1])
        terms = [
            (xs[j], v) for j, v in zip(rows.indices[span], rows.data[span].tolist(), strict=True)
        ]
        model += pulp.LpAffineExpression(terms) == value
    for row, limit in zip(use, limits, strict=True):
        model += pulp.LpAffineExpression(zip(xs, row.tolist(), strict=True)) <= float(limit)
    model.solve(pulp.PULP_CBC_CMD(msg=False, timeLimit=cap, gapRel=0))
    values = [v.varValue for v in xs[:nx]]
    if any(v is None for v in values):
        return False, None
    x = np.array(values).reshape(case.cost.shape).argmax(1)
    return model.status == 1 and model.sol_status == 1, x


PEERS: dict[str, Callable] = {
    "scipy milp": run_scipy,
    "highspy": run_highspy,
    "cp-sat": run_cpsat,
    "cbc": run_cbc,
}

# ------------------------------------------------------------------------------ the run


CLASSES: dict[str, tuple[Callable[[int], Case], float]] = {
    "separable L=54": (lambda s: network(54, 4, s), 150),
    "separable L=200": (lambda s: network(200, 6, s), 400),
    "separable L=224 llm": (lambda s: network(224, 6, s, "llm"), 400),
    "separable L=1000": (lambda s: network(1000, 8, s), 300),
    "separable L=10000": (lambda s: network(10_000, 8, s), 2000),
    "chain L=54": (lambda s: network(54, 4, s, graph="chain"), 400),
    "chain L=200": (lambda s: network(200, 6, s, graph="chain"), 1000),
    "chain L=1000": (lambda s: network(1000, 8, s, graph="chain"), 1000),
    "residual L=200": (lambda s: network(200, 6, s, graph="residual"), 200),
    "residual L=1000": (lambda s: network(1000, 8, s, graph="residual"), 200),
    "two budgets L=54": (lambda s: network(54, 4, s, minimize="time"), 20),
    "two budgets L=200": (lambda s: network(200, 6, s, minimize="time"), 20),
    "two budgets L=1000": (lambda s: network(1000, 8, s, minimize="time"), 20),
    "pisinger uncorrelated": (lambda s: pisinger("uncorrelated", s), 50),
    "pisinger weakly": (lambda s: pisinger("weakly", s), 50),
    "pisinger strongly": (lambda s: pisinger("strongly", s), 50),
    "pisinger subset-sum": (lambda s: pisinger("subset-sum", s), 50),
    "pisinger zig-zag": (lambda s: pisinger("zig-zag", s), 50),
}
QUICK = ("separable L=54", "separable L=200", "chain L=54", "two budgets L=54")


def timed(run, case, cap, repeats=1):
    """Least seconds of some runs, whether the optimum was proved, and the choices."""
    best = math.inf
    for _ in range(repeats):
        started = time.perf_counter()
        proved, x = run(case, cap)
        best = min(best, time.perf_counter() - started)
        if best > 1:
            break
    return best, proved, x


def warm_up(run):
    """Import what a peer needs, and solve something, so that no timing includes that."""
    run(network(4, 4, 0), 10)


def run_class(name, make, seeds, cap, deadline, workers):
    """Times per seed of aiq and of every peer; peers that hit the cap twice are not asked again."""
    rows = []
    stopped = dict.fromkeys(PEERS, 0)
    for seed in seeds:
        case = make(seed)
        seconds, proved, x = timed(run_aiq, case, cap, REPEATS)
        if not case.fits(x):
            raise SystemExit(f"{name}, seed {seed}: the plan exceeds a budget")
        ours = case.evaluate(x)[0]
        row = {"seed": seed, "aiq": {"seconds": seconds, "proved": proved, "cost": ours}}
        for peer, run in PEERS.items():
            if stopped[peer] >= 2 or time.monotonic() > deadline:
                continue
            took, peer_proved, peer_x = workers[peer].submit(timed, run, case, cap).result()
            took = took if peer_proved else max(took, cap)
            stopped[peer] += not peer_proved
            theirs = None
            if peer_x is not None and case.fits(peer_x):
                theirs = case.evaluate(peer_x)[0]
                if proved and theirs < ours:
                    raise SystemExit(f"{name}, seed {seed}: {peer} found {theirs}, below {ours}")
            row[peer] = {"seconds": took, "proved": peer_proved, "cost": theirs}
        rows.append(row)
    return rows


def summary(rows):
    times = [row["aiq"]["seconds"] for row in rows]
    ratios = [
        min(row[p]["seconds"] for p in PEERS if p in row) / row["aiq"]["seconds"]
        for row in rows
        if any(p in row for p in PEERS)
    ]
    return {
        "median_ms": 1e3 * statistics.median(times),
        "worst_ms": 1e3 * max(times),
        "proved": sum(row["aiq"]["proved"] for row in rows),
        "seeds": len(rows),
        "median_ratio": statistics.median(ratios) if ratios else None,
        "worst_ratio": min(ratios) if ratios else None,
        "peers_median_s": {
            p: statistics.median(row[p]["seconds"] for row in rows if p in row)
            for p in PEERS
            if any(p in row for row in rows)
        },
    }


def frontier_times(seeds):
    out = {}
    for layers, choices in ((54, 4), (200, 6)):
        times, points = [], []
        for seed in seeds:
            case = network(layers, choices, seed)
            problem = Problem(case.cost, case.loss)
            started = time.perf_counter()
            points.append(len(frontier(problem)))
            times.append(1e3 * (time.perf_counter() - started))
        out[f"L={layers}"] = {
            "median_ms": statistics.median(times),
            "worst_ms": max(times),
            "points": points,
        }
    return out


def machine():
    packages = ("aiq", "numpy", "scipy", "highspy", "ortools", "pulp")
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {p: importlib.metadata.version(p) for p in packages},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small classes only, not written")
    parser.add_argument("--resume", action="store_true", help="keep the classes in the JSON file")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peer-cap", type=float, default=60, help="seconds per peer and problem")
    parser.add_argument("--total", type=float, default=900, help="seconds after which no peer runs")
    parser.add_argument("--only", help="classes whose name contains this")
    options = parser.parse_args()
    seeds = range(1, 3 if options.quick else options.seeds + 1)
    deadline = time.monotonic() + options.total
    saved = json.loads(RESULTS.read_text()) if options.resume and RESULTS.exists() else {}
    classes = saved.get("classes", {})
    heads = ("aiq ms", "worst", "proved", "ratio", "worst", "target")
    print(f"{'class':24}" + "".join(f"{head:>9}" for head in heads))
    spawn = multiprocessing.get_context("spawn")
    workers = {peer: ProcessPoolExecutor(1, mp_context=spawn) for peer in PEERS}
    for peer, run in PEERS.items():
        workers[peer].submit(warm_up, run).result()
    for name, (make, target) in CLASSES.items():
        if options.quick and name not in QUICK:
            continue
        if options.only and options.only not in name:
            continue
        if name not in classes:
            rows = run_class(name, make, seeds, options.peer_cap, deadline, workers)
            classes[name] = {
                "target_ratio": target,
                "peer_cap_s": options.peer_cap,
                "rows": rows,
                **summary(rows),
            }
        found = classes[name]
        ratio, worst = (found[k] or math.nan for k in ("median_ratio", "worst_ratio"))
        print(
            f"{name:24}{found['median_ms']:9.3f}{found['worst_ms']:9.3f}"
            f"{found['proved']:>6}/{found['seeds']:<2}{ratio:9.0f}{worst:9.0f}{target:9}",
            flush=True,
        )
        result = {
            "command": " ".join(["python", "benches/solver.py", *sys.argv[1:]]),
            "machine": machine(),
            "classes": classes,
        }
        if not options.quick:
            write(result)
    for worker in workers.values():
        worker.shutdown()
    fronts = frontier_times(seeds)
    for name, row in fronts.items():
        print(f"frontier {name}: {row['median_ms']:.1f} ms, worst {row['worst_ms']:.1f} ms")
    if not options.quick:
        write({**result, "frontier": fronts})


def write(result):
    RESULTS.parent.mkdir(exist_ok=True)
    fresh = RESULTS.with_suffix(".tmp")
    fresh.write_text(json.dumps(result, indent=1) + "\n")
    fresh.replace(RESULTS)


if __name__ == "__main__":
    main()
