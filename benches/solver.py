"""The exact solver against SciPy milp, highspy, CP-SAT and CBC, on the same integers.

Every time is one call from Python: NumPy tables in, choices and certificate out; the peers' time
includes building their model. All use one thread. Peers ask for gap 0 and are stopped at
``--peer-cap`` seconds; a peer that was stopped counts with that time, so its ratio is a lower
bound. A peer is not asked again in a class after it was stopped on two seeds, or after it took
over three times as long as another peer and over five seconds; ``not_asked`` names it. Every
answer is re-evaluated in integers, and a peer that finds a better plan than a proved one stops the
run. Peers run one at a time, each in a process of its own: OR-Tools and highspy bring HiGHS
libraries that cannot be loaded together.

    python benches/solver.py            # all classes, 5 seeds; results/solver.json
    python benches/solver.py --quick    # the small classes, 2 seeds, not written

Finished classes are kept in ``raw/solver.json``: ``--resume`` goes on from there.
Needs the ``bench`` dependency group.
"""

import argparse
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version

from common import earlier, joined, published, save
from solver_cases import Case, network, pisinger
from solver_limits import frontier_times, interrupt_times, memory, tail_times
from solver_peers import PEERS

from aiq.solver import Problem, solve

REPEATS = 5
CLASSES: dict[str, tuple[Callable[[int], Case], float]] = {
    "separable L=54": (lambda s: network(54, 4, s), 150),
    "separable L=200": (lambda s: network(200, 6, s), 400),
    "separable L=224 llm": (lambda s: network(224, 6, s, "llm"), 400),
    "separable L=1000": (lambda s: network(1000, 8, s), 300),
    "chain L=54": (lambda s: network(54, 4, s, graph="chain"), 400),
    "chain L=200": (lambda s: network(200, 6, s, graph="chain"), 1000),
    "residual L=200": (lambda s: network(200, 6, s, graph="residual"), 200),
    "two budgets L=54": (lambda s: network(54, 4, s, minimize="time"), 20),
    "two budgets L=200": (lambda s: network(200, 6, s, minimize="time"), 20),
    "two budgets L=224 llm": (lambda s: network(224, 6, s, "llm", minimize="time"), 20),
    "pisinger uncorrelated": (lambda s: pisinger("uncorrelated", s), 50),
    "pisinger weakly": (lambda s: pisinger("weakly", s), 50),
    "pisinger subset-sum": (lambda s: pisinger("subset-sum", s), 50),
    "pisinger zig-zag": (lambda s: pisinger("zig-zag", s), 50),
    "two budgets L=1000": (lambda s: network(1000, 8, s, minimize="time"), 20),
    "separable L=10000": (lambda s: network(10_000, 8, s), 2000),
    "chain L=1000": (lambda s: network(1000, 8, s, graph="chain"), 1000),
    "residual L=1000": (lambda s: network(1000, 8, s, graph="residual"), 200),
    "pisinger strongly": (lambda s: pisinger("strongly", s), 50),
}
QUICK = ("separable L=54", "separable L=200", "chain L=54", "two budgets L=54")


def run_aiq(case, cap):
    """Return the solution of one call, and the median seconds of a few calls."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        problem = Problem(case.cost, case.drop, case.size, case.edges)
        found = solve(problem, max_drop=case.max_drop, max_size=case.max_size, time_limit=cap)
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > 5:
            break
    return statistics.median(seconds), found


def run_peer(name, case, cap):
    started = time.perf_counter()
    proved, x = PEERS[name](case, cap)
    seconds = time.perf_counter() - started
    cost = case.evaluate(x)[0] if x is not None and case.fits(x) else None
    return {"seconds": seconds if proved else max(seconds, cap), "proved": proved, "cost": cost}


def warm_up(name):
    """Import what a peer needs and solve a small problem, so that no timing includes the import."""
    PEERS[name](network(4, 4, 0), 10)


def run_class(name, make, seeds, cap, workers):
    """Return the times of aiq and of the peers by seed, and why a peer was left out."""
    rows, not_asked = [], {}
    stopped = dict.fromkeys(PEERS, 0)
    for seed in seeds:
        case = make(seed)
        seconds, found = run_aiq(case, cap)
        if not case.fits(found.choices):
            raise SystemExit(f"{name}, seed {seed}: the plan exceeds a budget")
        ours = case.evaluate(found.choices)[0]
        proved = found.status == "optimal"
        row = {"seconds": seconds, "proved": proved, "cost": ours, "gap": found.gap}
        row = {"seed": seed, "aiq": {**row, "nodes": found.nodes}}
        for peer in PEERS:
            if peer not in not_asked:
                row[peer] = workers[peer].submit(run_peer, peer, case, cap).result()
                theirs = row[peer]["cost"]
                if proved and theirs is not None and theirs < ours:
                    raise SystemExit(f"{name}, seed {seed}: {peer} found {theirs}, below {ours}")
        asked = [peer for peer in PEERS if peer in row]
        best = min((row[peer]["seconds"] for peer in asked), default=cap)
        for peer in asked:
            took = row[peer]["seconds"]
            stopped[peer] += not row[peer]["proved"]
            if stopped[peer] == 2:
                not_asked[peer] = f"after seed {seed}: stopped at {cap:g} s on 2 seeds"
            elif took > max(5, 3 * best):
                not_asked[peer] = f"after seed {seed}: {took:.1f} s, the best peer {best:.1f} s"
        rows.append(row)
    return rows, not_asked


def summary(rows):
    times = [row["aiq"]["seconds"] for row in rows]
    best = [
        (row, min(row[p]["seconds"] for p in PEERS if p in row))
        for row in rows
        if any(p in row for p in PEERS)
    ]
    ratios = [seconds / row["aiq"]["seconds"] for row, seconds in best]
    return {
        "median_ms": 1e3 * statistics.median(times),
        "worst_ms": 1e3 * max(times),
        "proved": sum(row["aiq"]["proved"] for row in rows),
        "seeds": len(rows),
        "median_ratio": statistics.median(ratios) if ratios else None,
        "worst_ratio": min(ratios) if ratios else None,
        "ratio_seeds": len(ratios),
        # no peer proved its answer on these, so that the ratio is a lower bound
        "lower_bounds": sum(
            not any(row[p]["proved"] for p in PEERS if p in row) for row, _ in best
        ),
        "peers_median_s": {
            p: statistics.median(row[p]["seconds"] for row in rows if p in row)
            for p in PEERS
            if any(p in row for row in rows)
        },
    }


def show(name, found):
    ratio, worst = (found[k] or math.nan for k in ("median_ratio", "worst_ratio"))
    least = ">=" if found["lower_bounds"] else ""
    print(
        f"{name:24}{found['median_ms']:9.3f}{found['worst_ms']:9.3f}"
        f"{found['proved']:>6}/{found['seeds']:<2}{least + format(ratio, '.0f'):>9}"
        f"{worst:9.0f}{found['target_ratio']:9}",
        flush=True,
    )
    for peer, reason in found["not_asked"].items():
        print(f"    {peer} not asked {reason}", flush=True)


def write(result, seeds):
    packages = {p: version(p) for p in ("scipy", "highspy", "ortools", "pulp")}
    about = {"peers": packages, "threads": "every solver had one thread"}
    classes = {
        name: {key: value for key, value in found.items() if key != "rows"}
        for name, found in result["classes"].items()
    }
    found = joined(published("solver"), {**result, "classes": classes}, 2, "seeds")
    save("solver", {**found, **about}, seeds, result)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small classes only, not written")
    parser.add_argument(
        "--resume", action="store_true", help="keep the classes in benches/raw/solver.json"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peer-cap", type=float, default=60, help="seconds per peer and problem")
    parser.add_argument("--only", help="classes whose name contains this")
    options = parser.parse_args()
    seeds = range(1, 3 if options.quick else options.seeds + 1)
    result = earlier("solver") if options.resume else {}
    classes = result.setdefault("classes", {})
    heads = ("aiq ms", "worst", "proved", "ratio", "worst", "target")
    print(f"{'class':24}" + "".join(f"{head:>9}" for head in heads))
    spawn = multiprocessing.get_context("spawn")
    workers = {peer: ProcessPoolExecutor(1, mp_context=spawn) for peer in PEERS}
    for peer, worker in workers.items():
        worker.submit(warm_up, peer).result()
    for name, (make, target) in CLASSES.items():
        if (options.quick and name not in QUICK) or (options.only and options.only not in name):
            continue
        if name not in classes:
            rows, not_asked = run_class(name, make, seeds, options.peer_cap, workers)
            about = {"target_ratio": target, "peer_cap_s": options.peer_cap, "not_asked": not_asked}
            classes[name] = {**about, **summary(rows), "rows": rows}
        show(name, classes[name])
        if not options.quick:
            write(result, seeds)
    for worker in workers.values():
        worker.shutdown()
    if not options.quick and not options.only:
        result["limits"] = limits(seeds)
        write(result, seeds)


def limits(seeds):
    """Measure frontiers, the slowest solves, memory, and the reaction to Ctrl-C."""
    found = {"frontier": frontier_times(seeds), "one_budget": tail_times(25)}
    found |= {"memory": memory(), "interrupt": interrupt_times(5)}
    for name, row in found["frontier"].items():
        print(f"exact frontier {name}: {row['median_ms']:.1f} ms, worst {row['worst_ms']:.1f} ms")
    tail = found["one_budget"]
    print(
        f"one budget, L <= 1000, {tail['solves']} solves: p99 {tail['p99_ms']:.1f} ms, "
        f"worst {tail['worst_ms']:.1f} ms ({tail['worst']}), all proved: {tail['all_proved']}"
    )
    print(f"memory of a solve at L=10000, K=8: {found['memory']['solve_mb']:.0f} MB")
    print(f"Ctrl-C arrives within {found['interrupt']['worst_ms']:.0f} ms")
    return found


if __name__ == "__main__":
    main()
