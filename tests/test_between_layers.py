"""What stands between layers has a price and a dtype of its own."""

import pytest
import torch
from torch import nn
from toy_profile import IMAGE, PROFILE, conv

import aiq
from aiq import graph, hardware
from aiq.cost import (
    calibrated_table,
)
from aiq.cost.pieces import pieces
from aiq.errors import HardwareError
from aiq.formats import parse, parse_all


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = conv(3, 8), conv(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.stem(x)).mean((2, 3), keepdim=True))


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
