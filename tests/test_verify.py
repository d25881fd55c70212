"""The loop: what it learns from measured plans, when it stops, what it says if nothing holds."""

import json
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from scipy import stats
from torch import nn
from toy import batch, train

import aiq
from aiq import sensitivity
from aiq.cost import intensity_table
from aiq.errors import InfeasibleError
from aiq.evaluate import Evaluator
from aiq.formats import parse, parse_all
from aiq.graph import extract
from aiq.plan import Plan
from aiq.planning import drop_curve, loop
from aiq.planning.accuracy import AccuracyMeter
from aiq.planning.tables import Tables
from aiq.planning.task import Task

FORMATS = parse_all("fp32,w8a8,w5a5,w4a4,w3a3,w2a2")


class Net(nn.Module):
    """A chain of convolutions with a shortcut, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.conv3 = nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        y = self.conv1(x).relu()
        y = (self.conv3(self.conv2(y).relu()) + y).relu()
        return self.fc(y.mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    return train(Net, 600)


@pytest.fixture(scope="module")
def evaluator(net):
    return Evaluator(net, [batch(3000, 1)])


@pytest.fixture(scope="module")
def tables(net, evaluator):
    drops = sensitivity.measure(evaluator, FORMATS, joint=True)
    cost = intensity_table(extract(net, batch(1)[0]), FORMATS)
    return Tables(
        cost=cost,
        intensity=cost,
        drop=drops.drop,
        sizes=np.zeros(cost.cost.shape, np.int64),
        allowed=(tuple(range(len(FORMATS))),) * len(cost.layers),
        measured_plans=drops.measured_plans,
    )


def task(tables, **changes):
    arguments = {
        "tables": tables,
        "weighted_by": None,
        "max_drop": 0.02,
        "confidence": 0.95,
        "max_size": None,
        "method": "exact",
        "time_limit": None,
    }
    return Task(**arguments | changes)


def quiet(stage, done, total):
    assert 0 <= done <= total


# The bend


def test_without_measurements_the_sum_stands():
    curve = drop_curve.fit_curve([])
    assert curve.predict(0.013) == 0.013
    assert curve.inverse(0.013) == 0.013
    assert drop_curve.fit_curve([(0.0, 0.01, 0.001)]) == curve, "float32 teaches nothing"


@given(
    meter=st.floats(0.5, 2),
    power=st.floats(0.7, 1.8),
    totals=st.lists(st.floats(0.001, 0.1), min_size=6, max_size=10, unique=True),
)
def test_a_bend_is_found_where_there_is_one(meter, power, totals):
    if max(totals) < 3 * min(totals):
        return
    points = [(t, meter * 0.01 * (t / 0.01) ** power, 1e-6) for t in totals]
    curve = drop_curve.fit_curve(points)
    for total, drop, _ in points:
        assert curve.predict(total) == pytest.approx(drop, rel=0.25)
        assert curve.predict(curve.inverse(drop)) == pytest.approx(drop)
    grid = np.geomspace(min(totals), max(totals), 9)
    predicted = [curve.predict(t) for t in grid]
    assert predicted == sorted(predicted)
    slopes = [(curve.predict(t * 1.001) - curve.predict(t)) / (t * 0.001) for t in grid]
    assert slopes == pytest.approx([curve.slope(t) for t in grid], rel=0.01)


def test_noise_hardly_changes_the_curve():
    noisy = drop_curve.fit_curve([(0.01, 0.03, 0.05), (0.02, 0.01, 0.05)])
    assert noisy.predict(0.01) == pytest.approx(0.01, rel=0.35)
    sure = drop_curve.fit_curve([(0.01, 0.03, 1e-4), (0.02, 0.06, 1e-4)])
    assert sure.predict(0.01) == pytest.approx(0.03, rel=0.2)


def test_many_plans_on_the_same_samples_share_their_luck():
    """Ten plans on one sample that was easy teach less than ten on samples of their own."""
    points = [(t, t - 0.005, 0.004) for t in np.linspace(0.008, 0.03, 10)]
    together = drop_curve.fit_curve(points)
    apart = drop_curve.fit_curve(*([point] for point in points))
    assert abs(together.predict(0.01) - 0.01) < abs(apart.predict(0.01) - 0.01)


# The loop


@pytest.mark.parametrize("max_drop", [0.005, 0.02, 0.06])
def test_what_is_returned_holds(tables, evaluator, max_drop):
    goal = task(tables, max_drop=max_drop)
    outcome = loop.search_verified(goal, AccuracyMeter(evaluator, 0.95), quiet)
    assert outcome.accuracy.samples == 3000, "the plan that is returned was measured in full"
    assert outcome.accuracy.drop <= outcome.accuracy.drop_limit <= max_drop
    assert outcome.accuracy.drop == pytest.approx(evaluator.evaluate(outcome.formats).drop)
    for uniform in tables.uniform().values():
        accuracy = AccuracyMeter(evaluator, 0.95).accuracy(uniform)
        if accuracy.drop_limit <= max_drop:
            assert outcome.value <= tables.cost.total(uniform)


def test_weighted_is_no_worse_than_any_plan_measured(tables, evaluator):
    goal = task(tables, weighted_by=0.9)
    outcome = loop.search_verified(goal, AccuracyMeter(evaluator, 0.95), quiet)
    drop = evaluator.evaluate(outcome.formats).drop
    assert outcome.value == pytest.approx(goal.value(outcome.formats, drop))
    for uniform in tables.uniform().values():
        assert outcome.value <= goal.value(uniform, evaluator.evaluate(uniform).drop) + 1e-12


def test_few_rounds(tables, evaluator):
    fresh = AccuracyMeter(evaluator, 0.95)
    loop.search_verified(task(tables), fresh, quiet)
    assert len(fresh._known) <= loop.ROUNDS + len(FORMATS)


def test_hopeless_plans_are_stopped_early_and_the_same_way_each_time(net):
    evaluator = Evaluator(net, [batch(3000, 1)], memory=500_000)
    assert evaluator.chunks > 10
    bad = dict.fromkeys(evaluator.layers, parse("w2a2"))
    meter = AccuracyMeter(evaluator, 0.95)
    part = meter.accuracy(bad, 0.01)
    assert part.samples < 3000
    assert part.drop_limit > 0.01
    assert part == AccuracyMeter(evaluator, 0.95).accuracy(bad, 0.01)
    assert meter.known(bad) == part
    assert meter.accuracy(bad, 0.005) is not None
    assert meter.known(bad) == part, "worse than a smaller budget too: nothing is measured again"
    whole = meter.accuracy(bad)
    assert whole.samples == 3000
    good = dict.fromkeys(evaluator.layers, parse("w8a8"))
    assert meter.accuracy(good, 0.01).samples == 3000


def test_infeasible_says_how_many_samples_would_do(net):
    few = Evaluator(net, [batch(120, 1)])
    drops = sensitivity.measure(few, "w8a8")
    cost = intensity_table(extract(net, batch(1)[0]), parse_all("fp32,w8a8"))
    tables = Tables(
        cost=cost,
        intensity=cost,
        drop=np.concatenate([np.zeros_like(drops.drop), drops.drop], 1),
        sizes=np.zeros(cost.cost.shape, np.int64),
        allowed=((1,),) * len(cost.layers),
    )
    with pytest.raises(InfeasibleError, match=r"on 120 samples.*max_drop is.*about [\d,]+ samples"):
        loop.search_verified(task(tables, max_drop=0.005), AccuracyMeter(few, 0.95), quiet)


def test_search_takes_every_sensitivity_and_the_same_twice_is_the_same(net, tmp_path):
    data = [batch(500, 1)]
    arguments = {
        "objective": "intensity",
        "formats": "fp32,w8a8,w4a4,w2a2",  # w2a2 drops too much, so that layers are measured
        "runtime": None,
        "max_drop": 0.05,
    }

    def own(layer, chosen):
        return 0.01 / chosen.weight.bits

    for source in (*sensitivity.METHODS, own):
        plan = aiq.search(net, "xeon_2vcpu_roofs", data, sensitivity=source, seed=3, **arguments)
        assert plan.accuracy.drop_limit <= 0.05
        assert plan.accuracy.samples == 500
        assert plan.provenance["sensitivity"] == getattr(source, "__name__", source)
    first = aiq.search(net, "xeon_2vcpu_roofs", data, cache=tmp_path, **arguments)
    again = aiq.search(net, "xeon_2vcpu_roofs", data, cache=tmp_path, **arguments)
    assert first.layers == again.layers
    assert first.accuracy == again.accuracy
    other = aiq.search(
        net, "xeon_2vcpu_roofs", data, metric="perplexity", **arguments | {"max_drop": 0.5}
    )
    assert other.provenance["metric"] == "perplexity"
    assert other.accuracy.plan < 0, "a log-likelihood"


def test_a_plan_says_how_many_samples_would_show_that_a_cheaper_one_holds():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval()
    for layer in (net[0], net[2]):
        nn.init.eye_(layer.weight)

    def found(samples, **more):
        y = torch.arange(samples) % 8
        x = torch.eye(8)[y] + 0.1 * torch.rand(samples, 8)
        data = [(x, y)]
        arguments = {"objective": "intensity", "formats": "fp32,w8a8"} | more
        return aiq.search(net, "xeon_2vcpu_roofs", data, example_inputs=x[:1], **arguments)

    # No answer changes, so Tango's limit is z^2 / (n + z^2): 1 pp at 95 % takes 99 z^2 samples.
    enough = math.ceil(99 * stats.norm.ppf(0.95) ** 2)
    few = found(64)
    assert {layer.format for layer in few.layers} == {"fp32"}
    assert few.accuracy.samples_needed == enough
    assert f"With about {enough} samples instead of 64, a cheaper plan could" in str(few)
    assert all(f"to be sure takes about {enough} samples" in layer.why for layer in few.layers)
    assert Plan.from_json(few.to_json()) == few
    walked = found(64, method="greedy")
    assert walked.accuracy.samples_needed == enough
    many = found(enough)
    assert {layer.format for layer in many.layers} == {"w8a8"}
    assert many.accuracy.samples_needed is None
    assert "samples instead of" not in str(many)


def test_plans_from_before_samples_needed_was_kept_still_load():
    x = torch.randn(8, 4)
    net = nn.Sequential(nn.Linear(4, 3))
    plan = aiq.search(net, "xeon_2vcpu_roofs", [(x, torch.zeros(8).long())], objective="intensity")
    document = json.loads(plan.to_json())
    del document["accuracy"]["samples_needed"]
    assert Plan.from_json(json.dumps(document)).accuracy.samples_needed is None


def test_a_drop_that_is_too_large_is_not_a_matter_of_samples():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    x = torch.randn(400, 16)
    with torch.no_grad():
        data = [(x, net(x).argmax(1))]
    plan = aiq.search(net, "xeon_2vcpu_roofs", data, objective="intensity", formats="fp32,w2a2")
    assert {layer.format for layer in plan.layers} == {"fp32"}
    assert plan.accuracy.samples_needed is None
