"""Derivatives at a plan, against divergences that are computed in full."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from toy import Residual, batch, train

import aiq
from aiq import sensitivity
from aiq.evaluate import Evaluator
from aiq.formats import parse, parse_all
from aiq.sensitivity import curvature, likelihood
from aiq.sensitivity.auto import ESTIMATED
from aiq.sensitivity.context import EstimateContext, writes
from aiq.sensitivity.likelihood import Graph

FORMATS = parse_all("fp32,w8a8,w5a8,w4a8,w3a8,w2a8")


@pytest.fixture(scope="module")
def net():
    found = train(Residual)
    with torch.no_grad():  # so that more than a few samples are uncertain
        found.fc.weight *= 0.1
        found.fc.bias *= 0.1
    return found


@pytest.fixture(scope="module")
def evaluator(net):
    return Evaluator(net, [batch()])


@pytest.fixture(scope="module")
def plan(evaluator):
    found = dict.fromkeys(evaluator.layers, parse("w4a8"))
    evaluator.evaluate(found)  # rounded weights are kept from here on
    return found


def context(evaluator, x, formats, seed=0):
    return EstimateContext(
        simulator=evaluator.runner.simulator,
        batches=(x,),
        layers=evaluator.layers,
        formats=tuple(formats),
        classes=True,
        seed=seed,
        step=lambda: None,
    )


def test_a_run_under_a_plan_can_be_differentiated(evaluator, plan):
    simulator, (x, _) = evaluator.runner.simulator, batch(8)
    node = writes(simulator, "conv1")
    graph = Graph(simulator, x, [node], formats=plan)
    assert torch.allclose(graph.logits, simulator.run(x, plan), atol=1e-5)
    (found,) = torch.autograd.grad(graph.logits.square().sum(), [graph.activations[node]])
    assert found.abs().max() > 0


def test_changes_of_the_last_layer_have_a_closed_form(net, evaluator, plan):
    simulator, (x, _) = evaluator.runner.simulator, batch(200)
    coarse = parse("w2a8")
    near = {"conv1": [], "conv2": [], "fc": [coarse]}
    draws = [
        curvature.changes(context(evaluator, x, [coarse], seed), plan, near) for seed in range(30)
    ]
    i = evaluator.layers.index("fc")
    with torch.no_grad():
        z = simulator.run(x, plan)
        p, q = net(x).double().softmax(1), z.double().softmax(1)
        d = (simulator.run(x, {**plan, "fc": coarse}) - z).double()
    assert torch.allclose(draws[0][0][:, i, 0], ((q - p) * d).sum(1), atol=1e-6)
    form = (q * d.square()).sum(1) - (q * d).sum(1).square()
    found = torch.stack([second[:, i, 0].mean() for _, second in draws])
    error = float(found.std()) / len(found) ** 0.5
    assert float(found.mean()) == pytest.approx(float(form.mean()) / 2, abs=3 * error)
    assert error < float(form.mean()) / 10


def test_projections_have_the_covariance_of_the_softmax(monkeypatch):
    """The mean over all signs, of classes with equal, tiny and no probability."""
    q = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.0, 0.5], [1e-300, 1.0, 1e-20]], dtype=torch.float64)
    moments = torch.zeros(3, 3, 3, dtype=torch.float64)
    for signs in itertools.product((-1.0, 1.0), repeat=3):
        monkeypatch.setattr(
            likelihood, "_signs", lambda like, _, r=signs: torch.tensor(r).expand_as(like).double()
        )
        draw = likelihood._fisher_draw(q, torch.Generator())
        moments += draw[:, :, None] * draw[:, None, :] / 8
    assert torch.allclose(moments, torch.diag_embed(q) - q[:, :, None] * q[:, None, :], atol=1e-12)


def test_projections_on_two_classes_do_not_depend_on_the_signs():
    q = torch.tensor([0.0, 0.7, 0.0, 0.3], dtype=torch.float64)
    error = torch.tensor([5.0, 1.0, -3.0, -0.5], dtype=torch.float64)
    exact = q @ error.square() - (q @ error).square()
    for seed in range(5):
        draw = likelihood._fisher_draw(q, torch.Generator().manual_seed(seed))
        assert float((draw @ error).square()) == pytest.approx(float(exact), rel=1e-12)


def test_estimated_changes_are_about_the_measured_ones(evaluator, plan):
    formats = parse_all("w8a8,w5a8,w3a8")
    near = dict.fromkeys(evaluator.layers, formats)
    first, second = sensitivity.estimate_changes(evaluator, plan, near, 400)
    before = evaluator.evaluate(plan).kl
    measured = np.array(
        [[evaluator.evaluate({**plan, n: f}).kl - before for f in formats] for n in plan]
    )
    assert np.corrcoef((first + second).ravel(), measured.ravel())[0, 1] > 0.9
    assert (np.sign(first + second) == np.sign(measured)).mean() > 0.7


def test_without_a_budget_nothing_is_measured(evaluator):
    quick = sensitivity.estimate(evaluator, FORMATS, "curvature", fit=False, samples=ESTIMATED)
    table = sensitivity.estimate_and_measure(evaluator, FORMATS, math.inf)
    assert table.method == "auto"
    assert np.array_equal(table.divergence, quick.divergence)
    assert (table.drop[:, 0] == 0).all()


def test_drops_that_decide_are_measured(evaluator):
    quick = sensitivity.estimate(evaluator, FORMATS, "curvature", fit=False, samples=ESTIMATED)
    budget = float(np.sort(quick.drop.ravel())[-3])
    table = sensitivity.estimate_and_measure(evaluator, FORMATS, budget)
    changed = np.argwhere(table.divergence != quick.divergence)
    assert 0 < len(changed) <= quick.drop.size
    for i, k in changed:
        assert budget / 12 < quick.drop[i, k] <= budget
        exact = evaluator.evaluate({table.layers[i]: table.formats[k]}).kl
        assert table.divergence[i, k] == pytest.approx(exact, rel=0.8)
        assert table.drop[i, k] == pytest.approx(table.slope * table.divergence[i, k])
    large = quick.drop > budget
    assert large.any()
    assert np.array_equal(table.divergence[large], quick.divergence[large])


def test_another_budget_does_not_estimate_again(net, tmp_path, monkeypatch):
    options = {"objective": "intensity", "formats": FORMATS, "cache": tmp_path, "progress": None}
    given = [batch(100)]
    search = partial(aiq.search, net, "xeon_2vcpu_roofs", given, confidence=0.5, **options)
    search(max_drop=0.02)
    with monkeypatch.context() as patch:
        patch.setattr(curvature, "changes", None)
        second = search(max_drop=0.04)
    again = search(max_drop=0.04, cache=False)
    assert second.formats == again.formats
    assert second.tables == again.tables


class Steps(nn.Sequential):
    """A network that no derivative passes."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 6, 3), nn.Tanh(), Sign(), nn.Flatten(), nn.Linear(96, 4))


class Sign(nn.Module):
    def forward(self, x):
        return x.sign()


def test_where_derivatives_do_not_reach_the_divergence_is_estimated_by_runs():
    torch.manual_seed(0)
    evaluator = Evaluator(Steps().eval(), [batch(100)])
    table = sensitivity.estimate_and_measure(evaluator, "w8a8,w2a8", math.inf)
    by_runs = sensitivity.estimate(evaluator, "w8a8,w2a8", "kl", fit=False, samples=ESTIMATED)
    assert (table.divergence[:, 1] > 0).all()
    assert np.array_equal(table.divergence, by_runs.divergence)
