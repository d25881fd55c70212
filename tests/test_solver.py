"""The solver against enumeration."""

import numpy as np
import pytest

from aiq.errors import InputError
from aiq.solver import Problem, Solution, coordinate_measured, greedy_measured, solve


def random_problem(rng, layers):
    n = rng.integers(1, 5, layers)
    edges = []
    for u in range(layers):
        for v in range(u + 1, layers):
            if rng.random() < 0.4:
                shape = (n[u], n[v])
                edges.append((u, v, rng.integers(-5, 8, shape), rng.integers(-3, 5, shape)))
    cost = [rng.integers(-3, 20, k) for k in n]
    loss = [rng.integers(-2, 20, k) for k in n]
    return Problem(cost, loss, [rng.integers(0, 20, k) for k in n], edges)


def objective(solution: Solution, minimize: str):
    return {"cost": solution.cost, "loss": solution.loss, "size": solution.size}[minimize]


@pytest.mark.parametrize("seed", range(100))
def test_agrees_with_enumeration(seed):
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(1, 7))
    problem = random_problem(rng, layers)
    loss, size = int(rng.integers(0, 10 * layers)), int(rng.integers(0, 12 * layers))
    for minimize, budgets in [
        ("cost", {}),
        ("cost", {"max_loss": loss}),
        ("cost", {"max_loss": loss, "max_size": size}),
        ("loss", {"max_cost": loss}),
        ("size", {"max_cost": loss, "max_loss": loss}),
    ]:
        want = solve(problem, minimize=minimize, method="exhaustive", **budgets)
        got = solve(problem, minimize=minimize, **budgets)
        assert got.status == want.status
        assert objective(got, minimize) == objective(want, minimize)
        assert got.nearest == want.nearest
        if got.status == "optimal":
            assert got.gap == 0
            assert got.bound == objective(got, minimize)


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
        ({"cost": [], "loss": []}, "no layers"),
        ({"cost": [[1, 2], []], "loss": [[1, 2], []]}, "no choices"),
        ({"cost": [[1, 2]], "loss": [[1]]}, "2 costs but 1 loss"),
        ({"cost": [[1.0, float("nan")]], "loss": [[1, 2]]}, "nan"),
        ({"cost": [[1.0, float("inf")]], "loss": [[1, 2]]}, "inf"),
        ({"cost": [[2**60, 1]], "loss": [[1, 2]]}, "overflow"),
        ({"cost": [[1, 2]] * 2, "loss": [[1, 2]] * 2, "edges": [(0, 2, [[1]])]}, "names layer 2"),
        ({"cost": [[1]] * 2, "loss": [[1]] * 2, "edges": [(1, 1, [[1]])]}, "to itself"),
        ({"cost": [[1, 2]] * 2, "loss": [[1, 2]] * 2, "edges": [(0, 1, [[1]])]}, r"\(2, 2\)"),
    ],
)
def test_bad_input_is_an_error(arguments, message):
    with pytest.raises(InputError, match=message):
        Problem(**arguments)
