"""Attention between integer layers in OpenVINO: integer products, and bfloat16."""

import pytest
from processor import rounded
from test_factors import LAYERS, attention

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


def close(y, model, x):
    """Whether a result is that of the simulated w8a8."""
    folded = fold(trace(model, x))
    simulator = Simulator(folded, observe(folded, [x]))
    expected = simulator.run(x, dict.fromkeys(LAYERS, rounded("w8a8")))
    return float((y - expected).norm() / expected.norm()) < 0.02


@pytest.mark.parametrize(("name", "between"), [("w8a8", "f32"), ("w8a8bf16", "bf16")])
def test_openvino_multiplies_queries_by_keys_in_integers(name, between, engine, programs):
    model, x = attention(is_one=True)
    program = engine.compile(model, x, dict.fromkeys(LAYERS, parse(name)), [x])
    assert program.mismatches == ()
    assert precision(programs[-1]) == between
    nodes = map(module._info, programs[-1].get_runtime_model().get_ordered_ops())
    (product,) = (x for x in nodes if "Softmax" in x["originalLayersNames"])
    assert "MatMul" in product["originalLayersNames"]
    assert product["primitiveType"].endswith("i8")
    assert product["outputPrecisions"] == between
    assert close(program(x), model, x)


def test_files_keep_bfloat16_between_the_layers(engine, programs, tmp_path):
    model, x = attention(is_one=True)
    path = tmp_path / "model.xml"
    engine.export(model, path, x, dict.fromkeys(LAYERS, parse("w8a8bf16")), [x])
    program = engine.load(path)
    assert precision(programs[-1]) == "bf16"
    assert close(program(x), model, x)
    assert precision(module.core().compile_model(path, "CPU")) == "bf16"


def test_a_plan_of_several_formats_has_casts(engine, programs):
    model, x = attention(is_one=True)
    formats = dict.fromkeys(LAYERS, parse("w8a8bf16")) | {"head": parse("w8a8")}
    program = engine.compile(model, x, formats, [x])
    assert precision(programs[-1]) == "f32"
    assert close(program(x), model, x)
