"""Limits of the solver: the tail of its times, its memory, and the reaction to Ctrl-C."""

import _thread
import multiprocessing
import signal
import threading
import time
from pathlib import Path

import numpy as np
from solver_cases import hard, network, pisinger

from aiq.errors import Interrupted
from aiq.solver import Problem, frontier, solve

TAIL = {
    **{f"separable L={n}": (lambda s, n=n, k=k: network(n, k, s)) for n, k in ((54, 4), (200, 6))},
    "separable L=224 llm": lambda s: network(224, 6, s, "llm"),
    "separable L=1000": lambda s: network(1000, 8, s),
    **{
        f"{graph} L={n}": (lambda s, n=n, k=k, graph=graph: network(n, k, s, graph=graph))
        for graph in ("chain", "residual")
        for n, k in ((54, 4), (200, 6), (1000, 8))
    },
    **{
        f"pisinger {kind}": (lambda s, kind=kind: pisinger(kind, s))
        for kind in ("uncorrelated", "weakly", "strongly", "subset-sum", "zig-zag")
    },
}


def solved(case, **limits):
    """Return the seconds of one call, and its solution."""
    started = time.perf_counter()
    problem = Problem(case.cost, case.drop, case.size, case.edges)
    found = solve(problem, max_drop=case.max_drop, max_size=case.max_size, **limits)
    return time.perf_counter() - started, found


def tail_times(seeds):
    """Time every class of `TAIL` (one budget, L <= 1000) on seeds that no other table uses."""
    times, proved = [], True
    for name, make in TAIL.items():
        for seed in range(101, 101 + seeds):
            seconds, found = solved(make(seed), time_limit=60)
            times.append((1e3 * seconds, f"{name}, seed {seed}"))
            proved &= found.status == "optimal"
    worst, where = max(times)
    return {
        "solves": len(times),
        "median_ms": float(np.median([t for t, _ in times])),
        "p99_ms": float(np.percentile([t for t, _ in times], 99)),
        "worst_ms": worst,
        "worst": where,
        "all_proved": proved,
        "seeds": [101, 100 + seeds],
        "classes": list(TAIL),
    }


def frontier_times(seeds):
    """Time the exact frontier at L=54 and L=200."""
    out = {}
    for layers, choices in ((54, 4), (200, 6)):
        times, points = [], []
        for seed in seeds:
            case = network(layers, choices, seed)
            started = time.perf_counter()
            points.append(len(frontier(Problem(case.cost, case.drop))))
            times.append(1e3 * (time.perf_counter() - started))
        out[f"L={layers}"] = {
            "median_ms": float(np.median(times)),
            "worst_ms": max(times),
            "points": points,
        }
    return out


def memory():
    """Return the rise of peak memory by a solve at L=10,000, K=8 (Linux)."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return {"solve_mb": max(pool.map(_growth, range(1, 4)))}


def _growth(seed):
    case = network(10_000, 8, seed)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status("VmRSS")
    solved(case)
    return (_status("VmHWM") - before) / 1024


def _status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def interrupt_times(repeats):
    """Return the times from Ctrl-C in the middle of a solve to the exception."""
    problem, budgets = hard()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in the background
    times = []
    for repeat in range(repeats):
        sent = []

        def interrupt(sent=sent):
            sent.append(time.perf_counter())
            _thread.interrupt_main()

        threading.Timer(0.3 + 0.37 * repeat, interrupt).start()
        try:
            solve(problem, **budgets)
        except Interrupted:
            times.append(1e3 * (time.perf_counter() - sent[0]))
    return {"worst_ms": max(times), "median_ms": float(np.median(times)), "interrupts": len(times)}
