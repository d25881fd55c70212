"""Simulated networks of extreme numbers: zeros, constants, the smallest and the largest."""

import pytest
import torch
from simulation import run, simulator
from torch import nn

from aiq.errors import InputError
from aiq.formats import INTEGERS, Granularity, parse


@pytest.mark.parametrize("name", ["w8a8", "w2a2", "w4"])
def test_zero_weights_and_constant_channels(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with torch.no_grad():
        net[0].weight[0] = 0
        net[0].weight[1] = 0.5
        net[2].weight.zero_()
    x = torch.randn(2, 3, 8, 8)
    x[:, 1] = 0.25  # a constant channel
    simulated = simulator(net.eval(), x)
    for layer in ("0", "2"):
        assert simulated.weight(layer, INTEGERS[4]).isfinite().all()
    assert simulated.weight("2", INTEGERS[4]).abs().max() == 0
    actual = simulated.run(x, {"0": parse(name), "2": parse(name)})
    assert torch.allclose(actual, net(x), atol=1e-6), "zero weights: only the bias is left"


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_constant_inputs(scale):
    torch.manual_seed(0)
    net, x = (
        nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval(),
        scale * torch.ones(5, 4),
    )
    simulated = simulator(net, x)
    with torch.no_grad():
        assert torch.allclose(run(simulated, x, **{"0": "w8a8"}), net(x), atol=0.02)


@pytest.mark.parametrize("correct_bias", [False, True])
@pytest.mark.parametrize("small", [0.0, 1e-9, 1e-30])
@torch.no_grad()
def test_no_bias_leaves_32_bits(small, correct_bias):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)).eval()
    net[0].weight[:3] *= small
    net[0].bias[:3] = torch.tensor([50.0, -50.0, 0.3])
    x = torch.rand(8, 3, 6, 6)
    simulated = simulator(net, x, correct_bias=correct_bias)
    for weight in (2, 4, 8):
        key = ("0", INTEGERS[weight], Granularity.CHANNEL, INTEGERS[8])
        step = simulated.weight_quantizer(*key).scale.double()
        step *= simulated.activation("input_1", INTEGERS[8]).scale.double()
        assert (simulated.bias(*key).abs() / step).max() <= 2.0**30 * (1 + 1e-6)
    assert torch.allclose(run(simulated, x, **{"0": "w8a8"}), net(x), rtol=0.02, atol=0.05)


def relative_error(net, x, name):
    simulated = simulator(net, x)
    found = simulated.run(x, dict.fromkeys(("0", "2"), parse(name))).double()
    exact = net.double()(x.double())
    net.float()
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("name", ["w8a8", "w8", "w3a5"])
@torch.no_grad()
def test_units_do_not_matter(name):
    """Rounded in meters or in picometers, and near the largest number of float32."""

    def scaled(weights, inputs):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 8)).eval()
        for parameter, unit in zip(
            net.parameters(), (weights, weights * inputs, weights, weights**2 * inputs), strict=True
        ):
            parameter.mul_(unit)
        return net, inputs * torch.randn(64, 32)

    expected = relative_error(*scaled(1.0, 1.0), name)
    for weights, inputs in ((2.0**-20, 1.0), (2.0**-40, 1.0), (1.0, 2.0**-40), (1.0, 2.0**124)):
        assert relative_error(*scaled(weights, inputs), name) == pytest.approx(expected, rel=1e-3)
    for weights, inputs in ((1e-6, 1e-12), (1e-12, 1.0), (1.0, 1e-30)):
        assert relative_error(*scaled(weights, inputs), name) <= 1.2 * expected


@pytest.mark.parametrize("largest", [1e-38, 1e-44])
def test_activations_too_small_for_a_scale_are_refused(largest):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    x = largest * torch.ones(5, 4)
    with pytest.raises(InputError, match="no scale in float32 for integers of 8 bits"):
        run(simulator(net, x), x, **{"0": "w8a8"})


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 1e-20, 3e38, -3e38])
@torch.no_grad()
def test_constant_and_one_sided_activations(value):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    net[0].weight *= 0.1
    for x in (value * torch.ones(5, 4), value * torch.rand(5, 4)):
        actual = run(simulator(net, x), x, **{"0": "w8a8", "2": "w8a8"})
        exact = net.double()(x.double())
        net.float()
        assert (actual - exact).norm() <= 0.03 * exact.norm()
