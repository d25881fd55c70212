"""Networks in integers alone against rational arithmetic, the simulator, and PyTorch's kernels."""

import copy
from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from aiq import data, models
from aiq.errors import DataError, InputError
from aiq.formats import parse
from aiq.graph import trace
from aiq.quantize.fold import fold
from aiq.quantize.program import Ref
from aiq.quantize.reference.fixed_point import fixed_point, power_of_two
from aiq.quantize.reference.integer import IntegerNetwork
from aiq.quantize.reference.operators import Codes
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe


def by_hand(layer, codes, relu):
    """Return what a linear layer writes: sums in int64, then exact ratios of scales, half up."""
    q_w, q_x = layer.weight.codes.numpy().astype(np.int64), codes.numpy().astype(np.int64)
    z_w = layer.weight.affine.zero_point.numpy().astype(np.int64)[:, None]
    z_x = int(layer.input.zero_point)
    sums = (q_x - z_x) @ (q_w - z_w).T + layer.bias.numpy().astype(np.int64)
    sums = np.maximum(sums, 0) if relu else sums
    scales = [Fraction(float(s)) for s in layer.scale.flatten()]
    if layer.output is None:
        return [[float(n * s) for n, s in zip(row, scales, strict=True)] for row in sums.tolist()]
    z_y, s_y = int(layer.output.zero_point), Fraction(float(layer.output.scale))
    return [
        [
            min(max(floor(n * s / s_y + Fraction(1, 2)) + z_y, 0), 255)
            for n, s in zip(row, scales, strict=True)
        ]
        for row in sums.tolist()
    ]


def test_a_model_in_integers_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4)).eval()
    x = torch.randn(50, 12)
    network = IntegerNetwork.from_model(model, x)
    first, last = network.layers.values()
    hidden = by_hand(first, first.input.quantize(x), relu=True)
    expected = by_hand(last, torch.tensor(hidden), relu=False)
    with torch.inference_mode():
        actual = network.run(x)
        exact = copy.deepcopy(model).double()(x.double())
    assert torch.equal(actual, torch.tensor(expected))
    assert (actual - exact).norm() < 0.02 * exact.norm()
    names = list(network.layers)
    mixed = {names[0]: parse("w4a8"), names[1]: parse("w8a8")}
    coarse = IntegerNetwork.from_model(model, x, mixed, power_of_two)
    assert coarse.layers[names[0]].weight.affine.scheme.bits == 4
    with pytest.raises(InputError, match="has the format w8, which is not computed in integers"):
        IntegerNetwork.from_model(model, x, "w8")


class Run:
    """A network, simulated and in integers, on images."""

    def __init__(self, model, images, calibration, formats, multiplier=fixed_point, **options):
        folded = fold(trace(model, images[:2]))
        self.images = images
        self.simulated = Simulator(folded, observe(folded, [calibration]), **options)
        names = [layer.name for layer in self.simulated.layers]
        self.formats = dict(zip(names, (parse(f) for f in formats * len(names)), strict=False))
        self.integer = IntegerNetwork(self.simulated, self.formats, multiplier)

    def layers(self, count):
        """Yield each layer, what it reads, what it writes simulated, and in integers."""
        simulated = self.simulated
        values = dict(simulated.start(self.images[:count]).values)
        written = {layer.nodes[-1]: layer.name for layer in simulated.layers}
        simulated.advance(
            simulated.start(self.images[:count]), self.formats, watch=values.__setitem__
        )
        for layer in simulated.layers:
            integer = self.integer.layers[layer.name]
            operands = {integer.names.input: values[integer.names.input]}
            steps = [simulated.program.steps[simulated.program.position[n]] for n in layer.nodes]
            residuals = {
                ref.name
                for step in steps[1:]
                for ref in step.args
                if isinstance(ref, Ref) and ref.name in written and ref.name not in layer.nodes
            }
            for name in residuals:  # as their writer stored them
                grid = self.integer.layers[written[name]].output
                operands[name] = Codes(grid.quantize(values[name]), grid)
            yield layer, operands, values[layer.nodes[-1]], integer

    def check_layers(self, count):
        """Each layer writes what its simulation writes, to a step; results to their last bits."""
        for layer, operands, expected, integer in self.layers(count):
            actual = self.integer.run_layer(layer.name, operands)
            if integer.output is None:
                assert (actual - expected).abs().max() <= 2e-3 * expected.abs().max(), layer.name
                continue
            difference = (actual.codes - integer.output.quantize(expected)).abs()
            assert difference.max() <= 1, layer.name
            assert (difference > 0).float().mean() < 2e-3, layer.name  # ties

    def agreement(self):
        integer = self.integer.run(self.images).argmax(1)
        return float(
            (integer == self.simulated.run(self.images, self.formats).argmax(1)).float().mean()
        )


@pytest.fixture(scope="module")
def images():
    test, train = data.sample("val"), data.sample("train")
    return test.inputs(test.images[:150]), train.inputs(train.images[:64])


@pytest.fixture(scope="module")
def resnet20(images):
    with torch.inference_mode():
        return Run(models.load("resnet20"), *images, ["w8a8"])


@pytest.fixture(scope="module")
def mobilenet_v2(images):
    with torch.inference_mode():
        return Run(models.load("mobilenet_v2"), images[0][:50], images[1], ["w8a8"])


@pytest.mark.parametrize("network", ["resnet20", "mobilenet_v2"])
@torch.inference_mode()
def test_every_layer_is_within_a_step_of_its_simulation(network, request):
    request.getfixturevalue(network).check_layers(4)


@pytest.mark.parametrize("network", ["resnet20", "mobilenet_v2"])
@torch.inference_mode()
def test_networks_agree_on_every_image(network, request):
    assert request.getfixturevalue(network).agreement() == 1


@pytest.mark.parametrize("bits", [["w4a4"], ["w8a8", "w4a8", "w8a4", "w2a6", "w3a8"]])
@torch.inference_mode()
def test_other_widths_and_mixtures(images, bits):
    run = Run(models.load("resnet20"), images[0][:8], images[1][:16], bits)
    run.check_layers(8)


@torch.inference_mode()
def test_results_are_float32_whatever_computed_them():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            return self.conv(x).mean((2, 3))

    torch.manual_seed(0)
    model, x = Pooled().eval(), torch.randn(2, 3, 8, 8)
    found = IntegerNetwork.from_model(model, x).run(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, model(x).detach(), rtol=0.05, atol=0.02)


def test_formats_may_be_names():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 2)).eval(), torch.randn(3, 4)
    named = IntegerNetwork.from_model(model, x, {"0": "w8a8"}).run(x)
    assert torch.equal(named, IntegerNetwork.from_model(model, x, "w8a8").run(x))
    with pytest.raises(InputError, match="formats is a NoneType; give one format"):
        IntegerNetwork.from_model(model, x, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_there_is_no_integer_for_nan(value):
    x = torch.randn(2, 4)
    network = IntegerNetwork.from_model(nn.Sequential(nn.Linear(4, 2)).eval(), x)
    x[0, 0] = value
    with pytest.raises(DataError, match="NaN or infinite"):
        network.run(x)


def test_shifts_alone(images):
    """With powers of two for scales every multiplier is a shift, and nothing is lost by that."""
    run = Run(
        models.load("resnet20"),
        images[0][:50],
        images[1],
        ["w8a8"],
        power_of_two,
        power_of_two=True,
    )
    run.check_layers(4)
    assert run.agreement() == 1
    exact = run.simulated.run(run.images, {}).argmax(1)
    assert (run.integer.run(run.images).argmax(1) == exact).float().mean() >= 0.9


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("network", ["resnet20", "mobilenet_v2"])
@torch.inference_mode()
def test_pytorch_kernels_write_the_same_integers(network, request):
    """Convolutions, depthwise ones too, and ReLUs of PyTorch's int8 kernels: within a step."""
    run = request.getfixturevalue(network)
    engine = torch.backends.quantized.engine
    checked = 0
    try:
        torch.backends.quantized.engine = "qnnpack"
        for layer, operands, _, integer in run.layers(4):
            if integer.output is None or "add" in layer.fused:
                continue
            step = run.simulated.program.steps[run.simulated.program.position[layer.nodes[0]]]
            read = integer.input.quantize(operands[integer.names.input])
            expected = pytorch(integer, layer, read, step)
            actual = run.integer.run_layer(layer.name, operands).codes
            assert (actual - expected).abs().max() <= 1, layer.name
            checked += 1
    finally:
        torch.backends.quantized.engine = engine
    assert checked >= 12


def pytorch(integer, layer, codes, step):
    read, write, weight = integer.input, integer.output, integer.weight
    stride, padding, dilation, groups = ([1, 1], [0, 0], [1, 1], 1)
    options = list(step.args[3:])
    stride, padding, dilation, groups = (
        options + [stride, padding, dilation, groups][len(options) :]
    )
    x = torch._make_per_tensor_quantized_tensor(
        codes.to(torch.uint8), float(read.scale), int(read.zero_point)
    )
    scale = weight.affine.scale.double()
    w = torch._make_per_channel_quantized_tensor(
        weight.codes.to(torch.int8), scale, torch.zeros_like(scale, dtype=torch.int64), 0
    )
    bias = (integer.bias * integer.scale).flatten().float()
    packed = torch.ops.quantized.conv2d_prepack(w, bias, stride, padding, dilation, groups)
    y = torch.ops.quantized.conv2d(x, packed, float(write.scale), int(write.zero_point))
    y = y.int_repr().int()
    if "relu" in layer.fused or "hardtanh" in layer.fused:
        y = y.clamp(min=int(write.zero_point))
    if "hardtanh" in layer.fused:
        y = y.clamp(max=int(write.quantize(torch.tensor([6.0]))))
    return y


def small(model, x, formats=("w8a8",), **options):
    with torch.inference_mode():
        return Run(model, x, x, list(formats), **options)


@torch.inference_mode()
def test_dead_channels_keep_their_bias():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(16, 3)
    )
    model[0].weight[:2] = 0
    model[0].weight[1, 0, 0, 0] = 1e-7
    model[0].bias[:2] = 50.0  # in steps of 1e-9: beyond 32 bits
    run = small(model, torch.randn(4, 3, 4, 4))
    run.check_layers(4)


@torch.inference_mode()
def test_dilation_pools_unfused_additions_and_views():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.left = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
            self.right = nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=2)
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            x = F.max_pool2d(self.stem(x), 2)
            y = self.left(x).relu()
            z = self.right(x)
            return self.head((F.max_pool2d(y, 2) + F.max_pool2d(z, 2)).mean((2, 3)))

    torch.manual_seed(0)
    run = small(Net(), torch.randn(64, 3, 8, 8))
    run.check_layers(4)
    exact = run.simulated.run(run.images, run.formats)
    assert (run.integer.run(run.images) - exact).abs().max() <= 0.02 * exact.abs().max()


@pytest.mark.parametrize("groups", [1, 2])
@torch.inference_mode()
def test_transposed_convolutions(groups):
    torch.manual_seed(0)
    transposed = nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=groups, dilation=2)
    model = nn.Sequential(transposed, nn.ReLU(), nn.Conv2d(6, 2, 1))
    small(model, torch.randn(4, 4, 5, 5)).check_layers(4)


def test_layers_that_are_not_in_integers():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(5, 4)
    for name in ("w8", "bf16", "fp32"):
        with pytest.raises(
            InputError, match=f"'2' has the format {name}, which is not computed in integers"
        ):
            small(copy.deepcopy(model), x, ["w8a8", name])
    with pytest.raises(InputError, match="Dynamic ranges are not known"):
        small(model, x, observer="dynamic")


def test_operators_without_integers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))
    run = small(model, torch.randn(5, 4))
    with torch.inference_mode(), pytest.raises(InputError, match=r"'sigmoid' .* has no form in"):
        run.integer.run(run.images)


def test_sums_beyond_32_bits():
    with torch.no_grad():
        model = nn.Sequential(nn.Linear(100_000, 1), nn.ReLU(), nn.Linear(1, 1))
        model[0].weight.fill_(1.0)
    with pytest.raises(InputError, match=r"'0' can reach .* more than 32 bits hold"):
        small(model, torch.rand(2, 100_000))
