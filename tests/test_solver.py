"""What the solver promises beside the optimum: errors, limits, Ctrl-C, floats, frontiers."""

import _thread
import itertools
import signal
import threading
import time

import numpy as np
import pytest
from solver_cases import hard, network

from aiq.errors import InputError, Interrupted
from aiq.solver import (
    Problem,
    check,
    coordinate_measured,
    frontier,
    greedy_measured,
    solve,
    solve_weighted,
)


def test_measured_searches_find_the_separable_optimum():
    table = np.array([[3, 1, 2], [5, 6, 4], [0, 0, 1]])

    def evaluate(choices):
        return float(sum(table[i, c] for i, c in enumerate(choices)))

    for search in (greedy_measured, coordinate_measured):
        found = search([3, 3, 3], evaluate)
        assert found.choices == (1, 2, 0)
        assert found.value == 5
        assert found.trace[-1][0] <= found.evaluations


def test_measured_searches_let_exceptions_through():
    class BrokenError(Exception):
        pass

    def evaluate(choices):
        raise BrokenError

    for search in (greedy_measured, coordinate_measured):
        with pytest.raises(BrokenError):
            search([2, 2], evaluate)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cost": [], "drop": []}, "no layers"),
        ({"cost": [[1, 2], []], "drop": [[1, 2], []]}, "no choices"),
        ({"cost": [[1, 2]], "drop": [[1]]}, "2 costs but 1 drop"),
        ({"cost": [[1.0, float("nan")]], "drop": [[1, 2]]}, "nan"),
        ({"cost": [[1.0, float("inf")]], "drop": [[1, 2]]}, "inf"),
        ({"cost": [[2**60, 1]], "drop": [[1, 2]]}, "overflow"),
        ({"cost": [[1, 2]] * 2, "drop": [[1, 2]] * 2, "edges": [(0, 2, [[1]])]}, "names layer 2"),
        ({"cost": [[1]] * 2, "drop": [[1]] * 2, "edges": [(1, 1, [[1]])]}, "to itself"),
        ({"cost": [[1, 2]] * 2, "drop": [[1, 2]] * 2, "edges": [(0, 1, [[1]])]}, r"\(2, 2\)"),
        ({"cost": [[1, 2]], "drop": [[1, 2]], "edges": None}, "edges is a NoneType"),
        ({"cost": np.zeros((0, 3)), "drop": np.zeros((0, 3))}, r"the shape \(0, 3\)"),
        ({"cost": np.zeros((3, 0)), "drop": np.zeros((3, 0))}, r"the shape \(3, 0\)"),
        ({"cost": [[1.0]], "drop": [[1.0]], "drop_scale": "x"}, "drop_scale is x"),
    ],
)
def test_bad_input_is_an_error(arguments, message):
    with pytest.raises(InputError, match=message):
        Problem(**arguments)


def test_infeasible_names_the_nearest_feasible_value():
    problem = Problem([[1, 2], [1, 2]], [[5, 3], [5, 3]], [[1, 9], [1, 9]])
    found = solve(problem, max_drop=5)
    assert (found.status, found.choices, found.nearest) == ("infeasible", (), ("drop", 6))
    assert check(problem, found.certificate, 5).ok
    assert solve(problem, max_drop=6).status == "optimal"
    both = solve(problem, max_drop=8, max_size=9)
    assert both.nearest == ("size", 10)
    assert check(problem, both.certificate, 8, 9).ok
    assert solve(problem, max_drop=8, max_size=10).choices in {(0, 1), (1, 0)}


def test_floats_keep_twelve_digits_and_do_not_lose_the_plan_at_the_budget():
    rng = np.random.default_rng(0)
    cost, drop = rng.random((30, 3)), rng.random((30, 3))
    problem = Problem(cost, drop)
    for choice in range(3):
        budget = float(drop[:, choice].sum())
        found = solve(problem, max_drop=budget)
        picked = np.array(found.choices)
        rows = np.arange(30)
        assert found.cost == pytest.approx(cost[rows, picked].sum(), rel=1e-10)
        assert drop[rows, picked].sum() <= budget * (1 + 1e-10)
        assert found.cost <= cost[:, choice].sum() * (1 + 1e-10)
        assert solve(problem, max_drop=found.drop).cost == found.cost
    assert problem.scales["cost"] == 2.0 ** round(np.log2(problem.scales["cost"]))
    assert Problem(cost, drop, cost_scale=1e3).scales["cost"] == 1e3


def test_same_problem_same_bytes():
    case = network(54, 4, 3, graph="chain")
    first, second = (
        solve(problem, max_drop=case.max_drop, max_size=int(case.size.sum() // 4))
        for problem in (Problem(case.cost, case.drop, case.size, case.edges) for _ in range(2))
    )
    assert first.certificate == second.certificate


@pytest.mark.parametrize("method", ["greedy", "coordinate"])
@pytest.mark.parametrize("graph", ["none", "chain"])
def test_heuristics_lie_between_the_optimum_and_the_best_uniform_plan(method, graph):
    case = network(54, 4, 0, graph=graph)
    problem, budget = Problem(case.cost, case.drop, case.size, case.edges), case.max_drop
    uniform = [problem.core.evaluate([k] * 54) for k in range(4)]
    best = min(u[0] for u in uniform if u[1] <= budget)
    exact, found = solve(problem, max_drop=budget), solve(problem, max_drop=budget, method=method)
    assert found.status == "heuristic"
    assert exact.cost <= found.cost <= best
    assert found.bound <= exact.cost
    assert found.gap == (found.cost - found.bound) / found.cost
    assert check(problem, found.certificate, budget).ok


@pytest.mark.parametrize("limit", ["node_limit", "time_limit"])
def test_limits_return_plan_bound_and_reason(limit):
    problem, budgets = hard()
    found = solve(problem, **budgets, **{limit: 1})
    assert found.status == limit
    assert found.bound < found.cost
    assert 0 < found.gap < 1
    assert found.drop <= budgets["max_drop"]
    assert found.size <= budgets["max_size"]


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: jobs in a shell's background start with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_raises_with_the_best_plan():
    problem, budgets = hard()
    threading.Timer(0.3, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        solve(problem, **budgets, time_limit=30)  # the limit ends a test that fails
    assert isinstance(caught.value, Interrupted)
    solution = caught.value.solution
    assert solution.status == "interrupted"
    assert solution.choices == () or solution.bound <= solution.cost


def test_the_interpreter_runs_while_solving():
    problem, budgets = hard()
    ticks = []
    done = threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.monotonic())
            done.wait(0.005)

    thread = threading.Thread(target=tick)
    thread.start()
    solve(problem, **budgets, time_limit=0.5)
    done.set()
    thread.join()
    assert len(ticks) > 5


def test_weighted_objective_agrees_with_enumeration():
    rng = np.random.default_rng(0)
    for _ in range(20):
        cost, drop = rng.integers(1, 100, (5, 3)), rng.random((5, 3))
        edge = (0, 3, rng.integers(0, 30, (3, 3)))
        problem = Problem(cost, drop, edges=[edge])
        plans = np.array(list(itertools.product(range(3), repeat=5)))
        rows = np.arange(5)
        costs = cost[rows, plans].sum(1) + edge[2][plans[:, 0], plans[:, 3]]
        drops = drop[rows, plans].sum(1)
        for lam, budget in itertools.product((0, 0.3, 0.9, 1), (None, 2.0)):
            values = -lam * costs[0] / costs + (1 - lam) * drops
            fits = drops <= (np.inf if budget is None else budget)
            found = solve_weighted(problem, 1e6, lam, max_drop=budget)
            if not fits.any():
                assert found.status == "infeasible"
                continue
            assert found.status == "optimal"
            assert found.value == pytest.approx(values[fits].min(), abs=1e-9)
            assert found.bound == pytest.approx(found.value, abs=1e-9)
            assert found.intensity == pytest.approx(1e6 / found.cost)


def test_frontier_is_what_a_sweep_of_budgets_finds():
    case = network(12, 4, 0, graph="chain")
    problem = Problem(case.cost, case.drop, case.size, case.edges)
    exact, supported = frontier(problem), frontier(problem, exact=False)
    assert (np.diff(exact.drop) > 0).all()
    assert (np.diff(exact.cost) < 0).all()
    for point in range(0, len(exact), max(1, len(exact) // 50)):
        plan = exact.plan(point)
        assert (plan.cost, plan.drop) == (exact.cost[point], exact.drop[point])
    assert set(supported.drop.tolist()) <= set(exact.drop.tolist())
    assert exact.drop[0] == solve(problem, minimize="drop").drop
    assert exact.cost[-1] == solve(problem).cost
    with pytest.raises(InputError, match="max_points"):
        frontier(problem, max_points=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_drop": -1}, "negative"),
        ({"max_drop": float("nan")}, "finite"),
        ({"max_size": 3}, "no sizes"),
        ({"max_drop": 3, "minimize": "drop"}, "both minimised and limited"),
        ({"minimize": "time"}, "cost, drop or size"),
        ({"method": "magic"}, "unknown method"),
        ({"time_limit": -1}, "time_limit"),
        ({"node_limit": -1}, "node_limit"),
        ({"max_drop": "1"}, "max_drop"),
        ({"max_drop": [1]}, "max_drop"),
        ({"max_drop": 10**400}, "max_drop"),
        ({"max_cost": True}, "max_cost"),
        ({"minimize": None}, "cost, drop or size"),
        ({"time_limit": "1"}, "time_limit"),
        ({"time_limit": float("nan")}, "time_limit"),
        ({"node_limit": 1.5}, "node_limit"),
        ({"node_limit": 2**70}, "node_limit"),
    ],
)
def test_bad_tasks_are_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        solve(Problem([[1, 2]], [[2, 1]]), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flops": 0, "lam": 0.5}, "flops"),
        ({"flops": 1, "lam": 1.5}, "lam"),
        ({"flops": 1, "lam": 0.5, "reference": 0}, "reference"),
        ({"flops": 1, "lam": "x"}, "lam"),
        ({"flops": 1, "lam": True}, "lam"),
        ({"flops": None, "lam": 0.5}, "flops"),
        ({"flops": 1, "lam": 0.5, "reference": float("nan")}, "reference"),
        ({"flops": 1, "lam": 0.5, "reference": float("inf")}, "reference"),
    ],
)
def test_bad_weights_are_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        solve_weighted(Problem([[1, 2]], [[2, 1]]), **arguments)


@pytest.mark.parametrize("points", [0, 1.5, 2**70, True, None])
def test_bad_numbers_of_points_are_errors(points):
    with pytest.raises(InputError, match="max_points"):
        frontier(Problem([[1, 2]], [[2, 1]]), max_points=points)


def test_a_point_that_the_frontier_lacks_is_an_error():
    found = frontier(Problem([[1, 2]], [[2, 1]]))
    assert found.plan(-1).cost == found.cost[-1]
    with pytest.raises(InputError, match="no point 9 among 2"):
        found.plan(9)


@pytest.mark.parametrize("ask", [solve, frontier, lambda x: solve_weighted(x, 1.0, 0.5)])
def test_what_is_no_problem_is_an_error(ask):
    with pytest.raises(InputError, match="The problem is a NoneType"):
        ask(None)


def test_tiny_costs_are_solved():
    assert solve(Problem([[2e-300, 1e-300]], [[0.0, 0.0]])).choices == (1,)
    assert solve(Problem([[1e-323, 5e-324]], [[0.0, 0.0]])).status == "optimal"


def test_exhaustive_search_refuses_what_would_not_end():
    with pytest.raises(InputError, match="would not end"):
        solve(Problem([[1, 2]] * 60, [[1, 2]] * 60), method="exhaustive")


def test_dense_edges_are_an_error_that_says_so():
    edges = [(u, v, np.ones((4, 4), np.int64)) for u in range(20) for v in range(u)]
    with pytest.raises(InputError, match="too dense"):
        solve(Problem([[1, 2, 3, 4]] * 20, [[4, 3, 2, 1]] * 20, edges=edges), max_drop=50)


def dense_chain(layers=60, choices=60):
    """A chain whose uniform plans all break the budget."""
    rng = np.random.default_rng(0)
    edges = [
        (i, i + 1, rng.integers(0, 10**5, (choices, choices)), rng.integers(0, 99, (choices,) * 2))
        for i in range(layers - 1)
    ]
    tables = rng.integers(1, 10**6, (2, layers, choices))
    return Problem(*tables, edges=edges), {"max_drop": 10**5 * layers}


@pytest.mark.parametrize("method", ["exact", "greedy", "coordinate"])
@pytest.mark.parametrize("limit", [0, 0.001, 0.003, 0.01, 0.03])
def test_a_time_limit_with_edges_leaves_a_plan_and_says_what_is_proved(method, limit):
    problem, budgets = dense_chain()
    found = solve(problem, **budgets, method=method, time_limit=limit)
    assert found.status in {"time_limit", "optimal", "heuristic"}
    assert found.outcome in {"feasible", "optimal"}
    assert found.nearest is None
    assert check(problem, found.certificate, **budgets).ok


def test_no_plan_within_the_limit_is_not_infeasible():
    problem, _ = dense_chain()
    found = solve(problem, max_drop=60 * 10**4, time_limit=0)
    assert (found.status, found.outcome, found.nearest) == ("time_limit", "unknown", None)
    assert found.bound is None
    assert check(problem, found.certificate, max_drop=60 * 10**4).ok
    assert solve(problem, max_drop=0, time_limit=60).outcome == "infeasible"


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("choices", [2, 90])
def test_ctrl_c_arrives_soon_in_every_sweep(choices):
    """The work between two looks at signals is short, as the thread's processor time has it."""
    layers = 60 if choices > 2 else 100_000
    problem, budgets = (
        dense_chain(layers, choices) if choices > 2 else (wide(layers), {"max_drop": 3 * layers})
    )
    for wait in (0.0, 0.02, 0.1):
        started = []

        def interrupt(wait=wait, started=started):
            time.sleep(wait)
            started.append(time.process_time())
            _thread.interrupt_main()

        thread = threading.Thread(target=interrupt)
        try:
            thread.start()
            solve(problem, **budgets)
            thread.join()
            time.sleep(0.01)
        except KeyboardInterrupt:
            assert time.process_time() - started[0] < 0.1
        thread.join()


def wide(layers):
    rng = np.random.default_rng(0)
    edges = [(i, i + 1, rng.integers(0, 9, (2, 2))) for i in range(layers - 1)]
    return Problem(*rng.integers(1, 9, (2, layers, 2)), edges=edges)
