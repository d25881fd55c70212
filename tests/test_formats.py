"""Names of formats and what they stand for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiq.errors import FormatError
from aiq.formats import BF16, FP16, FP32, INTEGER_GRID, PAPER, Kind, parse, parse_all


@given(st.integers(2, 8), st.integers(2, 8))
def test_every_width_has_a_format(n, m):
    both, weights = parse(f"w{n}a{m}"), parse(f" W{n} ")
    assert (both.weight.bits, both.activation.bits) == (n, m)
    assert both.compute.name == "int8"
    assert (weights.weight.bits, weights.activation, weights.compute) == (n, FP32, FP32)
    assert both.quantizes_weights
    assert both.quantizes_activations
    assert not weights.quantizes_activations
    assert parse(str(both)) == both


@given(st.integers(2, 8), st.integers(2, 8))
def test_bfloat16_between_layers_is_no_matter_of_their_kernels(n, m):
    plain, mixed = parse(f"w{n}a{m}"), parse(f"w{n}a{m}bf16")
    assert mixed != plain
    assert (mixed.between, plain.between) == (BF16, FP32)
    assert mixed.kernel == plain == plain.kernel
    assert parse(str(mixed)) == mixed


def test_floating_point_formats():
    assert parse("bf16").between == BF16
    assert parse("bf16").kernel == parse("bf16")
    assert parse("w8").between == FP32
    assert parse("fp32").weight == FP32
    assert parse("bf16").compute == BF16
    assert parse("FP16").activation == FP16
    assert BF16.kind is FP16.kind is Kind.FLOAT
    assert BF16 != FP16


@pytest.mark.parametrize(
    "name", ["w1", "w9", "w8a9", "w8a", "a8", "int9", "", "w16a16", "w8 a8", "w8bf16"]
)
def test_unknown_format_says_what_is_known(name):
    with pytest.raises(FormatError, match="use fp32, bf16, fp16, wN or wNaM"):
        parse(name)


def test_the_fields_names_of_formats_are_ours_too():
    assert parse("int8") == parse("w8a8")
    assert parse("INT4") == parse("w4")
    with pytest.raises(FormatError, match="did you mean 'int8'"):
        parse("int88")


def test_lists():
    assert [f.name for f in parse_all("fp32, w8 ,w8,w4")] == ["fp32", "w8", "w4"]
    assert parse_all([parse("w8"), "w4"]) == (parse("w8"), parse("w4"))
    assert [f.name for f in PAPER] == ["fp32", "w8", "w4"]
    assert len(INTEGER_GRID) == len(set(INTEGER_GRID)) == 50
    with pytest.raises(FormatError, match="empty"):
        parse_all([])


@pytest.mark.parametrize(
    ("name", "group", "zero_point", "bits"),
    [
        ("w4", None, False, 4.0),
        ("w4g32", 32, False, 4.5),  # Q4_0 of GGUF
        ("w5g32", 32, False, 5.5),  # Q5_0
        ("w8g32", 32, False, 8.5),  # Q8_0
        ("w4g64", 64, False, 4.25),
        ("w4g32z", 32, True, 4.625),  # u4 with float16 scales, of OpenVINO
        ("w6g128z", 128, True, 6 + 22 / 128),
    ],
)
def test_groups_of_weights_and_their_bits_as_stored(name, group, zero_point, bits):
    found = parse(name)
    assert found.weight_granularity.group == group
    assert found.weight_granularity.zero_point is zero_point
    assert found.stored_bits == bits
    assert str(found) == name


@pytest.mark.parametrize("name", ["w4z", "w4g32s", "w4a8z", "w4g16z"])
def test_zero_points_belong_to_groups(name):
    with pytest.raises(FormatError, match="Unknown format"):
        parse(name)
