"""Support, cost and the kernel that runs agree on every layer, wherever it stands."""

from functools import cache

import pytest
import torch
from torch import nn

import aiq
from aiq import cost, runtimes
from aiq.formats import REFERENCE, parse
from aiq.graph import Op, trace
from aiq.hardware import Hardware
from aiq.runtimes import Support, placement

W8A8 = parse("w8a8")


class Doubled(nn.Module):
    """What the first convolution writes is a result of the network, and read by the second."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        y = torch.relu(self.one(x))
        return y, self.two(y).mean((2, 3))


class Residual(nn.Module):
    """The addition of the input, a result of the network, is fused into the last convolution."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x):
        return x + self.two(torch.relu(self.one(x)))


class Permuted(nn.Module):
    """A linear layer over the channels of an image, which come last for it."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(4, 8, 3), nn.Linear(8, 20)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).permute(0, 2, 3, 1))


class Signals(nn.Module):
    """Convolutions of padded signals whose results are not rounded: normed, summed, cut."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 8, 3, padding=1), nn.Conv1d(8, 8, 4, 2, padding="valid")
        self.c, self.d = nn.Conv1d(8, 8, 5, padding=4, dilation=2), nn.Conv1d(8, 8, 4, groups=4)
        self.norm = nn.LayerNorm(16)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        y = nn.functional.gelu(self.b(self.norm(self.a(x))))
        y = self.d(self.c(y) + y)[:, :, 1:]
        return self.fc(y.transpose(1, 2))


class Shared(nn.Module):
    """Linear layers that share a rounded input with each other and with an addition."""

    def __init__(self):
        super().__init__()
        self.p, self.q, self.k, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        x = self.p(x)
        return self.o(torch.relu(self.q(x)) * torch.sigmoid(self.k(x))) + x


class Transposed(nn.Module):
    """A product with weights that are stored as (inputs, outputs), as in GPT-2."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(16, 24) / 4), nn.Parameter(torch.ones(24))
        self.fc = nn.Linear(24, 8)

    def forward(self, x):
        return self.fc(torch.relu(torch.addmm(self.bias, x.view(-1, 16), self.weight)))


def ended(*layers):
    """Return layers and a head of its own, so that no convolution writes a result."""
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))


IMAGES, SIGNALS, VOLUMES = (
    torch.randn(2, 4, 8, 8),
    torch.randn(2, 4, 16),
    torch.randn(2, 4, 6, 6, 6),
)
CASES = {
    "transposed": (ended(nn.ConvTranspose2d(4, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3)), IMAGES),
    "transposed signals": (ended(nn.ConvTranspose1d(4, 8, 4, 2, 1)), SIGNALS),
    "volumes": (ended(nn.Conv3d(4, 8, 3), nn.ReLU(), nn.Conv3d(8, 4, 3)), VOLUMES),
    "signals": (ended(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3)), SIGNALS),
    "last": (nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), IMAGES),
    "last, a clamp": (
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.ReLU6()),
        IMAGES,
    ),
    "last, a view": (
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten()),
        IMAGES,
    ),
    "last, a mean": (nn.Sequential(nn.Conv2d(4, 8, 3), nn.AdaptiveAvgPool2d(1)), IMAGES),
    "last, linear": (nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)), SIGNALS),
    "doubled": (Doubled(), IMAGES),
    "residual": (Residual(), IMAGES),
    "permuted": (Permuted(), IMAGES),
    "signals, not rounded": (Signals(), SIGNALS),
    "no batch": (
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(0)),
        IMAGES[0],
    ),
    "shared": (Shared(), torch.randn(2, 8, 16)),
    "transposed weights": (Transposed(), torch.randn(2, 8, 16)),
    "one small row": (nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 32)), torch.randn(1, 8)),
    "dilated, grouped": (
        ended(nn.Conv2d(4, 8, 3, dilation=2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2)),
        IMAGES,
    ),
    "padded": (
        ended(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 8, 3, 2, 1, padding_mode="reflect")),
        IMAGES,
    ),
}
COMPILED = {
    *("volumes", "last", "permuted", "one small row", "signals, not rounded", "no batch"),
    *("shared", "transposed weights"),
}
"""Cases that TorchInductor compiles, too, which takes it seconds."""


@cache
def exported(case):
    """Return a model in evaluation mode, its inputs, and its trace, which all runtimes share."""
    torch.manual_seed(0)
    model, x = CASES[case]
    model.eval()(x)  # makes lazy layers
    return model, x, trace(model, x)


@pytest.mark.parametrize(
    ("runtime", "case"),
    [
        (runtime, case)
        for runtime in ("onnxruntime", "openvino", "inductor")
        for case in CASES
        if runtime != "inductor" or case in COMPILED
    ],
)
def test_what_runs_is_what_is_said_and_priced(runtime, case):
    model, x, traced = exported(case)
    engine, graph = runtimes.get(runtime), traced.graph
    table = cost.time_table(graph, (REFERENCE, W8A8), Hardware.load("xeon_2vcpu_roofs"), runtime)
    plan = dict.fromkeys(table.layers, W8A8)
    program = engine.compiler(model, x, [x], traced=traced)(plan)
    for i, layer in enumerate(graph.quantizable):
        is_native = engine.support(layer, W8A8) is Support.NATIVE
        assert is_native == (program.realised[layer.name] == "w8a8"), layer.name
        assert is_native == (table.cost[i, 1] < table.cost[i, 0]), layer.name
    exact = torch.cat([y.flatten() for y in (model(x) if case == "doubled" else [model(x)])])
    found = torch.cat([y.flatten() for y in (program(x) if case == "doubled" else [program(x)])])
    assert (found - exact).norm() <= 0.03 * exact.norm()


def test_search_leaves_in_float32_what_has_no_integer_kernel():
    model, x = CASES["last"]
    plan = aiq.search(
        model,
        "xeon_2vcpu_roofs",
        example_inputs=x,
        formats="w8a8",
        max_drop=1.0,
        runtime="onnxruntime",
    )
    assert [layer.format for layer in plan.layers] == ["w8a8", "fp32"]
    assert plan.layers[1].why == "onnxruntime has only a float32 kernel here"
    program = aiq.deploy(plan, model, example_inputs=x, calibration=[x], runtime="onnxruntime")
    assert program.mismatches == ()


def test_a_pin_is_kept_and_priced_as_what_runs():
    model, x = CASES["last"]
    plan = aiq.search(
        model,
        "xeon_2vcpu_roofs",
        example_inputs=x,
        formats="fp32,w8a8",
        pin={"2": "w8a8"},
        max_drop=1.0,
        runtime="onnxruntime",
    )
    assert plan.layers[1].format == "w8a8"
    assert plan.layers[1].saving == 0


def test_calibrated_costs_and_those_on_edges_are_of_what_runs():
    model, x = CASES["last"]
    hardware = Hardware.load("epyc_zen4_2vcpu")
    graph = aiq.extract(model, x)
    table = cost.time_table(graph, (REFERENCE, W8A8), hardware, "onnxruntime")
    first = {"0": W8A8}
    assert table.total({"0": W8A8, "2": W8A8}) == table.total(first) != table.total({})
    other = cost.time_table(graph, (REFERENCE, W8A8), hardware, "openvino")
    assert other.total({"0": W8A8, "2": W8A8}) != other.total(first)


@pytest.mark.parametrize(
    ("runtime", "shape", "fmt", "runs"),
    [
        ("onnxruntime", (8, 96), "w4g64", "fp32"),  # groups that do not fill a channel
        ("onnxruntime", (8, 48), "w4g64", "w4g64"),  # one group
        ("openvino", (8, 128), "w4g64", "w4g64"),
        ("inductor", (8, 128), "w8g64", "w8g64"),
        ("inductor", (8, 96), "w4g64", "fp32"),
        ("inductor", (8, 128), "w3", "fp32"),
        ("inductor", (8, 128), "w4a4", "w4a4"),
        ("eager", (8, 128), "w4g64", "w4g64"),
        (None, (8, 128), "w4g64", "w4g64"),
    ],
)
def test_weights_alone(runtime, shape, fmt, runs):
    (layer,) = aiq.extract(nn.Linear(*reversed(shape)), torch.randn(2, shape[1])).quantizable
    assert placement.runs_as(runtime, layer, parse(fmt)) == parse(runs)


class Names(nn.Module):
    """Modules with names that nodes of the graph have too, those of other layers."""

    def __init__(self):
        super().__init__()
        self.first, self.linear, self.linear_1 = (nn.Linear(64, 64) for _ in range(3))

    def forward(self, x):
        return self.linear_1(torch.relu(self.linear(torch.relu(self.first(x)))))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "names", [("w8a8",) * 3, ("w8a8", "w8", "w4g32"), ("w8a8", "w4", "w8a8"), ("w8", "w8a8", "w4")]
)
def test_layers_may_have_the_names_of_nodes(runtime, names):
    torch.manual_seed(0)
    model, x = Names().eval(), torch.randn(16, 64)
    asked = dict(zip(("first", "linear", "linear_1"), names, strict=True))
    program = runtimes.get(runtime).compile(model, x, {k: parse(f) for k, f in asked.items()}, [x])
    assert program.realised == asked


@pytest.mark.parametrize("runtime", ["inductor", "onnxruntime", "openvino"])
def test_a_weight_only_layer_among_integer_layers_reads_floats(runtime):
    torch.manual_seed(0)
    layers = (nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Flatten(0, 1))
    model, x = nn.Sequential(*layers, nn.Linear(64, 8)).eval(), torch.randn(2, 16, 64)
    names = dict(zip("0235", ("w8a8", "w8", "w8a8", "w4g32"), strict=True))
    program = runtimes.get(runtime).compile(model, x, {k: parse(f) for k, f in names.items()}, [x])
    assert program.realised == names


def test_convolutions_have_no_kernels_for_weights_alone():
    (layer,) = aiq.extract(nn.Conv2d(4, 8, 3), IMAGES).quantizable
    for runtime in ("inductor", "onnxruntime", "openvino"):
        assert placement.runs_as(runtime, layer, parse("w8")) == REFERENCE
        assert runtimes.get(runtime).support(layer, parse("w8")) is Support.EMULATED
        assert runtimes.get(runtime).support(Op.LINEAR, parse("w8")) is Support.DEQUANT


def test_whatever_losses_add_up_to_a_drop_of_everything_is_allowed():
    model, x = CASES["last, linear"]
    plan = aiq.search(
        model,
        "xeon_2vcpu_roofs",
        example_inputs=x,
        formats="w8a8",
        max_drop=1.0,
        sensitivity=lambda layer, fmt: 0.9,
    )
    assert {layer.format for layer in plan.layers} == {"w8a8"}


class Gated(nn.Module):
    """OpenVINO merges two of its products, or the product with the gate, into one kernel."""

    def __init__(self):
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(64, 128), nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x):
        return self.down(self.up(x) * torch.sigmoid(self.gate(x)))


@pytest.mark.parametrize("name", ["fp32", "w8", "w8a8"])
def test_merged_products_are_known_by_their_weights(name):
    torch.manual_seed(0)
    net, x = Gated().eval(), torch.randn(8, 64)
    formats = dict.fromkeys(("up", "gate", "down"), parse(name))
    program = runtimes.get("openvino").compile(net, x, formats, [x])
    assert program.realised == dict.fromkeys(formats, name)
