"""Cost tables: the paper's numbers, and the roofline by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from aiq import _core, graph, models
from aiq.cost import intensity_table, roofline_table, rows
from aiq.errors import HardwareError, InputError
from aiq.formats import PAPER, REFERENCE, parse, parse_all
from aiq.hardware import Hardware

IMAGE = torch.zeros(1, 3, 32, 32, device="meta")


@pytest.fixture(scope="module")
def resnet20():
    return graph.extract(models.resnet20().to("meta"), IMAGE)


@pytest.mark.parametrize(
    ("name", "intensity"), [("fp32", 29.8494), ("w8", 42.4719), ("w4", 45.6923)]
)
def test_the_papers_intensities(resnet20, name, intensity):
    table = intensity_table(resnet20, PAPER)
    uniform = dict.fromkeys(table.layers, parse(name))
    assert table.flops == 81_626_368
    assert round(table.intensity(uniform), 4) == intensity
    if name == "fp32":
        assert table.total(uniform) == 2_734_608
        assert table.total({}) == 2_734_608


@pytest.mark.parametrize(("name", "ratio"), [("w8a8", 4.0), ("w4a4", 8.0), ("bf16", 2.0)])
def test_uniform_ratios_with_activations_counted(resnet20, name, ratio):
    table = intensity_table(resnet20, parse_all(["fp32", name]))
    uniform = dict.fromkeys(table.layers, parse(name))
    # The ten results stay float32: a shade under the ratio of the bits.
    assert table.intensity(uniform) / table.intensity({}) == pytest.approx(ratio, rel=2e-3)
    assert table.intensity(uniform) < ratio * table.intensity({})


def test_roofline_is_the_higher_of_two_roofs(resnet20):
    xeon = Hardware.load("xeon_2vcpu_roofs")
    table = roofline_table(resnet20, parse_all("fp32,w8a8,w8"), xeon)
    layers = resnet20.quantizable
    for row, layer in zip(table.cost, layers, strict=True):
        scales = 4 * layer.weight_shape[0]
        moved = layer.input_elements + layer.fused_elements
        written = layer.output_elements
        for seconds, peak, (weight, activation), extra in zip(
            row / 1e12,
            (480e9, 14100e9, 480e9),
            ((4, 4), (1, 1), (1, 4)),
            (0, scales, scales),
            strict=True,
        ):
            result = written * (4 if layer.is_output else activation)
            traffic = layer.weight_elements * weight + moved * activation + result + extra
            assert seconds == pytest.approx(max(layer.flops / peak, traffic / 32.7e9), abs=1e-12)
    others = [x for x in resnet20.layers if not x.quantizable]
    assert others
    assert table.fixed > 0
    assert table.total({}) == pytest.approx((table.cost[:, 0].sum() + table.fixed) / 1e12)


def test_missing_peak_names_the_key(resnet20):
    xeon = Hardware.load("xeon_2vcpu_roofs")
    old = Hardware("old", "no int8", 1, {"fp32": 100.0}, xeon.memory, {})
    assert roofline_table(resnet20, parse_all("fp32,w8,w4"), old).total({}) > 0
    with pytest.raises(HardwareError, match=r"compute\.int8\.peak_gflops"):
        roofline_table(resnet20, parse_all("fp32,w8a8"), old)


def test_questions_a_table_cannot_answer(resnet20):
    table = intensity_table(resnet20, PAPER)
    with pytest.raises(InputError, match=r"conv1 has format w3.*fp32, w8, w4"):
        table.total({"conv1": parse("w3")})
    seconds = roofline_table(resnet20, PAPER, Hardware.load("xeon_2vcpu_roofs"))
    with pytest.raises(InputError, match="holds seconds"):
        seconds.intensity({})


def test_batch_multiplies_activations_not_weights():
    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    one, five = (graph.extract(net, torch.zeros(n, 8)) for n in (1, 5))
    formats = (REFERENCE, parse("w4a8"))
    a, b = intensity_table(one, formats), intensity_table(five, formats)
    weights = np.array([[32 * 36, 4 * 36], [32 * 10, 4 * 10]])
    assert ((b.cost - weights) == 5 * (a.cost - weights)).all()
    assert b.flops == 5 * a.flops


sizes = st.integers(0, 2**30)


@given(
    st.builds(rows.Work, sizes, sizes, sizes, sizes, sizes, sizes, st.booleans()),
    st.sampled_from(
        [
            rows.Storage(32, 32, 32, False, 0),
            rows.Storage(16, 16, 16, False, 1),
            rows.Storage(8, 8, 32, True, 2),
            rows.Storage(2, 3, 3, True, 2),
        ]
    ),
    st.floats(1e9, 1e15),
    st.floats(1e8, 1e12),
)
def test_roofline_against_exact_fractions(work, storage, peak, bandwidth):
    flops, weights, scales, inputs, fused, outputs, is_output = work
    weight, activation, result, scaled, compute = storage
    bits = weights * weight + inputs * activation + outputs * (32 if is_output else result)
    ((operator,),) = _core.intensity_table([work], [storage])
    assert operator == bits
    bits += fused * activation + (scales * 32 if scaled else 0)
    levels = [rows.LevelRow(1e9, 2 * bandwidth), rows.LevelRow(1e12, bandwidth)]
    machine = rows.Machine([peak, 2 * peak, 4 * peak], levels)
    ((picoseconds,),) = _core.roofline_table([work], [storage], machine)
    exact = max(flops / (peak * 2**compute), bits / 8 / bandwidth) * 1e12
    assert math.isclose(picoseconds, exact, rel_tol=1e-12, abs_tol=1)


@pytest.mark.parametrize("peak", [0.0, -1.0, math.nan, math.inf])
def test_core_refuses_impossible_machines(peak):
    work, storage = rows.Work(1, 1, 1, 1, 1, 1), rows.Storage(8, 8, 8, True, 0)
    levels = [rows.LevelRow(1e9, 1e9)]
    with pytest.raises(InputError, match="peak of the machine"):
        _core.roofline_table([work], [storage], rows.Machine([peak], levels))
    with pytest.raises(InputError, match="number of memory levels"):
        _core.roofline_table([work], [storage], rows.Machine([1e9], []))
    with pytest.raises(InputError, match="63 bits"):
        _core.intensity_table([work._replace(weights=2**62)], [storage])
