"""Attention between integer layers in OpenVINO: integer products, and bfloat16."""

import pytest
import torch
from processor import rounded
from test_factors import attention
from torch import nn

from aiq import runtimes
from aiq.formats import parse
from aiq.graph import Op, trace
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe
from aiq.runtimes import Support, openvino_bf16
from aiq.runtimes import openvino as module


@pytest.fixture
def programs(monkeypatch):
    """Programs of OpenVINO in the order in which they are compiled."""
    found = []
    compiled = module._compile

    def noted(model, **more):
        found.append(compiled(model, **more))
        return found[-1]

    monkeypatch.setattr(module, "_compile", noted)
    return found


@pytest.fixture(scope="module")
def engine():
    found = runtimes.get("openvino")
    if found.support(Op.LINEAR, parse("w8a8bf16")) is not Support.NATIVE:
        pytest.skip("the processor has no bfloat16")
    return found


def precision(program):
    return program.get_property(openvino_bf16.PRECISION).to_string()


class Packed(nn.Module):
    """Attention whose queries, keys and values are one result."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(64, 192), nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x):
        packed = self.qkv(x).reshape(*x.shape[:2], 3, 2, 32).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(*packed.unbind(0))
        return self.head(self.out(y.transpose(1, 2).flatten(2)).mean(1))


def packed():
    torch.manual_seed(0)
    return Packed().eval(), torch.randn(2, 128, 64)


def formats(model, name):
    return {n: parse(name) for n, part in model.named_modules() if isinstance(part, nn.Linear)}


def close(y, model, x):
    """Whether a result is that of the simulated w8a8."""
    folded = fold(trace(model, x))
    simulator = Simulator(folded, observe(folded, [x]))
    expected = simulator.run(x, dict.fromkeys(formats(model, "w8a8"), rounded("w8a8")))
    return float((y - expected).norm() / expected.norm()) < 0.02


@pytest.mark.parametrize(
    ("given", "name", "between"),
    [
        (attention(is_one=True), "w8a8", "f32"),
        (packed(), "w8a8", "f32"),
        (packed(), "w8a8bf16", "bf16"),
    ],
)
def test_openvino_multiplies_queries_by_keys_in_integers(given, name, between, engine, programs):
    model, x = given
    program = engine.compile(model, x, formats(model, name), [x])
    assert program.mismatches == ()
    assert precision(programs[-1]) == between
    nodes = map(module._info, programs[-1].get_runtime_model().get_ordered_ops())
    (product,) = (x for x in nodes if "Softmax" in x["originalLayersNames"])
    assert "MatMul" in product["originalLayersNames"]
    assert product["primitiveType"].endswith("i8")
    assert product["outputPrecisions"] == between
    assert close(program(x), model, x)


def test_files_keep_bfloat16_between_the_layers(engine, programs, tmp_path):
    model, x = packed()
    path = tmp_path / "model.xml"
    engine.export(model, path, x, formats(model, "w8a8bf16"), [x])
    program = engine.load(path)
    assert precision(programs[-1]) == "bf16"
    assert close(program(x), model, x)
    assert precision(module.core().compile_model(path, "CPU")) == "bf16"


@pytest.mark.parametrize(
    ("given", "head"), [(packed(), "w8a8"), (attention(is_one=True), "w8a8bf16")]
)
def test_several_formats_and_layers_for_queries_and_keys_have_casts(given, head, engine, programs):
    model, x = given
    chosen = formats(model, "w8a8bf16") | {"head": parse(head)}
    program = engine.compile(model, x, chosen, [x])
    assert precision(programs[-1]) == "f32"
    assert close(program(x), model, x)
