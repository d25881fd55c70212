"""The cheapest plan is tried first: if it holds it is optimal, and no layer is measured alone."""

import pytest
import torch
import toy

import aiq
from aiq.drops import DropTable
from aiq.evaluate import Evaluator
from aiq.formats import parse


@pytest.fixture(scope="module")
def model():
    return toy.train(toy.Plain)


DATA = [toy.batch(200, seed=1)]
OPTIONS = {"objective": "intensity", "formats": "fp32,w8a8,w2a2"}


def test_a_cheapest_plan_that_holds_takes_one_evaluation_and_is_optimal(model):
    plan = aiq.search(model, "t4", DATA, objective="intensity", formats="fp32,w8a8", max_drop=0.2)
    assert plan.evaluations == 2  # float32, and the plan
    assert set(plan.formats.values()) == {parse("w8a8")}
    assert plan.proof.status == "optimal"
    assert plan.proof.cheapest
    assert plan.proof.gap == 0
    assert plan.proof.closed.get("open", 0) == 0 < sum(plan.proof.closed.values())
    points = {p.name: p for p in plan.frontier()}
    assert points.keys() == {"fp32", "w8a8", "plan"}
    assert points["plan"].optimal
    assert plan.provenance["sensitivity"] is None
    assert plan.accuracy.drop_limit <= 0.2
    assert "w8a8 everywhere is optimal: nothing cheaper exists and" in str(plan)
    measured = Evaluator(model, DATA).evaluate(plan.formats)
    assert plan.accuracy.plan == measured.accuracy
    assert aiq.Plan.from_json(plan.to_json()) == plan


def test_uniform_plans_have_a_drop_only_if_they_were_evaluated(model):
    options = {"formats": "fp32,w8a8,w8a4", "objective": "intensity", "max_drop": 1.0}
    plan = aiq.search(model, "t4", DATA, pin={"5": "fp32"}, **options)
    assert plan.proof.cheapest
    assert plan.evaluations == 2
    points = {p.name: p for p in plan.frontier()}
    assert points.keys() == {"fp32", "w8a8", "w8a4", "plan"}
    assert (points["fp32"].drop, points["w8a8"].drop) == (0.0, None)
    assert points["w8a4"].drop == points["plan"].drop == plan.accuracy.drop
    assert plan.frontier().points[-1].name == "w8a8"
    assert "was not evaluated" in str(plan.frontier())
    assert aiq.Plan.from_json(plan.to_json()) == plan


def test_on_demand_all_uniform_plans_and_layers_are_evaluated_too(model):
    options = {"formats": "fp32,w8a8,w8a4", "objective": "intensity", "max_drop": 1.0}
    cheapest = aiq.search(model, "t4", DATA, **options)
    plan = aiq.search(model, "t4", DATA, frontier=True, **options)
    assert plan.formats == cheapest.formats
    assert plan.proof.cheapest
    evaluator = Evaluator(model, DATA)
    for point in plan.frontier():
        assert point.drop is not None
        if point.name:
            formats = {n: parse(f) for n, f in plan.frontier().plan(point).items()}
            measured = evaluator.evaluate(formats).drop
            assert point.measured_drop == pytest.approx(measured, abs=1e-12)
    assert sum(point.optimal for point in plan.frontier()) >= 3
    assert max(layer.drop for layer in plan.layers) > 0
    assert "not evaluated" not in str(plan.frontier())


def test_a_cheapest_plan_that_does_not_hold_costs_at_most_one_evaluation(model):
    plan = aiq.search(model, "t4", DATA, max_drop=0.05, **OPTIONS)
    assert not plan.proof.cheapest
    assert plan.provenance["sensitivity"] is not None
    assert plan.evaluations > 2
    assert plan.accuracy.drop_limit <= 0.05
    assert "everywhere is optimal" not in str(plan)


@pytest.mark.parametrize(
    "options", [{"method": "greedy"}, {"objective": "weighted"}, {"data": None}]
)
def test_searches_without_such_a_proof_go_on_as_before(model, options):
    call = {"data": DATA, "max_drop": 1.0, "objective": "intensity", "formats": "fp32,w8a8"}
    plan = aiq.search(model, "t4", example_inputs=DATA[0][0][:2], **(call | options))
    assert not plan.proof.cheapest


def test_a_table_that_is_given_is_shown(model):
    drops = DropTable(
        layers=("0", "2", "5"),
        formats=(parse("w8a8"),),
        drop=torch.full((3, 1), 0.001).double().numpy(),
        error=torch.zeros(3, 1).double().numpy(),
        divergence=torch.zeros(3, 1).double().numpy(),
        measured=None,
        method="by hand",
        slope=1.0,
        baseline=None,
        samples=0,
        evaluations=0,
        seconds=0.0,
    )
    plan = aiq.search(
        model, "t4", DATA, max_drop=0.5, objective="intensity", formats="fp32,w8a8",
        sensitivity=drops,
    )  # fmt: skip
    assert plan.proof.cheapest
    assert [layer.drop for layer in plan.layers] == pytest.approx([0.001] * 3)


def test_the_first_line_is_one_sentence_and_divides_no_lower_bounds(model):
    x, y = DATA[0]
    plan = aiq.search(model, "t4", [(x[:64], y[:64])], formats="fp32,w8a8", max_drop=0.5)
    first = str(plan).splitlines()[0]
    for words in ("accuracy ", "pp with 95 %)", "all 3 layers int8 (w8a8)", "64x3x6x6"):
        assert words in " ".join(str(plan).split())
    assert plan.predicted.level == "roofline"
    assert "faster" not in first
    assert "aiq calibrate" not in " ".join(str(plan).split())  # which runs on no GPU
    assert "t4 is not calibrated for inductor, " in " ".join(str(plan).split())

    ratio = plan.baseline.seconds / plan.predicted.seconds
    assert f"{ratio:.1f}x faster" not in str(plan)
