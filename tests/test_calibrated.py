"""The calibrated cost table: by hand, against enumeration, and what it says of the profile."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import aiq
from aiq import graph, hardware
from aiq.cost import (
    Level,
    calibrated_table,
    intensity_table,
    rows,
    shape,
    time_table,
)
from aiq.cost.pieces import pieces
from aiq.errors import HardwareError
from aiq.formats import parse, parse_all
from aiq.hardware import Hardware
from aiq.planning.allowed import allowed_formats
from aiq.planning.tables import Tables

PROFILE = """
schema: aiq/hw-profile/v1
name: toy
description: A machine with round numbers.
provenance: {method: spec, date: "2026-01-01", sources: [none]}
threads: 1
compute:
  fp32: {peak_gflops: 1}
  bf16: {peak_gflops: 2}
  int8: {peak_gflops: 4}
memory:
  - {level: L2, size_kib: 64, read_gbps: 10}
  - {level: DRAM, size_kib: 1000000, read_gbps: 1}
runtimes:
  inductor:
    version: "1"
    run_overhead_us: 7
    formats:
      fp32: {support: native, runs_as: fp32}
      bf16: {support: native, runs_as: bf16}
      w8a8: {support: native, runs_as: w8a8}
      wNaM: {support: emulated, runs_as: w8a8}
      wN: {support: dequant, runs_as: fp32}
    kernels:
      conv:
        fp32: {start_us: 2, compute: 0.5, memory: 0.5, output_ns: 1}
        bf16: {start_us: 3, compute: 1.0, memory: 1.0, output_ns: 0}
        int8: {start_us: 4, compute: 0.25, memory: 1.0, output_ns: 0}
      layout: {fp32: {start_us: 1, memory: 1, output_ns: 0}}
      add: {fp32: {start_us: 5, memory: 1, output_ns: 0}}
      pool: {fp32: {start_us: 11, memory: 1, output_ns: 0}}
      residual:
        fp32: {start_us: 0.5, memory: 1, output_ns: 0}
        bf16: {start_us: 0.5, memory: 1, output_ns: 0}
        int8: {start_us: 0.5, memory: 1, output_ns: 0}
      gelu:
        fp32: {start_us: 6, memory: 1, output_ns: 0}
        int8: {start_us: 8, memory: 1, output_ns: 0}
    boundaries:
      fp32_to_int8: {start_us: 10, memory: 1, output_ns: 0}
      int8_to_fp32: {start_us: 20, memory: 1, output_ns: 0}
      fp32_to_bf16: {start_us: 30, memory: 1, output_ns: 0}
      bf16_to_fp32: {start_us: 40, memory: 1, output_ns: 0}
      bf16_to_int8: {start_us: 50, memory: 1, output_ns: 0}
      int8_to_bf16: {start_us: 60, memory: 1, output_ns: 0}
    fuses: [pool, layout]
    fit: {samples: 10, noise: 0.01, mape: 0.05, low: 0.9, high: 1.2}
"""
TOY = hardware.parse_profile(PROFILE, "toy.yaml")
FORMATS = parse_all("fp32,bf16,w8a8")


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


class Block(nn.Module):
    """Two readers of one tensor, and a residual addition."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = conv(3, 8), conv(8, 8), conv(8, 8)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.left(x), self.right(x)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = conv(3, 8), conv(8, 8), conv(8, 8)
        self.pool, self.head = nn.MaxPool2d(2), conv(8, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.second(torch.relu(self.first(x))))
        return self.head(self.pool(x))


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = conv(3, 8), conv(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.stem(x)).mean((2, 3), keepdim=True))


IMAGE = torch.zeros(1, 3, 16, 16)


def table(module, formats=FORMATS, profile=TOY):
    return calibrated_table(graph.extract(module, IMAGE), formats, profile, "inductor")


def plan(found, *names):
    return dict(zip(found.layers, parse_all_in_order(names), strict=True))


def parse_all_in_order(names):
    return [parse(name) for name in names]


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


CORRECTION = """
        fp32:
          start_us: 2
          compute: 0.5
          memory: 0.5
          output_ns: 1
          correction:
            terms: {rows: 0.3, taps: -0.2, outputs_16: 0.5}
            range: {rows: [0, 7], width: [0, 9], inputs: [0, 9], outputs: [0, 9], groups: [0, 0],
                    taps: [0, 6], stride: [0, 2], inputs_16: [0, 1], outputs_16: [0, 1],
                    inputs_4: [0, 1], outputs_4: [0, 1], padding: [0, 4]}
"""


def test_the_correction_for_shape_by_hand(tmp_path):
    old = """
        fp32: {start_us: 2, compute: 0.5, memory: 0.5, output_ns: 1}
"""
    plain = hardware.parse_profile(PROFILE, "toy.yaml")
    profile = hardware.parse_profile(PROFILE.replace(old, CORRECTION, 1), "toy.yaml")
    net = nn.Sequential(conv(3, 8), conv(8, 16))
    found, before = table(net, profile=profile), table(net, profile=plain)
    copy = table(net, profile=plain).cost[0, 0] - alone(plain, 3, 8)
    # 256 positions count as 2^7, the most calibrated; 9 taps; 8 channels are no multiple of 16.
    rows, taps = (7 - 9) / 3, (math.log2(9) - 2) / 1.5
    factors = [math.exp(0.3 * rows - 0.2 * taps + ragged) for ragged in (0.5, 0.0)]
    expected = [copy + (before.cost[0, 0] - copy) * factors[0], before.cost[1, 0] * factors[1]]
    assert found.cost[:, 0] == pytest.approx(expected, rel=1e-6)
    profile.save(tmp_path / "toy.yaml")
    assert Hardware.load(tmp_path / "toy.yaml").runtimes == profile.runtimes


def test_a_layer_beyond_the_calibrated_work_runs_at_the_speed_of_a_smaller_one():
    limits = dict.fromkeys(shape.FEATURES, (0.0, 20.0))
    layers = [
        graph.extract(nn.Linear(512, 256), torch.zeros(rows, 512)).quantizable[0]
        for rows in (64, 1024)
    ]
    small, large = map(shape.features, layers)
    assert [shape.log_work(s) for s in (small, large)] == [6 + 9 + 8, 10 + 9 + 8]
    assert shape.scaled(large, limits) != shape.scaled(small, limits)
    held = {**limits, shape.WORK: (10.0, 23.0)}
    assert shape.scaled(large, held) == shape.scaled(small, held) == shape.scaled(small, limits)


def alone(profile, inputs, outputs):
    """Picoseconds of a convolution whose input is no input of the network."""
    found = table(nn.Sequential(conv(3, inputs), conv(inputs, outputs)), profile=profile)
    return found.cost[1, 0]


def test_features_of_shapes():
    net = nn.Sequential(
        nn.Conv2d(12, 24, (3, 5), 2, groups=4), nn.Flatten(), nn.Linear(24 * 7 * 6, 10)
    )
    first, last = graph.extract(net, torch.zeros(2, 12, 16, 16)).quantizable
    named = dict(zip(shape.FEATURES, shape.features(first), strict=True))
    assert named == pytest.approx(
        {
            "rows": math.log2(2 * 7 * 6),
            "width": math.log2(6),
            "inputs": math.log2(3),
            "outputs": math.log2(6),
            "groups": 2,
            "taps": math.log2(15),
            "stride": math.log2(256 / 42),
            "inputs_16": 1,
            "outputs_16": 1,
            "inputs_4": 0,
            "outputs_4": 0,
            "padding": math.log2(32 / 24),
            "fused": 0,
        }
    )
    assert shape.features(last)[:7] == pytest.approx(
        (1, 0, math.log2(24 * 42), math.log2(10), 0, 0, 0)
    )
    assert shape.features(last)[7:11] == (0, 1, 0, 1)


def test_what_goes_into_the_weights_is_not_fused_into_the_kernel():
    folded = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8))
    fused = {
        name: dict(zip(shape.FEATURES, shape.features(layer), strict=True))["fused"]
        for name, net in (("none", folded), ("clamp", nn.Sequential(*folded, nn.ReLU())))
        for layer in graph.extract(net, torch.zeros(2, 3, 16, 16)).quantizable
    }
    assert fused == {"none": 0, "clamp": 1}


def test_a_feature_that_a_profile_does_not_know_says_nothing():
    layer = graph.extract(nn.Sequential(nn.Linear(64, 32), nn.ReLU()), torch.zeros(4, 64))
    form = shape.features(layer.quantizable[0])
    limits = {name: (0.0, 20.0) for name in shape.FEATURES if name != "fused"}
    said = shape.scaled(form, limits)
    assert said["fused"] == 0
    assert shape.scaled(form, {**limits, "fused": (0.0, 1.0)}) == {**said, "fused": 1.0}


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


class Normed(nn.Module):
    """What has no integer kernel stands between the layers."""

    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = conv(3, 8), nn.GroupNorm(2, 8), conv(8, 4)

    def forward(self, x):
        return self.two(self.norm(self.one(x)))


NORMED = PROFILE.replace(
    "      gelu:\n",
    """      norm:
        fp32: {start_us: 100, memory: 1, output_ns: 0}
        bf16: {start_us: 30, memory: 1, output_ns: 0}
      gelu:
""",
)


def test_what_stands_between_integer_layers_has_a_dtype_of_its_own():
    found = graph.extract(Normed(), IMAGE)
    toy = hardware.parse_profile(NORMED, "toy.yaml")
    for name, norm, boundaries in (
        ("w8a8", "norm.fp32", {"int8_to_fp32", "fp32_to_int8"}),
        ("w8a8bf16", "norm.bf16", {"int8_to_bf16", "bf16_to_int8"}),
    ):
        profile = toy.runtimes["inductor"]
        cut = pieces(found, [profile.executed(parse(name))], profile.kernels, profile.fuses)
        kernels = {part.kernel for part in cut}
        assert norm in kernels
        assert {k for k in kernels if "int8_" in k or "_int8" in k} == boundaries
    table = calibrated_table(found, parse_all("fp32,w8a8,w8a8bf16"), toy, "inductor")
    plain, mixed = (
        table.total(dict.fromkeys(table.layers, parse(f))) for f in ("w8a8", "w8a8bf16")
    )
    n = 8 * 16 * 16  # the norm starts 70 us sooner; its boundaries start 40 + 40 us later
    assert plain - mixed == pytest.approx(70e-6 - 80e-6 + 2 * n * 2 / 10e9 + 2 * n * 2 / 10e9)


def test_a_dtype_between_layers_is_tried_where_it_is_predicted_to_be_of_use():
    cheap = NORMED.replace("fp32: {start_us: 100", "fp32: {start_us: 200")
    for text, tried in ((NORMED, False), (cheap, True)):
        toy = hardware.parse_profile(text, "toy.yaml")
        plan = aiq.search(Normed(), toy, example_inputs=IMAGE, max_drop=1.0)
        assert ("w8a8bf16" in plan.provenance["formats"]) is tried


def test_a_dtype_between_layers_that_the_runtime_lacks_is_refused():
    lacking = PROFILE.replace("bf16: {support: native", "bf16: {support: none")
    known = hardware.parse_profile(lacking, "toy.yaml").runtimes["inductor"]
    assert known.runs(parse("w8a8"))
    assert not known.runs(parse("w8a8bf16"))
    with pytest.raises(HardwareError, match="has no w8a8bf16 in its profile"):
        known.executed(parse("w8a8bf16"))


@pytest.mark.parametrize("name", ["pool", "mean"])
def test_a_pooling_with_an_integer_kernel_needs_no_conversion_before_it(name):
    found = graph.extract(Pooled(), IMAGE)
    for dtypes, mean in ((("fp32",), "mean.fp32"), (("fp32", "int8"), "mean.int8")):
        cut = pieces(found, [parse("w8a8")], {name: dtypes}, ())
        kernels = [part.kernel for part in cut]
        assert mean in kernels
        assert ("int8_to_fp32" in kernels) == (mean == "mean.fp32")


@pytest.mark.parametrize(
    ("layer", "shape_of_input", "work"),
    [
        (nn.ConvTranspose1d(4, 6, 3), (2, 4, 8), 2 * 10 * 4 * 6 * 3),
        (nn.ConvTranspose2d(8, 4, 3, groups=2), (1, 8, 5, 5), 7 * 7 * 4 * 2 * 2 * 9),
        (nn.ConvTranspose2d(4, 12, 1, groups=4), (1, 4, 5, 5), 25 * 1 * 3 * 4),
        (nn.Conv2d(8, 12, 3, groups=4), (1, 8, 5, 5), 9 * 2 * 3 * 4 * 9),
    ],
)
def test_transposed_convolutions_of_any_width_have_features(layer, shape_of_input, work):
    model, x = nn.Sequential(layer).eval(), torch.randn(shape_of_input)
    (found,) = graph.trace(model, x).graph.quantizable
    assert 2 ** shape.log_work(shape.features(found)) == pytest.approx(work)
    assert rows.work(found).scales == layer.out_channels
    plan = aiq.search(
        model, "epyc_zen4_2vcpu", [x], metric="cosine", max_drop=1.0, cache=False, progress=None
    )
    assert plan.predicted.seconds > 0
