"""Objective accuracy: the least drop within a budget, against all plans, enumerated."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import aiq
from aiq.cost import CostTable, EdgeCost, Level
from aiq.errors import InfeasibleError, InputError
from aiq.evaluate import Evaluator
from aiq.formats import parse_all
from aiq.planning.tables import Tables

FORMATS = parse_all("fp32,w8a8,w4a8,w2a8")


def random_tables(seed: int) -> Tables:
    """Return tables of five layers with costs between them, the first and last sharing a weight."""
    draw = np.random.default_rng(seed)
    layers = tuple("abcde")
    edges = tuple(EdgeCost(i, i + 1, draw.integers(0, 50, (4, 4))) for i in range(4))
    cost = draw.integers(10, 200, (5, 4))
    table = CostTable(Level.ROOFLINE, layers, FORMATS, cost, 7, 1000, edges)
    return Tables(
        cost=table,
        intensity=table,
        drop=draw.random((5, 4)) * 0.01,
        sizes=draw.integers(1, 40, (5, 4)) * 8,
        allowed=((0, 1, 2, 3), (0, 1, 2), (1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3)),
        shared=(0, 1, 2, 3, 0),
        fixed_bytes=11,
    )


@pytest.mark.parametrize("seed", range(12))
def test_the_solver_finds_the_least_sum_of_drops_of_all_plans(seed):
    tables = random_tables(seed)
    every = [dict(zip("abcde", plan, strict=True)) for plan in itertools.product(FORMATS, repeat=5)]
    allowed = [
        plan
        for plan in every
        if plan["a"] == plan["e"]
        and all(k in may for k, may in zip(tables.columns(plan), tables.allowed, strict=True))
    ]
    costs = sorted(map(tables.cost.total, allowed))
    sizes = sorted(map(tables.size, allowed))
    for share in (0.02, 0.2, 0.6):
        cost, size = costs[int(share * len(costs))], sizes[int(share * len(sizes))]
        for max_cost, max_size in ((cost, None), (None, int(size)), (cost, int(size))):
            held = [
                tables.predicted_drop(plan)
                for plan in allowed
                if tables.cost.total(plan) <= (max_cost or math.inf)
                and tables.size(plan) <= (max_size or math.inf)
            ]
            if not held:
                with pytest.raises(InfeasibleError):
                    tables.finest(max_cost=max_cost, max_size=max_size)
                continue
            found = tables.finest(max_cost=max_cost, max_size=max_size)
            assert found.status == "optimal"
            assert tables.predicted_drop(tables.formats(found.choices)) == pytest.approx(min(held))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 6),
    ).eval()  # fmt: skip
    x = torch.randn(96, 3, 8, 8)
    return model, [(x, model(x).argmax(1))]


def search(network, **budgets):
    model, data = network
    return aiq.search(
        model,
        "xeon_2vcpu",
        data,
        objective="accuracy",
        formats=budgets.pop("formats", "w8a8,w4a8,w2a8"),
        cache=False,
        progress=None,
        **budgets,
    )


def test_the_plan_diverges_less_than_nearly_all_others_of_its_size(network):
    model, data = network
    budget = 1700
    plan = search(network, max_size=budget)
    assert plan.predicted.weight_bytes <= budget
    evaluator = Evaluator(model, data)
    names, able = [layer.name for layer in plan.layers], parse_all("w8a8,w4a8,w2a8")
    every = [
        dict(zip(names, formats, strict=True)) for formats in itertools.product(able, repeat=4)
    ]
    sizes = {layer.name: layer.weight_elements for layer in plan.layers}
    fixed = plan.baseline.weight_bytes - 4 * sum(sizes.values())
    held = [
        formats
        for formats in every
        if fixed + sum(sizes[n] * f.weight.bits for n, f in formats.items()) / 8 <= budget
    ]
    divergences = sorted(found.kl for found in evaluator.evaluate_many(held))
    mine = evaluator.evaluate(plan.formats).kl
    assert len(held) > 20
    assert mine <= divergences[2]
    assert plan.proof.unit == "drop"
    assert "why not finer" in str(plan)
    assert plan.provenance["max_drop"] is None


def test_each_budget_holds_and_float32_is_returned_if_it_fits(network):
    slow = search(network, max_size=10**6, formats=None)
    assert {layer.format for layer in slow.layers} == {"fp32"}
    assert "within the budget" in str(slow)
    bytes_ = search(network, min_intensity=2 * slow.baseline.intensity)
    assert bytes_.predicted.intensity >= 2 * slow.baseline.intensity
    most = 0.96 * slow.baseline.seconds
    fast = search(network, max_seconds=most, formats=None)
    assert fast.predicted.seconds <= most


@pytest.mark.parametrize("budget", ["max_size", "max_seconds", "min_intensity"])
def test_the_nearest_feasible_budget_is_feasible(network, budget):
    impossible = {"max_size": 1, "max_seconds": 1e-12, "min_intensity": 1e9}[budget]
    with pytest.raises(InfeasibleError, match=f"nearest feasible {budget}") as error:
        search(network, **{budget: impossible})
    value = str(error.value).split(f"{budget} is ")[1].split(",")[0]
    search(network, **{budget: type(impossible)(float(value))})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "float32 would win without one"),
        ({"max_seconds": 1.0, "min_intensity": 1.0}, "not both of the last two"),
        ({"max_size": 100, "method": "greedy"}, "solved exactly"),
        ({"max_seconds": math.inf}, "finite number above 0"),
        ({"min_intensity": -1}, "finite number above 0"),
        ({"max_seconds": "1"}, "give a number"),
        ({"max_seconds": 10**400}, "more than 300 digits"),
        ({"max_size": 100, "measure_top": 2}, "the stopwatch needs objective throughput"),
    ],
)
def test_bad_budgets_are_refused_at_once(network, options, says):
    with pytest.raises(InputError, match=says):
        search(network, **options)


def test_other_objectives_have_no_such_budget(network):
    with pytest.raises(InputError, match="max_seconds is a budget of objective accuracy"):
        aiq.search(network[0], "xeon_2vcpu", network[1], max_seconds=1.0)
