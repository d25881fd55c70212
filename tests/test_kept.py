"""What a plan keeps of the tables it was chosen from, against all plans enumerated."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import aiq
from aiq.errors import InputError
from aiq.formats import parse
from aiq.graph import extract
from aiq.planning.kept import edges


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.third, self.last = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 10)

    def forward(self, x):
        x = self.first(x).relu()
        x = self.third(self.second(x).relu()) + x
        return self.last(x.mean((2, 3)))


def searched(**options):
    torch.manual_seed(0)
    return aiq.search(
        Residual().eval(),
        "epyc_zen4_2vcpu",
        example_inputs=torch.randn(16, 3, 16, 16),
        runtime="openvino",
        formats="fp32,bf16,w8a8",
        max_drop=0.02,
        **options,
    )


@pytest.fixture(scope="module")
def plan():
    return searched()


def everything(plan):
    """Return (seconds, sum of drops, formats) of every plan, by the tables that the file has."""
    tables = plan.tables
    for columns in itertools.product(*tables.allowed):
        seconds = tables.fixed_seconds + sum(
            r[k] for r, k in zip(tables.seconds, columns, strict=True)
        )
        for pair in tables.conversions:
            seconds += pair.seconds[columns[pair.source]][columns[pair.target]]
        yield seconds, sum(r[k] for r, k in zip(tables.drop, columns, strict=True)), columns


def test_the_frontier_keeps_to_a_size(plan):
    most = int(0.6 * plan.baseline.weight_bytes)
    small = searched(max_size=most)
    weights = [layer.weight_elements for layer in small.layers]
    bits = [parse(name).weight.bits for name in small.tables.formats]
    known = {
        columns: (seconds, drop)
        for seconds, drop, columns in everything(small)
        if sum(w * bits[k] for w, k in zip(weights, columns, strict=True)) / 8 <= most
    }
    points = [point for point in small.tables.frontier if point.optimal]
    assert len(points) >= 2
    for point in points:
        cheapest = min(s for s, d in known.values() if d <= point.drop * (1 + 1e-5) + 1e-12)
        assert point.seconds == pytest.approx(cheapest, rel=1e-5)
    least = min(drop for _, drop in known.values())
    assert min(point.drop for point in points) == pytest.approx(least, rel=0.01)


def test_layers_that_share_a_weight_are_one_decision():
    shared = nn.Linear(16, 16)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(16, 4)).eval()
    plan = aiq.search(model, "xeon_2vcpu_roofs", example_inputs=torch.randn(4, 16), runtime=None)
    assert len(plan.layers) == 3
    points = plan.frontier()
    assert any(point.optimal for point in points)
    assert all(point.formats[0] == point.formats[1] for point in points)


def test_the_frontier_is_that_of_all_plans_enumerated(plan):
    known = {columns: (seconds, drop) for seconds, drop, columns in everything(plan)}
    points = [point for point in plan.tables.frontier if point.optimal]
    assert len(points) >= 5
    for point in points:
        seconds, drop = known[point.formats]
        assert point.seconds == pytest.approx(seconds, rel=1e-5)
        assert point.drop == pytest.approx(drop, rel=1e-5, abs=1e-12)
        cheapest = min(s for s, d in known.values() if d <= drop * (1 + 1e-5) + 1e-12)
        assert point.seconds == pytest.approx(cheapest, rel=1e-5)
    least = min(seconds for seconds, _ in known.values())
    assert min(point.seconds for point in points) == pytest.approx(least, rel=1e-5)


def test_float32_every_uniform_plan_and_the_chosen_one_are_there(plan):
    points = {point.name: point for point in plan.tables.frontier}
    assert points.keys() == {"", "fp32", "bf16", "w8a8", "plan"}
    assert points["fp32"].seconds == pytest.approx(plan.baseline.seconds)
    assert points["fp32"].drop == 0
    assert points["plan"].seconds == plan.predicted.seconds
    chosen = [plan.tables.formats[k] for k in points["plan"].formats]
    assert chosen == [layer.format for layer in plan.layers]
    drops = [point.drop for point in plan.tables.frontier]
    assert drops == sorted(drops)


def test_edges_pass_through_what_has_no_choice(plan):
    assert plan.tables.edges == ((0, 1), (0, 2), (1, 2), (2, 3))
    pooled = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2))
    assert edges(extract(pooled, torch.randn(2, 3, 4, 4))) == ((0, 1),)


def test_the_same_search_keeps_the_same(plan):
    assert searched().tables == plan.tables


def test_tables_survive_the_disk_and_old_plans_have_none(plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    assert aiq.Plan.load(tmp_path / "plan.json") == plan
    document = json.loads(plan.to_json())
    del document["tables"]
    assert aiq.Plan.from_json(json.dumps(document)).tables is None


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {"seconds": t.seconds[1:]},
        lambda t: {"drop": tuple(row[1:] for row in t.drop)},
        lambda t: {"edges": ((0, 99),)},
        lambda t: {"unit": "hours"},
        lambda t: {"formats": ("w8a8", "bf16", "w4")},
        lambda t: {"frontier": ()},
        lambda t: {"allowed": ((0, 7), *t.allowed[1:])},
        lambda t: {"frontier": tuple(replace(p, formats=(0,)) for p in t.frontier)},
        lambda t: {"frontier": tuple(replace(p, formats=(9, 9, 9, 9)) for p in t.frontier)},
    ],
)
def test_tables_that_do_not_fit_the_layers_are_refused(plan, change):
    tables = replace(plan.tables, **change(plan.tables))
    with pytest.raises(InputError, match="do not fit its layers"):
        replace(plan, tables=tables)
