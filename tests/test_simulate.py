"""The simulated network against the same arithmetic written out with PyTorch's own operators."""

from dataclasses import replace

import pytest
import torch
from simulation import run, simulator
from torch import nn
from torch.nn import functional as F  # noqa: N812

from aiq.errors import InputError
from aiq.formats import BF16, FP32, INTEGERS, Format, Granularity, parse
from aiq.graph import trace
from aiq.quantize import rounding
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator


class Residual(nn.Module):
    """Two convolutions, a residual addition, a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        y = self.conv1(x).relu()
        y = (self.conv2(y) + y).relu()
        return self.fc(y.mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def rounded(simulated, x, node, bits):
    """Round with PyTorch's operator to the range that the simulator has for `node`."""
    affine = simulated.activation(node, INTEGERS[bits])
    return torch.fake_quantize_per_tensor_affine(
        x, float(affine.scale), int(affine.zero_point), 0, 2**bits - 1
    )


def convolved(simulated, x, layer, dtype, read=FP32):
    bias = simulated.bias(layer, dtype, read=read)
    return F.conv2d(x, simulated.weight(layer, dtype), bias, padding=1)


def test_without_formats_it_is_the_model(net, x):
    simulated = simulator(net, x)
    with torch.no_grad():
        assert torch.allclose(run(simulated, x), net(x), atol=1e-6)
    assert torch.equal(run(simulated, x), run(simulated, x, conv1="fp32", fc="fp32"))


@torch.no_grad()
def test_a_layer_rounds_what_it_reads_and_writes(net, x):
    simulated = simulator(net, x)
    read = rounded(simulated, x, "x", 8)
    y = convolved(simulated, read, "conv1", INTEGERS[4], INTEGERS[8]).relu()
    y = rounded(simulated, y, "relu", 8)  # written in eight bits, by everyone read so
    z = (net.conv2(y) + y).relu()
    assert torch.allclose(run(simulated, x, conv1="w4a8"), net.fc(z.mean((2, 3))), atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_behind_a_clamp_rounding_covers_no_more_than_it_lets_through(bits):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Conv2d(4, 4, 1)).eval()
    x = 40 * torch.randn(16, 3, 8, 8)
    with torch.no_grad():
        assert model[:2](x).max() == 6
    affine = simulator(model, x).activation("hardtanh", INTEGERS[bits])
    assert int(affine.zero_point) == 0
    assert float(affine.scale) * (2**bits - 1) <= 6 * (1 + 1e-6)


@torch.no_grad()
def test_biases_are_whole_numbers_of_the_steps_of_the_products(net, x):
    simulated = simulator(net, x)
    exact = simulated.bias("conv1", INTEGERS[4]).double()
    step = simulated.weight_quantizer("conv1", INTEGERS[4]).scale.double()
    step = step * simulated.activation("x", INTEGERS[8]).scale.double()
    steps = simulated.bias("conv1", INTEGERS[4], read=INTEGERS[8]).double() / step
    assert (steps - steps.round()).abs().max() < 1e-4
    assert (steps - exact / step).abs().max() <= 0.5 + 1e-4
    assert (steps - exact / step).abs().max() > 0.1


@torch.no_grad()
def test_the_residual_operand_is_the_tensor_as_written(net, x):
    simulated = simulator(net, x)
    y = rounded(simulated, net.conv1(rounded(simulated, x, "x", 8)).relu(), "relu", 8)
    y = y.clone()
    only_activations = Format("a8", FP32, INTEGERS[8], FP32)
    narrow = rounded(simulated, y, "relu", 4)  # conv2 reads it in four bits, the addition does not
    z = convolved(simulated, narrow, "conv2", INTEGERS[4], INTEGERS[4])
    z = rounded(simulated, (z + y).relu(), "relu_1", 4)
    actual = simulated.run(x, {"conv1": only_activations, "conv2": parse("w4a4")})
    assert torch.allclose(actual, net.fc(z.mean((2, 3))), atol=1e-5)


@torch.no_grad()
def test_results_of_the_network_stay_float32(net, x):
    simulated = simulator(net, x)
    y = net.conv1(x).relu()
    y = (net.conv2(y) + y).relu().mean((2, 3))
    expected = F.linear(
        rounded(simulated, y, "mean", 2),
        simulated.weight("fc", INTEGERS[8]),
        simulated.bias("fc", INTEGERS[8], read=INTEGERS[2]),
    )
    actual = run(simulated, x, fc="w8a2")
    assert torch.allclose(actual, expected, atol=1e-5)
    assert len(actual.unique()) > 4, "two bits would leave four values"


@torch.no_grad()
def test_weight_only_leaves_activations_alone(net, x):
    simulated = simulator(net, x)
    y = convolved(simulated, x, "conv1", INTEGERS[3]).relu()
    expected = net.fc((net.conv2(y) + y).relu().mean((2, 3)))
    assert torch.allclose(run(simulated, x, conv1="w3"), expected, atol=1e-5)


@torch.no_grad()
def test_bfloat16_rounds_operands_and_result(net, x):
    simulated = simulator(net, x)

    def b(t):
        return t.bfloat16().float()

    y = b(F.conv2d(b(x), b(net.conv1.weight), net.conv1.bias, padding=1).relu())
    expected = net.fc((net.conv2(y) + y).relu().mean((2, 3)))
    assert torch.allclose(run(simulated, x, conv1="bf16"), expected, atol=1e-5)
    assert torch.equal(simulated.weight("conv1", BF16), b(net.conv1.weight))


@torch.no_grad()
def test_float16_rounds_operands_and_result(net, x):
    def h(t):
        return t.half().float()

    y = h(F.conv2d(h(x), h(net.conv1.weight), net.conv1.bias, padding=1).relu())
    expected = net.fc((net.conv2(y) + y).relu().mean((2, 3)))
    assert torch.allclose(run(simulator(net, x), x, conv1="fp16"), expected, atol=1e-5)


@torch.no_grad()
def test_one_scale_for_all_channels_if_the_format_says_so(net, x):
    simulated = simulator(net, x)
    shared = replace(parse("w3"), weight_granularity=Granularity.TENSOR)
    weight = simulated.weight("conv1", INTEGERS[3], Granularity.TENSOR)
    assert len(weight.unique()) <= 8 < len(simulated.weight("conv1", INTEGERS[3]).unique())
    bias = simulated.bias("conv1", INTEGERS[3], Granularity.TENSOR)
    y = F.conv2d(x, weight, bias, padding=1).relu()
    expected = net.fc((net.conv2(y) + y).relu().mean((2, 3)))
    assert torch.allclose(simulated.run(x, {"conv1": shared}), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@torch.no_grad()
def test_dynamic_ranges_are_those_of_each_image_and_each_token():
    """As PyTorch quantises at run time: what is read is rounded, what is written is float32."""
    torch.manual_seed(0)
    x = torch.randn(3, 4, 6, 6) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1, 1)
    conv = nn.Sequential(nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 1)).eval()
    tokens = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)).eval()

    simulated = simulator(conv, x, observer="dynamic")
    image = [fake(sample, 8) for sample in x]
    y = F.conv2d(
        torch.stack(image), simulated.weight("0", INTEGERS[8]), simulated.bias("0", INTEGERS[8])
    )
    assert torch.allclose(run(simulated, x, **{"0": "w8a8"}), conv[2](y.relu()), atol=1e-5)

    x = torch.randn(2, 7, 6) * torch.logspace(-2, 2, 7)[:, None]
    simulated = simulator(tokens, x, observer="dynamic")
    read = torch.stack([torch.stack([fake(token, 8) for token in sample]) for sample in x])
    y = F.linear(read, simulated.weight("0", INTEGERS[8]), simulated.bias("0", INTEGERS[8]))
    assert torch.allclose(run(simulated, x, **{"0": "w8a8"}), tokens[1:](y), rtol=1e-5, atol=1e-5)


def fake(x, bits):
    """Round to PyTorch's own range of `x`, with PyTorch's own operator."""
    observer = torch.ao.quantization.MinMaxObserver(quant_min=0, quant_max=2**bits - 1)
    observer(x)
    scale, zero_point = observer.calculate_qparams()
    return torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero_point), 0, 2**bits - 1)


@torch.no_grad()
def test_a_model_in_train_mode_is_quantised_as_in_evaluation_and_left_as_it_was(x):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(6, 2, 1)
    )
    model(x)
    mean = model[1].running_mean.clone()
    expected = simulator(model.eval(), x).run(x, {"0": parse("w4a4"), "4": parse("w8a8")})
    actual = simulator(model.train(), x).run(x, {"0": parse("w4a4"), "4": parse("w8a8")})
    assert torch.equal(actual, expected)
    assert model.training
    assert torch.equal(model[1].running_mean, mean)


@torch.no_grad()
def test_images_can_be_flattened():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(run(simulator(model, x), x), model(x), atol=1e-6)


def test_weights_lie_on_a_grid_per_channel(net, x):
    simulated = simulator(net, x)
    for bits in range(2, 9):
        weight = simulated.weight("conv2", INTEGERS[bits])
        assert max(len(channel.unique()) for channel in weight) <= 2**bits
        assert (weight - net.conv2.weight).norm() / net.conv2.weight.norm() < 2.0 ** (1 - bits)


@torch.no_grad()
def test_bias_correction_keeps_the_mean_of_every_channel(net, x):
    exact = net.conv1(x).mean((0, 2, 3))
    plain, corrected = simulator(net, x, correct_bias=False), simulator(net, x)
    error = F.conv2d(x, plain.weight("conv1", INTEGERS[2]), net.conv1.bias, padding=1)
    assert (error.mean((0, 2, 3)) - exact).abs().max() > 1e-3
    fixed = convolved(corrected, x, "conv1", INTEGERS[2]).mean((0, 2, 3))
    assert torch.allclose(fixed, exact, atol=1e-5)
    assert not torch.equal(run(plain, x, conv1="w2"), run(corrected, x, conv1="w2"))


class Twice(nn.Module):
    """A layer called twice, and two layers that share one weight."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.shared.weight

    def forward(self, x):
        return self.tied(self.shared(self.shared(x).relu()).relu())


@torch.no_grad()
def test_tied_weights_and_repeated_calls_have_formats_of_their_own():
    torch.manual_seed(0)
    net, x = Twice().eval(), torch.randn(16, 6)
    simulated = simulator(net, x)
    assert [layer.name for layer in simulated.layers] == ["shared", "shared#2", "tied"]

    def linear(x, layer, bits, exact):
        if bits is None:
            return exact(x)
        weight, bias = (f(layer, INTEGERS[bits]) for f in (simulated.weight, simulated.bias))
        return F.linear(x, weight, bias)

    for bits in [(4, None, None), (None, 3, None), (None, None, 2), (8, 4, 2)]:
        y = linear(x, "shared", bits[0], net.shared).relu()
        y = linear(y, "shared#2", bits[1], net.shared).relu()
        expected = linear(y, "tied", bits[2], net.tied)
        plan = zip(("shared", "shared#2", "tied"), bits, strict=True)
        formats = {layer: parse(f"w{b}") for layer, b in plan if b is not None}
        assert torch.allclose(simulated.run(x, formats), expected, atol=1e-6)


def test_unknown_layer(net, x):
    with pytest.raises(InputError, match="no convolution or linear layer 'conv9'; its layers are"):
        run(simulator(net, x), x, conv9="w8")


@torch.no_grad()
def test_runs_can_stop_fork_and_resume(net, x):
    simulated = simulator(net, x)
    formats = {"conv2": parse("w4a4"), "fc": parse("w8a8")}
    state = simulated.advance(simulated.start(x), formats, simulated.start_of("conv2"))
    before = {name: value.clone() for name, value in state.values.items()}
    forks = [{**formats, "conv2": parse(name)} for name in ("w2a2", "w8a8")] + [formats]
    for fork in forks:
        resumed = simulated.finish(simulated.advance(state, fork))
        assert torch.equal(resumed, simulated.run(x, fork))
    assert all(torch.equal(state.values[name], value) for name, value in before.items())


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@torch.no_grad()
def test_grouped_transposed_convolutions_are_those_of_their_groups(dimensions):
    torch.manual_seed(0)
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dimensions - 1]
    layer = kind(6, 9, 3, stride=2, padding=1, groups=3)
    layer.weight *= torch.linspace(0.1, 4, 6).view(-1, 1, *[1] * dimensions)
    x = torch.randn(2, 6, *[5] * dimensions)
    whole = simulator(nn.Sequential(layer), x)
    parts = []
    for group, read in enumerate(x.split(2, 1)):
        alone = kind(2, 3, 3, stride=2, padding=1)
        alone.weight.copy_(layer.weight[2 * group : 2 * group + 2])
        alone.bias.copy_(layer.bias[3 * group : 3 * group + 3])
        parts.append(run(simulator(nn.Sequential(alone), read), read, **{"0": "w3"}))
    assert torch.allclose(run(whole, x, **{"0": "w3"}), torch.cat(parts, 1), rtol=1e-4, atol=1e-5)
    mean = layer(x).transpose(0, 1).flatten(1).mean(1)  # which corrected biases keep
    found = run(whole, x, **{"0": "w2"}).transpose(0, 1).flatten(1).mean(1)
    assert torch.allclose(found, mean, atol=1e-4)
    integers = run(whole, x, **{"0": "w8a8"})
    assert (integers - layer(x)).norm() <= 0.02 * layer(x).norm()


def test_rounded_weights_are_kept_up_to_a_size(monkeypatch):
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    monkeypatch.setattr(rounding, "KEPT_BYTES", 0)
    simulator = Simulator(fold(trace(net, torch.randn(2, 8))), {})
    first = simulator.weight("0", parse("w8").weight)
    assert simulator.weight("0", parse("w8").weight) is first
    for name in ("w4", "w5", "w6"):
        simulator.weight("1", parse(name).weight)
    assert len(simulator._weights) == 2  # as many bytes as the weights of the network
    assert simulator._weight_bytes == 2 * first.nbytes
    again = simulator.weight("0", parse("w8").weight)
    assert again is not first
    assert torch.equal(again, first)
