"""Multipliers and sums in integers against rational and float64 arithmetic."""

from fractions import Fraction
from math import floor

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch.nn import functional as F  # noqa: N812

from aiq.errors import InputError
from aiq.quantize.affine import Affine, Scheme, from_range, to_rows
from aiq.quantize.reference.fixed_point import INT32, fixed_point, power_of_two
from aiq.quantize.reference.integer import accumulate
from aiq.quantize.reference.operators import Codes

INTEGERS = st.integers(INT32.min, INT32.max)
RATIOS = st.floats(-40, 29).map(lambda exponent: 2.0**exponent)


def one(function, value, ratio):
    multiplier = function(torch.tensor([ratio], dtype=torch.float64))
    return multiplier, int(multiplier.rescale(torch.tensor([value], dtype=torch.int32)))


@given(value=INTEGERS, ratio=RATIOS)
def test_rescaling_is_rounding_of_a_31_bit_product(value, ratio):
    multiplier, actual = one(fixed_point, value, ratio)
    m = Fraction(int(multiplier.mantissa), 2 ** (31 + int(multiplier.shift)))
    assert abs(m - Fraction(ratio)) <= Fraction(ratio) / 2**31 or ratio < 2**-31
    assert actual == min(max(floor(m * value + Fraction(1, 2)), INT32.min), INT32.max)


def gemmlowp(value, mantissa, shift):
    """Jacob et al.'s kernel: saturating rounding doubling high multiply, then rounding shift."""
    product = value * mantissa
    high = abs(product + (2**30 if product >= 0 else 1 - 2**30)) >> 31
    high = high if product >= 0 else -high
    remainder, threshold = high & ((1 << shift) - 1), ((1 << shift) - 1) >> 1
    return (high >> shift) + (remainder > threshold + (high < 0))


@given(value=INTEGERS, exponent=st.floats(-20, -0.01))
def test_gemmlowp_is_at_most_one_off(value, exponent):
    multiplier, actual = one(fixed_point, value, 2.0**exponent)
    assert abs(actual - gemmlowp(value, int(multiplier.mantissa), int(multiplier.shift))) <= 1


def test_the_example_of_the_lecture():
    multiplier, rescaled = one(fixed_point, 1234, 0.01)
    assert int(multiplier.shift) == 6
    assert int(multiplier.mantissa) == round(0.64 * 2**31)
    assert rescaled == 12
    multiplier, rescaled = one(power_of_two, 1234, 0.01)
    assert (int(multiplier.mantissa), int(multiplier.shift)) == (2**30, 6), "0.5 / 2^6 = 1 / 128"
    assert rescaled == 10


@pytest.mark.parametrize("ratio", [0.0, 2.0**30, float("nan"), float("inf")])
def test_scales_out_of_proportion(ratio):
    with pytest.raises(InputError, match="Scales differ by a factor of 2"):
        one(fixed_point, 1, ratio)


@pytest.mark.parametrize(
    ("weight", "options"),
    [
        ((6, 4, 3, 3), {"padding": 1}),
        ((8, 2, 3, 3), {"groups": 2, "stride": 2}),
        ((4, 1, 5, 5), {"groups": 4, "padding": 2}),
        ((6, 4, 1, 1), {"stride": 2}),
        ((5, 4), None),
    ],
    ids=["convolution", "grouped", "depthwise", "pointwise", "linear"],
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_expanded_zero_points_equal_real_numbers(weight, options, symmetric):
    """Real zeros pad, so the integer sum is the float64 convolution of q - Z, exactly."""
    generator = torch.Generator().manual_seed(0)
    r = torch.randn(weight, generator=generator) + 0.3
    scheme = Scheme(8, symmetric=symmetric, signed=True, axis=0)
    rows = to_rows(r, scheme)
    weights = from_range(rows.amin(1), rows.amax(1), scheme)
    grid = Affine(Scheme(8, False, False), torch.tensor([0.02]), torch.tensor([77]).int())
    shape = (3, 4, 9, 9) if options is not None else (3, 4)
    codes = torch.randint(0, 256, shape, generator=generator, dtype=torch.int32)
    w = Codes(weights.quantize(r), weights)

    def product(x, weight):
        return F.linear(x, weight) if options is None else F.conv2d(x, weight, **options)

    actual = accumulate(product, Codes(codes, grid), w)
    zeros = weights.zero_point.view(-1, *[1] * (r.ndim - 1))
    expected = product((codes - 77).double(), (w.codes - zeros).double())
    assert bool(zeros.any()) != symmetric
    assert actual.dtype == torch.int32
    assert torch.equal(actual.double(), expected)
