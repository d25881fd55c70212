"""Why a plan is not cheaper, what accuracy would buy, and how a plan looks in 80 columns."""

import dataclasses
import io
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import aiq
from aiq.cli.tables import layers
from aiq.cost import CostTable, EdgeCost, Level
from aiq.formats import parse_all
from aiq.plan import show
from aiq.planning import reasons
from aiq.planning.drop_curve import DropCurve
from aiq.planning.price import per_tenth
from aiq.planning.tables import Tables
from aiq.planning.task import Outcome, Task
from aiq.report.scores import Words
from aiq.text import FittedTable, table

FORMATS = parse_all("fp32,bf16,w8a8")
NAMES = ("a", "b", "c", "d")


def tables(seed=0):
    """Random costs of a chain of layers, whose tensors cost time where formats change."""
    rng = np.random.default_rng(seed)
    cost = rng.integers(50, 150, (4, 3)) * 10**9
    edges = tuple(
        EdgeCost(i, i + 1, rng.integers(1, 60, (3, 3)) * 10**9 * (1 - np.eye(3, dtype=np.int64)))
        for i in range(3)
    )
    table = CostTable(Level.CALIBRATED, NAMES, FORMATS, cost, 0, 1, edges)
    drop = np.cumsum(rng.random((4, 3)) * [0, 1, 1], axis=1) * 2e-3
    sizes = np.ones((4, 3), np.int64)
    return Tables(table, table, drop, sizes, ((0, 1, 2),) * 4)


def told(tables, plan, metric="top1", **options):
    graph = SimpleNamespace(quantizable=[SimpleNamespace(name=name) for name in NAMES])
    options = {"measured": True, "walked": False} | options
    words = Words.of({"metric": metric})
    return reasons.reasons(graph, tables, tables.formats(plan), None, None, words, **options)


@pytest.mark.parametrize("seed", range(5))
def test_reasons_compare_whole_plans(seed):
    table = tables(seed)
    for plan in product(range(3), repeat=4):
        for i, why in enumerate(told(table, plan)):
            totals = {j: table.cost.totals([[*plan[:i], j, *plan[i + 1 :]]])[0] for j in range(3)}
            alone = [j for j in range(3) if table.cost.cost[i, j] < table.cost.cost[i, plan[i]]]
            if any(total < totals[plan[i]] for total in totals.values()):
                name = why.split(" saves")[0]
                assert totals[[f.name for f in FORMATS].index(name)] < totals[plan[i]]
            elif alone:
                assert "its conversions cost" in why
                named = why.partition("(")[2].rstrip(")").split(", ")
                neighbours = {NAMES[n] for n in (i - 1, i + 1) if 0 <= n < 4}
                assert set(named) <= neighbours
            else:
                assert why == "is cheapest"


def task(table, max_drop):
    return Task(table, None, max_drop, 0.95, None, "exact", None)


def test_the_price_is_what_another_tenth_would_save():
    table = tables(3)
    costs = {
        plan: (table.cost.totals([plan])[0], sum(table.drop[range(4), plan]))
        for plan in product(range(3), repeat=4)
    }

    def best(budget):
        return min(cost for cost, drop in costs.values() if drop <= budget + 1e-12)

    seen = set()
    for budget in (0.0, 0.001, 0.003, 0.02):
        outcome = Outcome({}, 0.0, budget, 1.0, budget, None, None, DropCurve())
        price = per_tenth(task(table, budget), outcome)
        assert price == pytest.approx(best(budget) - best(budget + 0.001), abs=1e-9)
        seen.add(price > 0)
    assert seen == {True, False}
    outcome = Outcome({}, 0.0, 0.0, 1.0, None, None, None, DropCurve())
    assert per_tenth(task(table, 0.01), outcome) is None


@pytest.fixture(scope="module")
def plan():
    net = nn.Sequential()
    for name in ("stem", "middle", "tail"):
        net.add_module(name, nn.Linear(16, 16))
    model = nn.Sequential()
    model.add_module("features_of_a_network_with_long_names", net)
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    return aiq.search(model, "xeon_2vcpu_roofs", example_inputs=x, max_drop=1.0, progress=None)


def shown(what, width):
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(what)
    return stream.getvalue()


def test_equal_rows_are_folded(plan):
    assert "stem to tail (3)" in shown(show.plan_table(plan), 120)
    every = shown(show.plan_table(plan, every=True), 120)
    assert all(f"\n{name} " in every for name in ("stem", "middle", "tail"))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_names_stay_apart_and_columns_go_first(plan, width):
    names = [f"{'long.' * 5}layer{i}.conv" for i in range(3)]
    rows = [
        dataclasses.replace(row, name=name, why=f"w4 saves {i} % more, loses 0.2 pp more")
        for i, (row, name) in enumerate(zip(plan.layers, names, strict=True))
    ]
    text = shown(show.plan_table(dataclasses.replace(plan, layers=tuple(rows), tables=None)), width)
    assert all(f"layer{i}.conv" in text for i in range(3))
    assert "long." not in text  # all names begin with it
    assert all(len(line) <= width for line in text.splitlines())
    assert ("cost, %" in text) == (width > 60)


LONG = [f"encoder.layer.{i}.attention.self.query" for i in range(3)]
HEADINGS = ("<layer", "<format", "bytes", "<why")
ROWS = tuple((name, "w8a8", "1234567890", f"alone saves 2 % ({name}, {name})") for name in LONG)


@pytest.mark.parametrize("width", [30, 60, 100])
def test_no_table_cuts_a_word(width):
    for what in (table("", HEADINGS, ROWS), FittedTable("", HEADINGS, ROWS, ("bytes",))):
        found = shown(what, width)
        assert found.count("q") == 3 * len(ROWS)
        assert "…" not in found


def test_layers_keep_their_names_on_one_line():
    graph = aiq.extract(nn.Linear(8, 8), torch.randn(1, 8))
    rows = tuple(
        dataclasses.replace(graph.layers[0], name=name, fused=("relu",) * 9) for name in LONG
    )
    found = shown(layers(dataclasses.replace(graph, layers=rows)), 80)
    assert all(name in found for name in LONG)


def test_a_layer_without_a_choice_is_not_said_to_be_pinned_by_the_caller():
    given = dataclasses.replace(tables(), allowed=((2,), (0, 1, 2), (2,), (0, 1, 2)))
    said = told(given, (0, 2, 0, 2))
    assert [said[i] for i in (0, 2)] == ["no other is allowed"] * 2
    assert "no other is allowed" not in (said[1], said[3])


@pytest.mark.parametrize("metric", ["top1", "perplexity", "cosine"])
def test_small_differences_have_digits(metric):
    given = tables()
    small = dataclasses.replace(given, drop=given.drop * 0.01)
    said = [why for why in told(small, (0, 0, 0, 0), metric) if "loses" in why]
    assert said
    unit = {"top1": "pp", "perplexity": "% of perplexity", "cosine": "more"}[metric]
    for why in said:
        number, _, rest = why.partition("loses ")[2].partition(" ")
        assert 0 < float(number) < 0.01
        assert rest.startswith(unit)
