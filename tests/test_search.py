"""Searches of ResNet-20: plans that hold, and proofs that are true."""

import itertools
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch

import aiq
from aiq import data, graph, models
from aiq.cost import intensity_table
from aiq.errors import (
    InfeasibleError,
)
from aiq.evaluate import Evaluator
from aiq.formats import PAPER, parse, parse_all
from aiq.sensitivity import measure

LAMBDA = 0.9


@pytest.fixture(scope="module")
def resnet20():
    return models.load("resnet20")


@pytest.fixture(scope="module")
def images():
    return data.batches(data.sample("val").take(20))


@pytest.fixture(scope="module")
def calibration():
    return data.batches(data.sample("train").take(10))


@pytest.fixture(scope="module")
def image():
    return torch.zeros(1, 3, 32, 32)


@pytest.fixture(scope="module")
def traced(resnet20, image):
    return graph.trace(resnet20, image)


@pytest.fixture(scope="module", autouse=True)
def one_export(resnet20, traced):
    """Export ResNet-20 once for all searches of one image."""
    export = graph.trace

    def trace(model, inputs, batch_dim):
        known = model is resnet20 and inputs.shape == (1, 3, 32, 32)
        return traced if known else export(model, inputs, batch_dim)

    with mock.patch.object(graph, "trace", trace):
        yield


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder where searches keep their evaluations, so that no two measure the same."""
    return tmp_path_factory.mktemp("evaluations")


@pytest.fixture(scope="module")
def drops(traced, images, calibration, kept):
    return measure(Evaluator(traced, images, calibration=calibration, cache=kept), PAPER)


@pytest.fixture(scope="module")
def find(resnet20, images, calibration, image, kept):
    """Search ResNet-20 on its images, for intensity."""
    return partial(
        aiq.search,
        resnet20,
        "xeon_2vcpu_roofs",
        images,
        calibration=calibration,
        example_inputs=image,
        objective="intensity",
        cache=kept,
    )


def objective(plan, drops):
    """The paper's objective, drops predicted by the table."""
    predicted = sum(
        drops.drop[drops.layers.index(x.name), drops.formats.index(parse(x.format))]
        for x in plan.layers
    )
    ratio = plan.predicted.intensity / plan.baseline.intensity
    return -LAMBDA * ratio + (1 - LAMBDA) * 100 * predicted


def test_exact_is_never_worse_than_the_heuristics_or_uniform(resnet20, image, traced, drops):
    plans = {
        method: aiq.search(
            resnet20,
            "xeon_2vcpu_roofs",
            example_inputs=image,
            objective="weighted",
            sensitivity=drops,
            method=method,
        )
        for method in ("exact", "greedy", "coordinate")
    }
    values = {method: objective(plan, drops) for method, plan in plans.items()}
    assert plans["exact"].proof.status == "optimal"
    assert plans["exact"].proof.gap == 0
    assert plans["exact"].proof.value == pytest.approx(values["exact"], abs=1e-6)
    assert values["exact"] <= min(values["greedy"], values["coordinate"]) + 1e-9
    table = intensity_table(traced.graph, PAPER)
    for k, format_ in enumerate(PAPER):
        ratio = table.intensity(dict.fromkeys(table.layers, format_)) / table.intensity({})
        assert values["exact"] <= -LAMBDA * ratio + 10 * drops.drop[:, k].sum() + 1e-9


@pytest.mark.parametrize("max_drop", [0.0002, 0.001, 0.01])
def test_exact_is_never_worse_within_a_budget(resnet20, image, traced, drops, max_drop):
    plans = [
        aiq.search(
            resnet20,
            "xeon_2vcpu_roofs",
            example_inputs=image,
            objective="intensity",
            formats=PAPER,
            sensitivity=drops,
            max_drop=max_drop,
            method=method,
        )
        for method in ("exact", "greedy", "coordinate")
    ]
    assert all(plan.predicted_drop <= max_drop + 1e-9 for plan in plans)
    exact, *others = (plan.predicted.bytes for plan in plans)
    assert exact <= min(others)
    assert exact == pytest.approx(plans[0].proof.bound)
    table = intensity_table(traced.graph, PAPER)
    for k, format_ in enumerate(PAPER):
        if drops.drop[:, k].sum() <= max_drop:
            assert exact <= table.total(dict.fromkeys(table.layers, format_))


def test_weight_only_beats_the_paper_within_one_point(resnet20, traced, calibration, image):
    # Drops from few images take a tenth of the time; the plan is measured on all.
    formats = parse_all("fp32,w8,w6,w5,w4,w3")
    few = data.batches(data.sample("val").take(20))
    plan = aiq.search(
        resnet20,
        "xeon_2vcpu_roofs",
        data.batches(data.sample("val").take(100)),
        calibration=calibration,
        example_inputs=image,
        objective="intensity",
        formats=formats,
        sensitivity=measure(Evaluator(traced, few, calibration=calibration), formats),
    )
    assert plan.accuracy.samples == 1000
    assert plan.accuracy.drop < plan.accuracy.drop_limit <= 0.01
    assert plan.predicted.intensity >= 45.25
    assert plan.proof.status == "optimal"


def test_weights_and_activations_within_one_point(find):
    plan = find(confidence=0.5, formats="fp32,w6a6,w5a5,w4a4,w3a3")
    assert plan.accuracy.drop == pytest.approx(plan.accuracy.drop_limit)
    assert plan.accuracy.drop_limit <= 0.01
    assert plan.predicted.intensity >= 7.5 * plan.baseline.intensity


def test_plan_says_what_an_independent_evaluation_says(find, traced, images, calibration):
    plan = find(formats="fp32,w4a4")
    evaluation = Evaluator(traced, images, calibration=calibration).evaluate(plan.formats)
    assert evaluation.accuracy == plan.accuracy.plan
    table = intensity_table(traced.graph, parse_all("fp32,w4a4"))
    assert table.intensity(plan.formats) == plan.predicted.intensity


@pytest.fixture(scope="module")
def all_but_eight(traced):
    """Pins every layer after the first eight."""
    return dict.fromkeys([x.name for x in traced.graph.quantizable][8:], "w8")


def test_exhaustive_on_the_first_eight_layers_agrees(resnet20, image, drops, all_but_eight):
    _, w8, w4 = drops.drop.T
    half = (w4 - w8)[:8].clip(min=0).sum() / 2  # of what four bits cost in these layers
    exact, exhaustive = (
        aiq.search(
            resnet20,
            "xeon_2vcpu_roofs",
            example_inputs=image,
            objective="intensity",
            formats=PAPER,
            sensitivity=drops,
            pin=all_but_eight,
            max_drop=w8.clip(min=0).sum() + half,
            method=method,
        )
        for method in ("exact", "exhaustive")
    )
    assert exact.proof.value == exhaustive.proof.value == exact.proof.bound
    assert exact.proof.status == exhaustive.proof.status == "optimal"
    assert {x.format for x in exact.layers[:8]} > {"w4"}
    assert {x.format for x in exact.layers[8:]} == {"w8"}


def test_weighted_optimum_on_the_first_eight_layers_by_enumeration(
    resnet20, image, traced, drops, all_but_eight
):
    plan = aiq.search(
        resnet20,
        "xeon_2vcpu_roofs",
        example_inputs=image,
        objective="weighted",
        lam=0.5,
        sensitivity=drops,
        pin=all_but_eight,
    )
    table = intensity_table(traced.graph, PAPER)
    bits, drop = table.cost.astype(float), drops.drop
    best = np.inf
    for choices in itertools.product(range(3), repeat=8):
        columns = [*choices, *[1] * (len(bits) - 8)]  # PAPER is fp32, w8, w4
        rows = range(len(bits))
        ratio = bits[:, 0].sum() / bits[rows, columns].sum()
        best = min(best, -0.5 * ratio + 0.5 * 100 * drop[rows, columns].sum())
    assert plan.proof.value == pytest.approx(best, abs=1e-9)


def test_the_papers_way_measures_every_candidate(resnet20, calibration, image):
    few = data.batches(data.sample("val").take(5))
    pins = {"layer*": "w8"}
    for method in ("greedy", "coordinate"):
        plan = aiq.search(
            resnet20,
            "xeon_2vcpu_roofs",
            few,
            calibration=calibration,
            example_inputs=image,
            objective="weighted",
            method=method,
            pin=pins,
        )
        assert plan.proof.status == "heuristic"
        assert plan.proof.bound is None
        assert plan.evaluations > 4
        value = -LAMBDA * plan.predicted.intensity / plan.baseline.intensity
        value += (1 - LAMBDA) * 100 * plan.accuracy.drop
        assert plan.proof.value == pytest.approx(value)


def test_without_data_nothing_is_claimed_to_be_measured(resnet20, image):
    plan = aiq.search(resnet20, "xeon_2vcpu_roofs", example_inputs=torch.rand(4, 3, 32, 32))
    assert plan.accuracy is None
    assert plan.evaluations == 0
    assert "not measured" in str(plan)
    assert plan.objective == "throughput"
    assert plan.predicted.seconds <= plan.baseline.seconds


def test_size_budget_holds(resnet20, image, drops):
    plan = aiq.search(
        resnet20,
        "xeon_2vcpu_roofs",
        example_inputs=image,
        objective="intensity",
        formats=PAPER,
        sensitivity=drops,
        max_drop=0.5,
        max_size=200_000,
    )
    assert plan.predicted.weight_bytes <= 200_000
    with pytest.raises(InfeasibleError, match=r"nearest feasible max_size is 135453"):
        aiq.search(
            resnet20,
            "xeon_2vcpu_roofs",
            example_inputs=image,
            objective="intensity",
            formats=PAPER,
            sensitivity=drops,
            max_size=100_000,
            max_drop=1.0,
        )


def test_infeasible_drop_names_the_nearest(find):
    with pytest.raises(InfeasibleError, match="nearest feasible max_drop is"):
        find(formats="w2", max_drop=0.001)
