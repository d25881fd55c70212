"""Features of the shapes of layers, by which kernels are corrected."""

import math

import pytest
import torch
from torch import nn
from toy_profile import PROFILE, conv, table

import aiq
from aiq import graph, hardware
from aiq.cost import (
    rows,
    shape,
)
from aiq.hardware import Hardware

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
