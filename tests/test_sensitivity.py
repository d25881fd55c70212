"""Every way of estimating against the definition it claims, computed another way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div
from toy import Residual, batch, train

from aiq import sensitivity
from aiq.drops import DropTable
from aiq.errors import DataError, InputError
from aiq.evaluate import Evaluator
from aiq.formats import parse, parse_all
from aiq.graph import trace
from aiq.sensitivity import estimated, fisher, hessian, mse
from aiq.sensitivity.context import EstimateContext
from aiq.sensitivity.likelihood import Graph

FORMATS = parse_all("fp32,w8a8,w4a4,w3,w2a2")
ESTIMATES = sensitivity.METHODS[2:]


@pytest.fixture(scope="module")
def net():
    return train(Residual)


@pytest.fixture(scope="module")
def evaluator(net):
    return Evaluator(net, [batch()])


@pytest.fixture(scope="module")
def measured(evaluator):
    return sensitivity.measure(evaluator, FORMATS, precision=0, joint=True)


def setting(evaluator, formats="w4a4,w2a2", **changes):
    arguments = {
        "simulator": evaluator.runner.simulator,
        "batches": tuple(evaluator.inputs(400)),
        "layers": evaluator.layers,
        "formats": parse_all(formats),
        "classes": True,
        "seed": 0,
        "step": lambda: None,
    }
    return EstimateContext(**arguments | changes)


@torch.no_grad()
def test_measured_is_the_divergence_of_each_layer_alone(net, evaluator, measured):
    x, y = batch()
    exact = net(x)
    baseline = float((exact.argmax(1) == y).double().mean())
    for i, layer in enumerate(measured.layers):
        for k, chosen in enumerate(FORMATS):
            logits = evaluator.runner.simulator.run(x, {layer: chosen})
            divergence = kl_div(
                logits.double().log_softmax(1),
                exact.double().log_softmax(1),
                reduction="batchmean",
                log_target=True,
            )
            assert measured.divergence[i, k] == pytest.approx(float(divergence), abs=1e-6)
            drop = baseline - float((logits.argmax(1) == y).double().mean())
            assert measured.measured[i, k] == pytest.approx(drop, abs=1e-9)
    assert np.allclose(measured.drop, measured.slope * measured.divergence)
    assert (measured.drop[:, 0] == 0).all()
    assert (measured.error[:, 1:] > 0).all()


def test_the_slope_is_that_of_whole_networks(evaluator, measured):
    """The sum of drops is about what plans lose that were measured as a whole."""
    for whole in measured.measured_plans:
        formats = {layer: parse(name) for layer, name in whole.formats.items()}
        assert evaluator.evaluate(formats).drop == pytest.approx(whole.drop)
    predicted = [
        measured.predict({n: parse(f) for n, f in whole.formats.items()})
        for whole in measured.measured_plans
    ]
    drops = [whole.drop for whole in measured.measured_plans]
    assert np.corrcoef(predicted, drops)[0, 1] > 0.8
    assert len({tuple(w.formats.values()) for w in measured.measured_plans}) == len(
        measured.measured_plans
    )
    assert any(len(set(w.formats.values())) > 1 for w in measured.measured_plans), "mixed ones too"


def test_few_samples_predict_the_drop_of_a_plan(net, evaluator, measured):
    many = Evaluator(net, [batch(4000, 3)])
    for name in ("w4a4", "w2a2"):
        plan = dict.fromkeys(measured.layers, parse(name))
        exact = many.evaluate(plan).kl
        seen = sensitivity.predict_drop(many, measured, plan)
        assert seen == pytest.approx(measured.slope * exact, rel=0.3), "three standard errors"
    assert sensitivity.predict_drop(many, measured, {}) == 0
    without = sensitivity.estimate(evaluator, "w8", lambda layer, chosen: 0.01)
    with pytest.raises(InputError, match="no drop per nat of divergence"):
        sensitivity.predict_drop(many, without, {})


@pytest.mark.parametrize("joint", [True, False])
def test_what_stands_between_layers_costs_no_evaluation(evaluator, joint):
    names = ("fp32,w8a8,w4a4", "fp32,w8a8,w8a8bf16,w4a4,w4a4bf16")
    plain, mixed = (sensitivity.measure(evaluator, n, precision=0, joint=joint) for n in names)
    assert (mixed.drop[:, 1] == mixed.drop[:, 2]).all()
    assert (mixed.divergence[:, [0, 1, 3]] == plain.divergence).all()


def test_early_stopping_changes_little_and_saves_much(evaluator, measured):
    few = sensitivity.measure(evaluator, FORMATS, precision=1.0, joint=True)
    ratio = few.divergence[:, 2:] / measured.divergence[:, 2:]
    assert (np.abs(np.log(ratio)) < 0.7).all()


@pytest.mark.parametrize("method", ESTIMATES)
def test_estimates_rank_as_measurement_does(evaluator, measured, method):
    table = sensitivity.estimate(evaluator, FORMATS, method)
    assert table.method == method
    assert (table.drop[:, 0] == 0).all()
    for i in range(len(table.layers)):  # more bits, less harm
        assert table.drop[i, 1] < table.drop[i, 2] < table.drop[i, 4]
    # w8a8, w4a4 and w2a2: the sum of drops is about what is measured, whatever the unit
    drop = evaluator.evaluate(dict.fromkeys(table.layers, parse("w2a2"))).drop
    assert table.drop[:, 4].sum() == pytest.approx(drop, rel=1.0)
    assert table.error.shape == table.drop.shape
    assert (table.error[:, 1:] > 0).all()
    again = sensitivity.estimate(evaluator, FORMATS, method)
    assert np.array_equal(again.drop, table.drop), "the seed decides"


def test_kl_is_the_measured_divergence(evaluator, measured):
    table = sensitivity.estimate(evaluator, FORMATS, "kl")
    assert table.divergence == pytest.approx(measured.divergence, rel=0.5, abs=1e-5)


def test_mse_is_the_error_of_what_a_layer_writes(net, evaluator):
    x, _ = batch()
    found = mse.harm(setting(evaluator)).mean(0)
    simulator = evaluator.runner.simulator
    with torch.no_grad():
        exact = net.conv1(x).relu()
        layer = evaluator.layers.index("conv1")
        node = next(x for x in simulator.layers if x.name == "conv1").nodes[-1]
        seen = {}
        simulator.advance(
            simulator.start(x),
            {"conv1": parse("w2a2")},
            watch=seen.setdefault,
        )
        error = (seen[node] - exact).double().square().sum()
        power = (exact - exact.mean(-1, keepdim=True)).double().square().sum()
    assert float(found[layer, 1]) == pytest.approx(float(error / power), rel=1e-3)


def test_derivatives_are_those_of_autograd(net, evaluator):
    """Gradients by the traced program equal those of the plain module."""
    simulator = evaluator.runner.simulator
    (x, *_) = evaluator.inputs(1)
    graph = Graph(simulator, x, [], ["conv2"])
    targets = graph.logits.argmax(1)
    drop = cross_entropy(graph.logits, targets)
    (found,) = torch.autograd.grad(drop, list(graph.weights.values()))
    (expected,) = torch.autograd.grad(cross_entropy(net(x), targets), [net.conv2.weight])
    assert torch.allclose(found, expected, atol=1e-5)


def test_hutchinson_finds_the_trace(evaluator, monkeypatch):
    """Against the exact Hessian of the linear layer: its diagonal is p (1 - p) x^2."""
    monkeypatch.setattr(hessian, "PROBES", 200)
    x = evaluator.inputs(100)[0][:40]
    case = setting(evaluator, batches=(x,))
    draws = hessian._curvature(case, x, torch.Generator().manual_seed(0))
    simulator = evaluator.runner.simulator
    graph = Graph(simulator, x, [simulator.operands["fc"].input], [])
    p, features = graph.logits.softmax(1), graph.activations[simulator.operands["fc"].input]
    diagonal = (p * (1 - p))[:, :, None] * features.square()[:, None]
    exact = float(diagonal.detach().mean())
    found = draws[:, 0, evaluator.layers.index("fc")]
    error = float(found.std()) / len(found) ** 0.5
    assert float(found.mean()) == pytest.approx(exact, abs=4 * error)
    assert error < exact / 5


def test_fisher_is_nats_to_second_order(evaluator):
    """Of the last layer, alone, at many bits: its divergence, which is half the Fisher's form."""
    case = setting(evaluator, "w6")
    fc = evaluator.layers.index("fc")
    draws = [fisher.harm(replace(case, seed=seed)).mean(0)[fc, 0] for seed in range(16)]
    found = sum(map(float, draws)) / len(draws)  # a confident network seldom draws what counts
    measured = evaluator.evaluate({"fc": parse("w6")}).kl
    assert 0.3 < found / measured < 3


def test_own_function_is_taken_at_its_word(evaluator):
    def own(layer, chosen):
        return len(layer) / 1000, 0.5 / chosen.weight.bits

    table = sensitivity.estimate(evaluator, "fp32,w8,w4", own)
    assert table.method == "own"
    assert table.drop[:, 1:] == pytest.approx(np.array([[len(n) / 1000] * 2 for n in table.layers]))
    assert table.error[0] == pytest.approx([0, 0.5 / 8, 0.5 / 4])
    assert table.drop_per_nat is None
    for answer in (float("nan"), "much", None, (0.1, -1)):
        with pytest.raises(InputError, match="sensitivity function returned"):
            sensitivity.estimate(evaluator, "w8", lambda layer, f, answer=answer: answer)


def test_rounding_errors_alone_are_no_divergence():
    """In eight bits the divergence of a network that ignores its inputs may be -1e-17."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    with torch.no_grad():
        model[2].weight.zero_()
    generator = torch.Generator().manual_seed(2)
    given = [
        (torch.randn(8, 8, generator=generator), torch.randint(0, 4, (8,), generator=generator))
        for _ in range(4)
    ]
    for method in ESTIMATES:
        table = sensitivity.estimate(Evaluator(model.eval(), given), "w8", method)
        assert np.isfinite(table.drop).all()


def test_without_data_there_are_estimates_too(net):
    x, _ = batch(16)
    for method in ESTIMATES:
        table = sensitivity.estimate(trace(net, x), FORMATS, method, x)
        assert table.baseline is None
        assert table.measured_plans == ()
        assert table.drop[:, 1].sum() < table.drop[:, 4].sum()
    with pytest.raises(InputError, match="needs example_inputs"):
        sensitivity.estimate(trace(net, x), FORMATS, "sqnr")
    with pytest.raises(InputError, match="no sensitivity 'guess'; use measured, sqnr, mse"):
        sensitivity.estimate(trace(net, x), FORMATS, "guess", x)


def test_perplexity_and_cosine_and_own_metric(net):
    for metric in ("perplexity", "cosine", lambda out, y: 100.0 * (out.argmax(1) == y)):
        evaluator = Evaluator(net, [batch()], metric=metric)
        table = sensitivity.measure(evaluator, "w4a4,w2a2")
        drop = evaluator.evaluate(dict.fromkeys(table.layers, parse("w2a2"))).drop
        assert drop > 0
        assert table.drop[:, 1].sum() == pytest.approx(drop, rel=1.0)


def test_degenerate_layers(net):
    """A constant channel and weights of zero: no harm, and no NaN."""
    model = Residual()
    model.load_state_dict(net.state_dict())
    with torch.no_grad():
        model.conv2.weight.zero_()
        model.conv1.weight[0] = 0
    evaluator = Evaluator(model.eval(), [batch(60)])
    tables = [sensitivity.measure(evaluator, "w8,w2")]
    tables += [sensitivity.estimate_and_measure(evaluator, "w8,w2", 0.01)]
    tables += [sensitivity.estimate(evaluator, "w8,w2", method) for method in ESTIMATES]
    for table in tables:
        assert np.isfinite(table.drop).all()
        assert (table.drop[table.layers.index("conv2")] == 0).all()


def test_nan_is_named(evaluator, monkeypatch):
    entry = estimated.ESTIMATES["mse"]
    broken = replace(entry, harm=lambda s: torch.full((2, 3, len(s.formats)), torch.nan))
    monkeypatch.setitem(estimated.ESTIMATES, "mse", broken)
    with pytest.raises(DataError, match="mse sensitivity of layer 'conv1' as w8 is NaN"):
        sensitivity.estimate(evaluator, "w8", "mse")


def test_a_table_survives_the_disk(measured, tmp_path):
    measured.save(tmp_path / "drops.json")
    again = DropTable.load(tmp_path / "drops.json")
    assert again.to_json() == measured.to_json()
    assert again.measured_plans == measured.measured_plans
    assert again.drop_per_nat == measured.slope
    (tmp_path / "drops.json").write_text("{}")
    with pytest.raises(InputError, match="is not a drop table"):
        DropTable.load(tmp_path / "drops.json")


def test_a_dtype_between_layers_loses_nothing_more():
    one = np.ones((1, 1))
    table = DropTable(
        layers=("conv1",),
        formats=(parse("w8a8"),),
        drop=0.25 * one,
        error=0 * one,
        divergence=one,
        measured=None,
        method="mse",
        slope=1.0,
        baseline=None,
        samples=1,
        evaluations=1,
        seconds=0.0,
    )
    assert table.predict({"conv1": parse("w8a8bf16")}) == 0.25
    with pytest.raises(InputError, match="no entry for layer 'conv1' as w4a8bf16"):
        table.predict({"conv1": parse("w4a8bf16")})
