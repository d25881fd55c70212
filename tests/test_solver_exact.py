"""The optimum: against enumeration and HiGHS, and certificates against their checker."""

import numpy as np
import pytest
from solver_cases import network, pisinger
from solver_correctness import against_enumeration, against_highs, small

from aiq.solver import Problem, check, solve

GRAPHS = ["none", "chain", "residual", "encoder-decoder", "concat"]


@pytest.mark.parametrize("block", range(6))
def test_random_problems_agree_with_enumeration(block):
    for seed in range(100 * block, 100 * (block + 1)):
        kind, wrong = against_enumeration(seed)
        assert not wrong, (seed, kind)


@pytest.mark.parametrize("seed", range(25))
def test_networks_agree_with_highs(seed):
    kind, wrong, outcome = against_highs(seed, cap=60)
    assert not wrong, kind
    assert outcome != "stopped"


@pytest.mark.parametrize("seed", range(42))
def test_every_objective_agrees_with_exhaustive_search(seed):
    _, (cost, drop, size, edges) = small(seed)
    problem = Problem(cost, drop, size, edges)
    r = np.random.default_rng(seed)
    largest = [max(1, int(sum(t.max() for t in table))) for table in (cost, drop, size)]
    a, b = (int(r.integers(0, largest[m])) for m in (0, 1))
    for minimize, budgets in [
        ("drop", {"max_cost": a}),
        ("size", {"max_cost": a, "max_drop": b}),
        ("drop", {"max_cost": a, "max_size": int(r.integers(0, largest[2]))}),
    ]:
        want = solve(problem, minimize=minimize, method="exhaustive", **budgets)
        got = solve(problem, minimize=minimize, **budgets)
        assert (got.status, got.nearest) == (want.status, want.nearest)
        assert getattr(got, minimize) == getattr(want, minimize)
        assert check(problem, got.certificate, minimize=minimize, **budgets).ok


@pytest.mark.parametrize("graph", GRAPHS)
def test_certificates_of_real_sizes_are_verified(graph):
    case = network(54, 4, 1, graph=graph)
    problem = Problem(case.cost, case.drop, case.size, case.edges)
    found = solve(problem, max_drop=case.max_drop)
    verdict = check(problem, found.certificate, case.max_drop)
    assert verdict.ok
    assert verdict.bound == found.cost == verdict.values[0]
    lagrangian = check(problem, found.certificate, case.max_drop, replay=False)
    assert lagrangian.bound <= found.cost
    assert lagrangian.ok == (lagrangian.bound == found.cost)


@pytest.mark.parametrize("graph", ["none", "residual"])
def test_two_budgets_are_proved_by_bounds(graph):
    case = network(54, 4, 2, graph=graph)
    problem = Problem(case.cost, case.drop, case.size, case.edges)
    size = int(0.97 * solve(problem, max_drop=case.max_drop).size)
    budgets = {"max_drop": 2 * case.max_drop, "max_size": size}
    found = solve(problem, **budgets)
    assert found.status == "optimal"
    verdict = check(problem, found.certificate, **budgets, replay=False)
    assert verdict.ok
    assert verdict.bound == found.cost


@pytest.mark.parametrize("limit", [0, 1, 2, 4, 8, 16, 32, 64, 128])
def test_interrupted_proofs_prove_what_they_say(limit):
    case = network(54, 4, 3, minimize="time")
    problem = Problem(case.cost, case.drop, case.size)
    budgets = {"max_drop": case.max_drop, "max_size": case.max_size}
    best = solve(problem, **budgets)
    found = solve(problem, **budgets, node_limit=limit)
    assert found.bound <= best.cost <= found.cost
    verdict = check(problem, found.certificate, **budgets)
    assert verdict.ok
    assert verdict.bound == found.bound


@pytest.mark.parametrize("seed", range(3))
def test_strongly_correlated_knapsacks_are_proved_by_rounding(seed):
    case = pisinger("strongly", seed, layers=60, reach=1000)
    problem = Problem(case.cost, case.drop)
    found = solve(problem, max_drop=case.max_drop)
    verdict = check(problem, found.certificate, case.max_drop, replay=False)
    assert verdict.ok
    assert verdict.bound == found.cost
    odd = case.cost.copy()
    odd[0, 0] += 1  # nothing to round to any more
    other = check(Problem(odd, case.drop), found.certificate, case.max_drop, replay=False)
    assert other.bound < found.cost
