"""Rounding points: what runs apart from a kernel reads what the kernel has rounded."""

import pytest
import torch
from processor import rounded
from torch import nn

from aiq import runtimes
from aiq.evaluate import Evaluator
from aiq.formats import parse
from aiq.graph import Op, trace
from aiq.graph.simplify import name_of
from aiq.quantize.fold import fold
from aiq.quantize.points import rounding_points
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe
from aiq.runtimes import openvino as module
from aiq.runtimes.absorbed import absorbs


class Residual(nn.Module):
    """A sum with the block's input, a sum of two convolutions, and a mean that a layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 16, 3, padding=1)
        self.beside = nn.Conv2d(16, 16, 1)
        self.last = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.second(x))
        x = torch.relu(nn.functional.silu(self.third(x)) + self.beside(x))
        return self.last(x.mean((2, 3), keepdim=True).flatten(1))


LAYERS = ("first", "second", "third", "beside", "last")


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("runtime", "second", "third", "beside"),
    [
        (None, ["relu"], ["silu"], ["relu"]),
        ("inductor", ["relu"], ["silu"], ["relu"]),
        ("onnxruntime", ["conv2d", "relu"], ["conv2d", "silu"], ["conv2d", "relu"]),
        ("openvino", ["conv2d", "relu"], ["silu"], ["relu"]),
    ],
)
def test_each_runtime_rounds_behind_what_its_kernels_absorb(net, x, runtime, second, third, beside):
    folded = fold(trace(net, x))
    nodes = {node.name: node for node in folded.module.graph.nodes}
    found = rounding_points(folded, absorbs(runtime))
    assert {layer: [name_of(nodes[n]) for n in names] for layer, names in found.items()} == {
        "first": ["relu"],
        "second": second,
        "third": third,
        "beside": beside,
        "last": [],
    }


def compiled(runtime, net, x):
    return runtimes.get(runtime).compile(net, x, dict.fromkeys(LAYERS, parse("w8a8")), [x])


@pytest.mark.parametrize("runtime", ["inductor", "onnxruntime", "openvino"])
def test_what_is_simulated_is_what_runs(net, x, runtime):
    program = compiled(runtime, net, x)
    folded, rule = fold(trace(net, x)), absorbs(runtime)
    simulator = Simulator(folded, observe(folded, [x], rule), absorbs=rule)
    formats = {layer: rounded("w8a8") for layer in LAYERS}
    with torch.no_grad():
        simulated, exact = simulator.run(x, formats), net(x)
    assert program.mismatches == ()
    assert (program(x) - simulated).norm() < 0.1 * (simulated - exact).norm()


def test_openvino_adds_in_the_convolution_and_pools_in_integers(net, x, monkeypatch):
    programs = []
    load = module._compile
    monkeypatch.setattr(
        module, "_compile", lambda *a, **k: programs.append(load(*a, **k)) or programs[-1]
    )
    compiled("openvino", net, x)
    nodes = programs[-1].get_runtime_model().get_ordered_ops()
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in nodes]
    precisions = [node.get_rt_info()["outputPrecisions"].astype(str) for node in nodes]
    assert kinds.count("Convolution") == 4
    assert kinds.count("Subgraph") == 1  # the rounding of the input
    written = dict(zip(kinds, precisions, strict=True))
    assert written["Convolution"] == written["Reduce"] == "u8"


def test_the_evaluator_rounds_where_the_runtime_does(net, x):
    data = [(x, torch.zeros(4, dtype=torch.int64))]
    found = {}
    for runtime in ("inductor", "onnxruntime"):
        evaluator = Evaluator(net, data, absorbs=absorbs(runtime))
        found[runtime] = evaluator.evaluate(dict.fromkeys(LAYERS, parse("w4a4"))).kl
    assert found["inductor"] != found["onnxruntime"]


class Block(nn.Module):
    """A block of a transformer before a convolution's normalisation, with an outlier in its sum."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.out = nn.Linear(32, 32)
        self.first, self.second = nn.LayerNorm(32), nn.LayerNorm(32)
        self.wide, self.narrow = nn.Linear(32, 64), nn.Linear(64, 32)
        self.last = nn.Linear(32, 5)

    def forward(self, x):
        operands = [part(x)[:, None] for part in (self.query, self.key, self.value)]
        seen = nn.functional.scaled_dot_product_attention(*operands)[:, 0]
        x = self.first(x + self.out(seen))
        x = self.second(x + self.narrow(nn.functional.gelu(self.wide(x))))
        return self.last(x[:, 0])


class Normed(nn.Module):
    """Convolutions behind norms: of the batch, of a group of channels, and by the squared mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.third, self.fourth = nn.Conv2d(8, 8, 3), nn.Linear(8, 8)
        self.batch, self.group = nn.BatchNorm2d(8), nn.GroupNorm(2, 8)
        self.rms = nn.RMSNorm(8)
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.batch(torch.relu(self.first(x))))
        x = self.group(self.second(x))
        x = self.third(x).mean((2, 3))
        return self.last(self.rms(self.fourth(x)))


@pytest.mark.parametrize("runtime", [None, "inductor", "onnxruntime", "openvino"])
def test_what_only_norms_read_is_not_rounded(runtime):
    block, x = Block().eval(), torch.randn(2, 4, 32)
    found = rounding_points(fold(trace(block, x)), absorbs(runtime))
    assert {name for name, points in found.items() if not points} == {"out", "narrow", "last"}
    normed, x = Normed().eval(), torch.randn(2, 3, 12, 12)
    found = rounding_points(fold(trace(normed, x)), absorbs(runtime))
    assert {name for name, points in found.items() if not points} == {"fourth", "last"}


@pytest.mark.parametrize(
    ("runtime", "fmt"),
    [
        ("inductor", "w8a8"),
        ("inductor", "w8a8bf16"),
        ("onnxruntime", "w8a8"),
        ("openvino", "w8a8"),
        ("openvino", "w8a8bf16"),
    ],
)
def test_an_outlier_between_blocks_costs_no_accuracy(runtime, fmt):
    torch.manual_seed(0)
    block, x = Block().eval(), torch.randn(8, 4, 32)
    with torch.no_grad():
        block.narrow.bias[3] = 100.0
        block.second.weight[3] = 0.0  # no layer reads it
        exact = block(x)
        names = [layer.name for layer in trace(block, x).graph.quantizable]
        program = runtimes.get(runtime).compile(block, x, dict.fromkeys(names, parse(fmt)), [x])
        assert (program(x) - exact).norm() < 0.01 * exact.norm()
    assert program.mismatches == ()


def variance(x):
    return x.var(-1, keepdim=True, unbiased=False)


WRITTEN = {
    "square root": lambda x: (x - x.mean(-1, True)) / torch.sqrt(variance(x) + 1e-5),
    "power": lambda x: x * (x.pow(2).mean(-1, True) + 1e-6) ** -0.5,
    "reciprocal": lambda x: x * torch.rsqrt(torch.var_mean(x, -1, keepdim=True)[0] + 1e-5),
    "deviation": lambda x: (x - x.mean(-1, True)) / (x.std(-1, keepdim=True) + 1e-5),
    "vector": lambda x: 32**0.5 * nn.functional.normalize(x, dim=-1),
    "length": lambda x: x / (x.norm(dim=-1, keepdim=True) + 1e-6),
}
"""Norms of the last dimension that are written as several operators."""


class Written(nn.Module):
    def __init__(self, name) -> None:
        super().__init__()
        self.norm, self.weight = WRITTEN[name], nn.Parameter(torch.ones(32))

    def forward(self, x):
        return self.norm(x) * self.weight


@pytest.mark.parametrize("name", WRITTEN)
def test_norms_may_be_written_as_several_operators(name):
    block, x = Block().eval(), torch.randn(2, 4, 32)
    block.first, block.second = Written(name), Written(name)
    traced = trace(block, x)
    found = rounding_points(fold(traced))
    assert {layer for layer, points in found.items() if not points} == {"out", "narrow", "last"}
    assert [layer.name for layer in traced.graph.layers if layer.op is Op.NORM] == [
        "first",
        "second",
    ]


class Loose(nn.Module):
    """Activations and sums before norms, without modules for the norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x):
        x = WRITTEN["square root"](torch.relu(self.first(x)))
        return self.last(WRITTEN["vector"](torch.relu(x + self.second(x))))


def test_what_is_before_a_norm_is_not_part_of_it():
    found = {
        layer.name: layer for layer in trace(Loose().eval(), torch.randn(2, 4, 32)).graph.layers
    }
    assert found["first"].fused == ("relu",)
    assert found["second"].fused == ("add", "relu")


class Scaled(nn.Module):
    """Means that are divided by a constant, by themselves, and that divide nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(32, 32), nn.Linear(32, 5)
        self.register_buffer("size", torch.full((32,), 2.0))

    def forward(self, x):
        x = self.first(x)
        y = torch.relu(x.mean(1, keepdim=True))
        return self.last(x / 3 + y / self.size), y / (y + 1), torch.rsqrt(x.square().mean(2) + 1)


def test_a_mean_that_is_scaled_is_no_norm():
    traced = trace(Scaled().eval(), torch.randn(2, 4, 32))
    assert all(layer.op is not Op.NORM for layer in traced.graph.layers)
    assert rounding_points(fold(traced))["first"]


def test_an_outlier_before_a_norm_of_several_operators_costs_no_accuracy():
    torch.manual_seed(0)
    block, x = Block().eval(), torch.randn(8, 4, 32)
    block.second = Written("square root")
    with torch.no_grad():
        block.narrow.bias[3] = 100.0
        block.second.weight[3] = 0.0
        exact = block(x)
        folded = fold(trace(block, x))
        formats = dict.fromkeys(rounding_points(folded), parse("w8a8"))
        simulated = Simulator(folded, observe(folded, [x])).run(x, formats)
        assert (simulated - exact).norm() < 0.01 * exact.norm()
