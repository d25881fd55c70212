"""Affine arithmetic against PyTorch's own quantisers, to the last bit."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch.ao.quantization import observer as torch_observers
from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers its operators)

from aiq.errors import InputError
from aiq.quantize.affine import SMALLEST_SCALE, Scheme, from_range, from_rows, from_scale, to_rows

BITS = st.integers(2, 8)
SEEDS = st.integers(0, 2**31)


def values(seed, *shape, spread=3.0, shift=0.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread + shift


def with_ties(x, scale):
    """Add numbers half-way between two integers, where rounding is decided."""
    return torch.cat([x, (torch.arange(-600, 600) + 0.5) * scale])


@given(seed=SEEDS, bits=BITS, signed=st.booleans(), shift=st.floats(-5, 5))
def test_fake_quantize_equals_torch_per_tensor(seed, bits, signed, shift):
    scheme = Scheme(bits, symmetric=False, signed=signed)
    x = values(seed, 200, shift=shift)
    quantizer = from_range(x.min()[None], x.max()[None], scheme)
    x = with_ties(2 * x, quantizer.scale)
    expected = torch.fake_quantize_per_tensor_affine(
        x, float(quantizer.scale), int(quantizer.zero_point), scheme.low, scheme.high
    )
    assert torch.equal(quantizer.fake_quantize(x), expected)
    assert torch.equal(quantizer.dequantize(quantizer.quantize(x)), expected)


@given(seed=SEEDS, bits=BITS, symmetric=st.booleans(), axis=st.sampled_from([0, 1]))
def test_fake_quantize_equals_torch_per_channel(seed, bits, symmetric, axis):
    scheme = Scheme(bits, symmetric=symmetric, signed=True, axis=axis)
    x = values(seed, 6, 4, 3, 3, shift=0.3)
    rows = to_rows(x, scheme)
    quantizer = from_range(rows.amin(1), rows.amax(1), scheme)
    expected = torch.fake_quantize_per_channel_affine(
        x, quantizer.scale, quantizer.zero_point, axis, scheme.low, scheme.high
    )
    assert torch.equal(quantizer.fake_quantize(x), expected)
    assert torch.equal(quantizer.dequantize(quantizer.quantize(x)), expected)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("signed", [False, True])
def test_integers_equal_torch_quantized_tensors(signed):
    dtype = torch.qint8 if signed else torch.quint8
    scheme = Scheme(8, symmetric=False, signed=signed)
    x = values(1, 5000, shift=1.0)
    quantizer = from_range(x.min()[None], x.max()[None], scheme)
    x = with_ties(x, quantizer.scale)
    theirs = torch.quantize_per_tensor(x, float(quantizer.scale), int(quantizer.zero_point), dtype)
    assert torch.equal(quantizer.quantize(x), theirs.int_repr().int())
    assert torch.equal(quantizer.fake_quantize(x), theirs.dequantize())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("axis", [0, 1])
def test_integers_equal_torch_quantized_channels(axis):
    x = values(2, 5, 7, 3, 3, shift=0.5)
    scheme = Scheme(8, symmetric=False, signed=True, axis=axis)
    rows = to_rows(x, scheme)
    quantizer = from_range(rows.amin(1), rows.amax(1), scheme)
    theirs = torch.quantize_per_channel(
        x, quantizer.scale.double(), quantizer.zero_point.long(), axis, torch.qint8
    )
    assert torch.equal(quantizer.quantize(x), theirs.int_repr().int())
    assert torch.equal(quantizer.fake_quantize(x), theirs.dequantize())


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8])
def test_symmetric_ranges_equal_torch_observers_signed_and_unsigned(dtype):
    x = values(3, 500, shift=1)
    theirs = torch_observers.MinMaxObserver(dtype=dtype, qscheme=torch.per_tensor_symmetric)
    theirs(x)
    scale, zero_point = theirs.calculate_qparams()
    scheme = Scheme(8, symmetric=True, signed=dtype is torch.qint8)
    ours = from_range(x.min()[None], x.max()[None], scheme)
    assert torch.equal(ours.scale, scale)
    assert torch.equal(ours.zero_point, zero_point.int())
    q = torch.quantize_per_tensor(x, float(scale), int(zero_point), dtype)
    assert torch.equal(ours.quantize(x), q.int_repr().int())


@given(seed=SEEDS, bits=BITS, group=st.sampled_from([8, 16, 32]))
def test_groups_equal_torch(seed, bits, group):
    scheme = Scheme(bits, symmetric=True, signed=True, axis=0, group=group)
    x = values(seed, 6, 64)
    quantizer = from_scale(to_rows(x, scheme).abs().amax(1) / scheme.high, scheme)
    shape = (6, 64 // group)
    theirs = torch.ops.quantized_decomposed.quantize_per_channel_group(
        x,
        quantizer.scale.view(shape),
        quantizer.zero_point.view(shape),
        scheme.low,
        scheme.high,
        torch.int8,
        group,
    )
    assert torch.equal(quantizer.quantize(x), theirs.int())


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@given(seed=SEEDS, bits=BITS, signed=st.booleans(), shift=st.floats(-5, 5))
def test_ranges_equal_torch_observers(seed, bits, signed, shift):
    x = values(seed, 100, shift=shift)
    scheme = Scheme(bits, symmetric=False, signed=signed)
    theirs = torch_observers.MinMaxObserver(
        dtype=torch.qint8 if signed else torch.quint8,
        qscheme=torch.per_tensor_affine,
        quant_min=scheme.low,
        quant_max=scheme.high,
    )
    theirs(x)
    scale, zero_point = theirs.calculate_qparams()
    ours = from_range(x.min()[None], x.max()[None], scheme)
    assert torch.equal(ours.scale, scale)
    assert torch.equal(ours.zero_point, zero_point.int())


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@given(seed=SEEDS, bits=BITS)
def test_symmetric_channel_ranges_equal_torch_observers(seed, bits):
    x = values(seed, 8, 3, 3, 3)
    scheme = Scheme(bits, symmetric=True, signed=True, axis=0)
    theirs = torch_observers.PerChannelMinMaxObserver(
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
        quant_min=scheme.low,
        quant_max=scheme.high,
    )
    theirs(x)
    scale, zero_point = theirs.calculate_qparams()
    rows = to_rows(x, scheme)
    ours = from_range(rows.amin(1), rows.amax(1), scheme)
    assert torch.equal(ours.scale, scale)
    assert torch.equal(ours.zero_point, zero_point.int())


@given(seed=SEEDS, bits=BITS, symmetric=st.booleans(), signed=st.booleans())
def test_quantising_twice_is_quantising_once(seed, bits, symmetric, signed):
    x = values(seed, 300)
    quantizer = from_range(x.min()[None], x.max()[None], Scheme(bits, symmetric, signed))
    once = quantizer.fake_quantize(x)
    assert torch.equal(quantizer.fake_quantize(once), once)


@given(seed=SEEDS, bits=BITS, shift=st.floats(-4, 4))
def test_error_is_at_most_half_a_step_and_zero_is_exact(seed, bits, shift):
    x = values(seed, 300, shift=shift)
    quantizer = from_range(x.min()[None], x.max()[None], Scheme(bits, False, False))
    # The zero point is rounded, so the range may end up to half a step short on one side.
    assert (quantizer.fake_quantize(x) - x).abs().max() <= quantizer.scale * 1.001
    assert quantizer.fake_quantize(torch.zeros(3)).abs().max() == 0


def test_groups_are_rows_of_their_own():
    scheme = Scheme(4, symmetric=True, signed=True, axis=0, group=8)
    x = values(0, 4, 32)
    rows = to_rows(x, scheme)
    assert rows.shape == (16, 8)
    assert torch.equal(from_rows(rows, x.shape, scheme), x)
    quantizer = from_range(rows.amin(1), rows.amax(1), scheme)
    by_hand = torch.stack(
        [
            torch.fake_quantize_per_tensor_affine(row, float(scale), 0, -8, 7)
            for row, scale in zip(rows, quantizer.scale, strict=True)
        ]
    ).reshape(4, 32)
    assert torch.equal(quantizer.fake_quantize(x), by_hand)


@pytest.mark.parametrize("signed", [False, True])
def test_zeros_and_constants_keep_their_values(signed):
    scheme = Scheme(8, symmetric=False, signed=signed, axis=0)
    x = torch.tensor([[0.0, 0.0], [0.7, 0.7], [-2.5, -2.5], [1e-12, 0.0]])
    quantizer = from_range(x.amin(1), x.amax(1), scheme)
    assert quantizer.scale.min() >= SMALLEST_SCALE
    assert torch.allclose(quantizer.fake_quantize(x), x, atol=1e-6)


def test_nan_stays_nan_and_infinity_saturates():
    quantizer = from_scale(torch.tensor([0.5]), Scheme(4, symmetric=True, signed=True))
    x = torch.tensor([float("nan"), float("inf"), -float("inf")])
    rounded = quantizer.fake_quantize(x)
    assert rounded[0].isnan()
    assert rounded[1:].tolist() == [3.5, -4.0]


def test_one_row_keeps_the_memory_format():
    x = values(0, 2, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    quantizer = from_scale(torch.tensor([0.1]), Scheme(8, symmetric=True, signed=True))
    assert quantizer.fake_quantize(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bits", [0, 1, 9, 16])
def test_other_widths_are_refused(bits):
    with pytest.raises(InputError, match="give 2 to 8"):
        Scheme(bits, symmetric=True, signed=True)


def test_groups_must_divide_channels():
    scheme = Scheme(4, True, True, axis=0, group=3)
    x = torch.randn(4, 10)
    assert to_rows(x, scheme).shape == (16, 3)  # the last group of a channel has one element
    assert torch.equal(from_rows(to_rows(x, scheme), x.shape, scheme), x)
    with pytest.raises(InputError, match="need an axis"):
        Scheme(4, True, True, group=3)
