"""Rounding points: what runs apart from a kernel reads what the kernel has rounded."""

import pytest
import torch
from processor import rounded
from torch import nn

from aiq import runtimes
from aiq.evaluate import Evaluator
from aiq.formats import parse
from aiq.graph import trace
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
