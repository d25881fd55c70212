"""Weights rounded by data, against enumeration, a plain implementation, and torch's kernels."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import aiq
from aiq import data, graph, models
from aiq.errors import InputError
from aiq.evaluate import Evaluator
from aiq.formats import WeightRounding, parse, parse_all
from aiq.quantize.adaptive import output_error, rounded_by_data
from aiq.quantize.affine import Scheme
from aiq.quantize.fold import fold
from aiq.quantize.moments import second_moments
from aiq.quantize.observers import weight_mse

HOW = [WeightRounding.GPTQ, WeightRounding.ADAPTIVE]
SCHEMES = {
    "channel": Scheme(3, symmetric=True, signed=True, axis=0),
    "groups": Scheme(4, symmetric=True, signed=True, axis=0, group=4),
    "zero points": Scheme(4, symmetric=False, signed=False, axis=0, group=4),
}


def random_layer(seed, groups=1, outputs=6, reads=8):
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, reads, generator=draw)
    x = torch.randn(groups, 40, reads, generator=draw) @ torch.randn(
        groups, reads, reads, generator=draw
    )
    return weight, x.mT @ x / 40


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("seed", range(4))
def test_the_output_error_is_never_larger_than_that_of_the_nearest(name, how, seed):
    weight, moments = random_layer(seed, groups=2)
    quantizer = weight_mse(weight, SCHEMES[name])
    rounded = rounded_by_data(weight, quantizer, moments, how)
    # They are numbers of the grid: rounding them again changes nothing.
    assert torch.equal(quantizer.fake_quantize(rounded), rounded)
    nearest = quantizer.fake_quantize(weight)
    errors = [
        output_error((w - weight).reshape(2, 3, 8).double(), moments.double())
        for w in (rounded, nearest)
    ]
    assert (errors[0] <= errors[1] * (1 + 1e-6)).all()
    assert errors[0].sum() < errors[1].sum()


def test_no_other_number_of_one_weight_is_better_after_adaptive_rounding():
    weight, moments = random_layer(7)
    quantizer = weight_mse(weight, SCHEMES["channel"])
    rounded = rounded_by_data(weight, quantizer, moments, WeightRounding.ADAPTIVE)
    exact, h = weight[None].double(), moments.double()
    best = output_error(rounded[None].double() - exact, h)[0]
    for j in range(weight.shape[1]):
        for code in range(quantizer.scheme.low, quantizer.scheme.high + 1):
            other = rounded.clone()
            other[:, j] = code * quantizer.scale
            error = output_error(other[None].double() - exact, h)[0]
            assert (error >= best - 1e-5 * best.max()).all()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("value", [0.0, 5.0])
def test_inputs_that_never_vary_leave_the_nearest_numbers(how, value):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4)).eval()
    x = torch.full((32, 6), value)
    trace = replace(graph.trace(model, x), rounding=how)
    (moments,) = second_moments(fold(trace), [x]).values()
    weight = model[0].weight.detach()
    quantizer = weight_mse(weight, SCHEMES["channel"])
    rounded = rounded_by_data(weight, quantizer, moments, how)
    assert torch.equal(rounded, quantizer.fake_quantize(weight))


def test_inputs_far_from_zero_that_hardly_vary_are_no_obstacle():
    torch.manual_seed(0)
    layer = nn.Linear(8, 4)
    model = nn.Sequential(layer).eval()
    x = 1000 + 0.01 * torch.randn(256, 8)
    trace = replace(graph.trace(model, x), rounding=WeightRounding.GPTQ)
    (moments,) = second_moments(fold(trace), [x]).values()
    weight = layer.weight.detach()
    quantizer = weight_mse(weight, SCHEMES["channel"])
    rounded = rounded_by_data(weight, quantizer, moments, WeightRounding.GPTQ)
    exact = x.double().var(0)
    assert moments[0].diagonal().double() == pytest.approx(exact, rel=0.02)
    assert rounded.isfinite().all()


def test_gptq_agrees_with_the_plain_rule_of_one_weight_after_the_other():
    weight, moments = random_layer(3, outputs=4, reads=140)  # more than one block
    quantizer = weight_mse(weight, SCHEMES["channel"])
    found = rounded_by_data(weight, quantizer, moments, WeightRounding.GPTQ)
    h = moments[0].double()
    h = h + 0.01 * h.diagonal().mean() * torch.eye(len(h))
    scale, low, high = quantizer.scale.double(), quantizer.scheme.low, quantizer.scheme.high
    left, plain = weight.double().clone(), torch.zeros_like(weight, dtype=torch.float64)
    order = h.diagonal().argsort(descending=True, stable=True)
    for position, j in enumerate(order):
        later = order[position:]
        inverse = torch.linalg.inv(h[later][:, later])
        plain[:, j] = (left[:, j] / scale).round().clamp(low, high) * scale
        error = (left[:, j] - plain[:, j]) / inverse[0, 0]
        left[:, later] -= error[:, None] * inverse[0]
    agree = (found - plain).abs() < 1e-5
    worse = ~agree.all(1)  # such rows keep the nearest numbers
    nearest = quantizer.fake_quantize(weight)
    assert torch.equal(found[worse], nearest[worse])
    assert int(worse.sum()) <= 1


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (5, 7, 6)),
        (nn.Linear(6, 4, bias=False), (5, 6)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (3, 4, 9, 8)),
        (nn.Conv2d(4, 4, (3, 2), padding="same", dilation=2, groups=4, bias=False), (2, 4, 7, 6)),
        (nn.Conv1d(3, 5, 4, padding=2, dilation=2), (2, 3, 20)),
    ],
)
def test_moments_predict_the_change_of_outputs(layer, shape):
    torch.manual_seed(0)
    x = torch.randn(shape) + 0.5
    model = nn.Sequential(layer, nn.ReLU()).eval()
    trace = replace(graph.trace(model, x), rounding=WeightRounding.GPTQ)
    (moments,) = second_moments(fold(trace), [x]).values()
    change = torch.randn_like(layer.weight)
    exact = layer(x)
    with torch.no_grad():
        layer.weight += change
    difference = (layer(x) - exact).movedim(-1 if isinstance(layer, nn.Linear) else 1, 0).flatten(1)
    measured = (
        difference.var(1, correction=0) if layer.bias is not None else difference.square().mean(1)
    )
    groups = len(moments)
    predicted = output_error(change.reshape(groups, -1, moments.shape[-1]), moments).flatten()
    assert predicted.detach() == pytest.approx(measured.detach(), rel=1e-3)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=4, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(),
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 6),
    ).eval()  # fmt: skip
    x = torch.randn(128, 3, 8, 8)
    return model, [(x, model(x).argmax(1))]


def test_a_trained_network_diverges_a_tenth_as_much():
    model = models.load("resnet20")
    batches = [next(iter(data.batches(data.load("sample", "test"), 128)))]
    trace, kl = graph.trace(model, batches[0][0]), {}
    names = [layer.name for layer in trace.graph.quantizable]
    for how in WeightRounding:
        evaluator = Evaluator(replace(trace, rounding=how), batches)
        kl[how] = evaluator.evaluate(dict.fromkeys(names, parse("w3a8"))).kl
    assert kl["adaptive"] < kl["gptq"] < kl["nearest"] / 10


@pytest.fixture(scope="module")
def plan(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("rounding") / "plan.json"
    aiq.search(
        *(network[0], "epyc_zen4_2vcpu", network[1]),
        runtime=None,
        formats="w4a8",
        max_drop=1.0,
        rounding="adaptive",
        cache=False,
        progress=None,
    ).save(path)
    return aiq.Plan.load(path)


@pytest.fixture(scope="module")
def simulated(network, plan):
    """Return the outputs of the simulated network, for each way of rounding."""
    model, batches = network
    found, x = {}, batches[0][0]
    for how in WeightRounding:
        trace = replace(graph.trace(model, x), rounding=how)
        found[how] = Evaluator(trace, batches).runner.simulator.run(x, plan.formats)
    return found


@pytest.mark.parametrize("runtime", ["inductor", "onnxruntime", "openvino"])
def test_a_plan_is_deployed_with_the_weights_that_were_judged(network, plan, simulated, runtime):
    model, batches = network
    assert plan.rounding == "adaptive"
    program = aiq.deploy(plan, model, data=batches, runtime=runtime, emulate=True, progress=None)
    result = program(batches[0][0])
    off = {how: float((result - y).square().mean()) for how, y in simulated.items()}
    assert off["adaptive"] < off["nearest"] / 10


def test_a_plan_says_that_its_weights_were_rounded_by_the_samples_that_judge_it(network, plan):
    model, batches = network
    said = "the weights were rounded by the same samples"
    assert said in str(plan)
    others = aiq.search(
        *(model, "epyc_zen4_2vcpu", batches),
        runtime=None,
        formats="w4a8",
        max_drop=1.0,
        rounding="gptq",
        calibration=[x for x, _ in batches],
        cache=False,
        progress=None,
    )
    assert said not in str(others)


def test_a_plan_of_weights_rounded_by_data_asks_for_data(network, plan):
    with pytest.raises(InputError, match=r"rounded by data .adaptive., and none was given"):
        aiq.deploy(plan, network[0], runtime="inductor", emulate=True, progress=None)


def test_an_unknown_rounding_is_refused(network):
    with pytest.raises(InputError, match="rounding is 'gptp'; did you mean 'gptq'"):
        aiq.search(network[0], "xeon_2vcpu", network[1], rounding="gptp")


def test_formats_of_groups_are_rounded_by_data_too(network):
    model, batches = network
    trace = replace(graph.trace(model, batches[0][0]), rounding=WeightRounding.GPTQ)
    evaluator = Evaluator(trace, batches)
    for fmt in parse_all("w4g32,w4g32z,w2"):
        divergence = evaluator.evaluate({"7": fmt}).kl
        nearest = Evaluator(graph.trace(model, batches[0][0]), batches).evaluate({"7": fmt}).kl
        assert divergence < nearest


def test_a_plan_that_rounds_no_weight_needs_no_data(network):
    model, batches = network
    plan = aiq.search(
        *(model, "xeon_2vcpu", batches),
        formats="fp32",
        runtime="eager",
        rounding="gptq",
        cache=False,
        progress=None,
    )
    x = batches[0][0]
    assert torch.allclose(aiq.deploy(plan, model, progress=None)(x), model(x), atol=1e-5)
