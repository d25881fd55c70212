"""The calibrated cost table: by hand, against enumeration, and what it says of the profile."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toy_profile import FORMATS, IMAGE, PROFILE, TOY, Residual, conv, plan, table

import aiq
from aiq import graph, hardware
from aiq.cost import (
    Level,
    calibrated_table,
    intensity_table,
    time_table,
)
from aiq.cost.pieces import pieces
from aiq.errors import HardwareError
from aiq.formats import parse, parse_all
from aiq.hardware import Hardware
from aiq.planning.allowed import allowed_formats
from aiq.planning.tables import Tables


class Block(nn.Module):
    """Two readers of one tensor, and a residual addition."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = conv(3, 8), conv(8, 8), conv(8, 8)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.left(x), self.right(x)


def test_two_convolutions_by_hand():
    found = table(nn.Sequential(conv(3, 8), conv(8, 4)))
    x, y, z, w0, w1 = 3 * 256, 8 * 256, 4 * 256, 3 * 8 * 9, 8 * 4 * 9
    copy = 1e-6 + 4 * (x + x) / 10e9  # channels last, from the nearest level
    # fp32: channels padded to 16, half of the peak, half of the bandwidth.
    first = 2e-6 + 2 * w0 * 256 / 0.5e9 + 4 * (x + y + w0) / 5e9 + y * 1e-9
    second = 2e-6 + 2 * w1 * 256 / 0.5e9 + 4 * (y + z + w1) / 5e9 + z * 1e-9
    assert found.total({}) == pytest.approx(7e-6 + copy + first + second, rel=1e-9)
    # int8: a result of the network stays float32, scales are read, one per channel.
    quantised = 1e-6 + (4 * x + x) / 10e9  # the copy rounds as well
    quantised += 4e-6 + 2 * w0 * 256 / 1e9 + (x + y + w0 + 4 * 8) / 10e9
    quantised += 4e-6 + 2 * w1 * 256 / 1e9 + (y + 4 * z + w1 + 4 * 4) / 10e9
    assert found.total(plan(found, "w8a8", "w8a8")) == pytest.approx(7e-6 + quantised, rel=1e-9)
    assert found.level is Level.CALIBRATED
    assert found.per_unit == 10**12


def test_inputs_are_reordered_at_a_price_of_their_own():
    plain = table(nn.Sequential(conv(3, 8), conv(8, 4)))
    kernel = "reorder: {fp32: {start_us: 9, memory: 1, output_ns: 2}}\n      add:"
    dear = hardware.parse_profile(PROFILE.replace("add:", kernel, 1), "toy")
    found = table(nn.Sequential(conv(3, 8), conv(8, 4)), profile=dear)
    extra = (found.cost - plain.cost) / 1e12
    assert extra[0] == pytest.approx(np.full(3, 8e-6 + 2e-9 * 3 * 256), abs=2e-12)
    assert (extra[1] == 0).all()  # its input is the first one's output
    each = kernel.replace("{fp32", "{int8: {start_us: 20, memory: 1, output_ns: 2}, fp32")
    dear = hardware.parse_profile(PROFILE.replace("add:", each, 1), "toy")
    found = table(nn.Sequential(conv(3, 8), conv(8, 4)), profile=dear)
    extra = (found.cost[0] - plain.cost[0]) / 1e12
    assert extra == pytest.approx(np.array([8e-6, 8e-6, 19e-6]) + 2e-9 * 3 * 256, abs=2e-12)


def test_an_input_that_several_convolutions_read_is_reordered_once():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = conv(3, 8), conv(3, 8)

        def forward(self, x):
            return self.one(x) + self.two(x)

    layout = "layout: {fp32: {start_us: 1,"
    dear = hardware.parse_profile(PROFILE.replace(layout, "layout: {fp32: {start_us: 101,"), "toy")
    extra = table(Two(), profile=dear).total({}) - table(Two()).total({})
    assert extra == pytest.approx(100e-6, rel=1e-6)


def test_poolings_cost_what_they_read():
    cheap = "pool: {fp32: {start_us: 11, memory: 1, output_ns: 0}}"
    dear = hardware.parse_profile(
        PROFILE.replace(cheap, cheap.replace("output_ns: 0", "output_ns: 1")), ""
    )
    extra = table(Residual(), profile=dear).total({}) - table(Residual()).total({})
    assert extra == pytest.approx(1e-9 * 8 * 256, abs=2e-12)  # it writes a quarter


def test_an_edge_costs_its_conversion_and_only_where_formats_differ():
    found = table(nn.Sequential(conv(3, 8), conv(8, 4)))
    (edge,) = found.edges
    assert (edge.source, edge.target) == (0, 1)
    n = 8 * 256
    expected = [
        [0, 30e-6 + 6 * n / 10e9, 10e-6 + 5 * n / 10e9],
        [40e-6 + 6 * n / 10e9, 0, 50e-6 + 3 * n / 10e9],
        [20e-6 + 5 * n / 10e9, 60e-6 + 3 * n / 10e9, 0],
    ]
    assert edge.cost / 1e12 == pytest.approx(np.array(expected), abs=2e-12)
    alone = plan(found, "fp32", "w8a8")
    rows = found.cost[0, 0] + found.cost[1, 2] + edge.cost[0, 2] + found.fixed
    assert found.total(alone) == pytest.approx(rows / 1e12)


def test_readers_of_one_tensor_share_its_conversion():
    found = table(Block())
    n = 8 * 256
    conversion = 10e-6 + 5 * n / 10e9
    rows = {name: dict(zip("fbi", row / 1e12, strict=True)) for name, row in rows_of(found)}

    def edges(stem, left, right):
        letters = {"f": "fp32", "b": "bf16", "i": "w8a8"}
        names = {"stem": stem, "left": left, "right": right}
        total = found.total({k: parse(letters[v]) for k, v in names.items()})
        return total - found.fixed / 1e12 - sum(rows[k][v] for k, v in names.items())

    assert edges("f", "f", "f") == pytest.approx(0, abs=1e-12)
    assert edges("f", "i", "i") == pytest.approx(conversion, rel=1e-6)
    back = 20e-6 + 5 * n / 10e9
    # One of two readers converts: half of it on its edge, half between the readers, both ways.
    assert edges("f", "i", "f") == pytest.approx(conversion / 2 + (conversion + back) / 4, rel=1e-6)


def rows_of(found):
    return zip(found.layers, found.cost, strict=True)


def test_a_residual_of_another_format_breaks_the_fusion():
    found = table(Residual())
    same = found.total(plan(found, "w8a8", "w8a8", "w8a8", "w8a8"))
    mixed = found.total(plan(found, "fp32", "w8a8", "w8a8", "w8a8"))
    n = 8 * 256
    addition = 5e-6 + 12 * n / 10e9  # float32: two tensors read, one written
    quantise = 10e-6 + 5 * n / 10e9
    stem = (found.cost[0, 0] - found.cost[0, 2]) / 1e12
    assert mixed - same == pytest.approx(stem + addition + quantise, rel=1e-9)


def test_what_a_kernel_does_besides_multiplying_has_its_price():
    found = table(nn.Sequential(conv(3, 8), nn.GELU(), conv(8, 8)), parse_all("fp32,w8a8"))
    plain = table(nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8)), parse_all("fp32,w8a8"))
    n = 8 * 256
    extra = (found.cost - plain.cost) / 1e12
    assert extra[0] == pytest.approx([6e-6 + 8 * n / 10e9, 8e-6 + 2 * n / 10e9], abs=2e-12)
    assert (extra[1] == 0).all()
    layers = graph.extract(Residual(), IMAGE)
    added = {
        p.kernel: p.work[3:6] for p in pieces(layers, FORMATS, {}, ()) if "residual" in p.kernel
    }
    assert added == {f"residual.{d}": (2 * n, 0, n) for d in ("fp32", "bf16", "int8")}


def test_layers_without_weights_follow_the_layer_before_them():
    found = table(Residual())
    # The pool starts once whatever the formats, and absorbs the conversion behind it.
    a = found.total(plan(found, "fp32", "fp32", "fp32", "w8a8"))
    b = found.total({})
    head = (found.cost[3, 2] - found.cost[3, 0]) / 1e12
    assert a - b == pytest.approx(head, abs=1e-12)


@pytest.fixture(scope="module")
def residual():
    return table(Residual())


@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=1, max_size=5))
def test_many_plans_at_once_are_the_plans_one_by_one(residual, plans):
    one_by_one = [
        residual.total({name: FORMATS[k] for name, k in zip(residual.layers, plan, strict=True)})
        for plan in plans
    ]
    assert residual.totals(plans).tolist() == one_by_one


def test_the_search_sees_the_edges():
    module = Residual()
    layers = graph.extract(module, IMAGE)
    found = table(module)
    drop = np.array([[0, 0.001, 0.002], [0, 0.002, 0.004], [0, 0.001, 0.03], [0, 0.0, 0.001]])
    tables = Tables(
        cost=found,
        intensity=intensity_table(layers, FORMATS),
        drop=drop,
        sizes=np.zeros((4, 3), dtype=np.int64),
        allowed=allowed_formats(layers, FORMATS, FORMATS, {"head": "fp32"}),
    )
    for budget in (0.0, 0.002, 0.005, 0.01, 1.0):
        solution = tables.within(budget)
        best = min(
            found.total({n: FORMATS[k] for n, k in zip(found.layers, columns, strict=True)})
            for columns in itertools.product(range(3), range(3), range(3), [0])
            if sum(drop[i, k] for i, k in enumerate(columns)) <= budget + 1e-12
        )
        assert found.total(tables.formats(solution.choices)) == pytest.approx(best, abs=1e-12)


def test_formats_are_priced_as_they_run():
    found = table(Residual(), parse_all("fp32,w8a8,w4a4,w4"))
    assert (found.cost[:, 1] == found.cost[:, 2]).all()
    # Stored small, computed wide: fewer bytes of weights, the arithmetic of float32.
    assert (found.cost[:, 3] < found.cost[:, 0]).all()
    assert (found.cost[:, 3] > found.cost[:, 0] // 2).all()
    assert all((edge.cost[0, 3], edge.cost[3, 0]) == (0, 0) for edge in found.edges)


def test_time_table_takes_the_best_there_is():
    layers = graph.extract(Residual(), IMAGE)
    assert time_table(layers, FORMATS, TOY, "inductor").level is Level.CALIBRATED
    assert time_table(layers, FORMATS, TOY, "openvino").level is Level.ROOFLINE
    assert time_table(layers, FORMATS, TOY).level is Level.ROOFLINE


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("conv:", "grouped:", r"no kernel for conv in fp32; add runtimes\.inductor\.kernels\.conv"),
        ("fp32_to_int8:", "int8_to_int8:", r"add runtimes\.inductor\.boundaries\.fp32_to_int8"),
        ("bf16: {support: native, runs_as: bf16}", "w4: {support: none, runs_as: w4}", "no bf16"),
        ("pool: {", "norm: {", "no kernel for pool"),
        ("  int8: {peak_gflops: 4}\n", "", r"compute\.int8\.peak_gflops"),
    ],
)
def test_what_a_profile_lacks_is_named(old, new, words):
    assert old in PROFILE
    with pytest.raises(HardwareError, match=words):
        table(Residual(), profile=hardware.parse_profile(PROFILE.replace(old, new), "toy.yaml"))


def test_an_uncalibrated_runtime_says_what_to_do():
    with pytest.raises(HardwareError, match=r"it has inductor.*aiq calibrate --runtime openvino"):
        calibrated_table(graph.extract(Residual(), IMAGE), FORMATS, TOY, "openvino")
    xeon = Hardware.load("xeon_2vcpu_roofs")
    with pytest.raises(HardwareError, match=r"it has none"):
        calibrated_table(graph.extract(Residual(), IMAGE), FORMATS, xeon, "inductor")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_profile_of_one_thread_predicts_that_machine_with_the_same_code(runtime):
    wide = nn.Sequential(*(conv(64, 64) for _ in range(8)))
    layers = graph.extract(wide, torch.zeros(4, 64, 56, 56))
    one, two = (
        calibrated_table(layers, parse_all("fp32,w8a8"), Hardware.load(name), runtime)
        for name in ("epyc_zen4_1thread", "epyc_zen4_2vcpu")
    )
    for fmt in ("fp32", "w8a8"):
        uniform = dict.fromkeys(one.layers, parse(fmt))
        assert 1.3 < one.total(uniform) / two.total(uniform) < 2.2
    assert one.spread != two.spread


def test_the_search_asks_only_for_formats_that_the_runtime_runs():
    without = hardware.parse_profile(
        PROFILE.replace("bf16: {support: native", "bf16: {support: none"), "toy.yaml"
    )
    known = without.runtimes["inductor"]
    assert [known.runs(f) for f in FORMATS] == [True, False, True]
    with pytest.raises(HardwareError, match="has no bf16 in its profile; leave bf16 out"):
        known.executed(parse("bf16"))
    for profile, expected in ((TOY, ["fp32", "bf16", "w8a8"]), (without, ["fp32", "w8a8"])):
        plan = aiq.search(Residual(), profile, example_inputs=IMAGE, max_drop=1.0)
        assert plan.provenance["formats"] == expected
