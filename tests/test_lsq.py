"""Gradients of rounding against a formula in float64, and against PyTorch's own operators."""

import math

import pytest
import torch

from aiq.quantize.affine import Affine, Scheme, from_range
from aiq.training.lsq import fake_quantize, through


def in_float64(x, scale, zero_point, low, high):
    """Return the rounded values with the gradients of equation 3 of LSQ, by autograd."""
    v = x / scale
    rounded = v.detach().round() + zero_point
    inside = (rounded >= low) & (rounded <= high)
    shift = (rounded - zero_point - v).detach()
    return scale * torch.where(inside, v + shift, rounded.clamp(low, high) - zero_point)


def quantizer_of(x, scheme):
    rows = x.reshape(1, -1) if scheme.axis is None else x.flatten(1)
    if scheme.group:
        rows = torch.nn.functional.pad(rows, (0, -rows.shape[1] % scheme.group))
        rows = rows.reshape(-1, scheme.group)
    return from_range(0.6 * rows.amin(1), 0.7 * rows.amax(1), scheme), rows


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(8, symmetric=False, signed=False),
        Scheme(3, symmetric=False, signed=False),
        Scheme(2, symmetric=True, signed=True, axis=0),
        Scheme(4, symmetric=True, signed=True, axis=0, group=8),
        Scheme(4, symmetric=False, signed=False, axis=0, group=8),
    ],
    ids=["a8", "a3", "w2", "w4 in groups", "w4 in groups with zero points"],
)
def test_gradients_are_those_of_the_formula(scheme):
    torch.manual_seed(0)
    x = torch.randn(6, 3, 2, 2) + 0.3
    found, rows = quantizer_of(x, scheme)
    x.requires_grad_()
    scale = found.scale.clone().requires_grad_()
    upstream = torch.randn(x.shape)
    y = fake_quantize(x, scale, found)
    assert torch.equal(y, found.fake_quantize(x.detach()))
    y.backward(upstream)

    exact = rows.detach().double().requires_grad_()
    steps = found.scale.double()[:, None].requires_grad_()
    zero = found.zero_point[:, None]
    result = in_float64(exact, steps, zero, scheme.low, scheme.high)
    weights = torch.zeros(rows.shape, dtype=torch.float64).flatten()
    if scheme.group is None:
        weights[:] = upstream.flatten()
    else:  # the last group of a channel is filled up
        weights = weights.reshape(6, -1)
        weights[:, :12] = upstream.flatten(1)
    result.backward(weights.reshape(rows.shape))
    by_value = exact.grad if scheme.group is None else exact.grad.reshape(6, -1)[:, :12]
    assert torch.allclose(x.grad.double().flatten(), by_value.flatten(), atol=1e-6)
    largest = torch.maximum(zero - scheme.low, scheme.high - zero).double()
    expected = steps.grad / (rows.shape[1] * largest).sqrt()
    assert torch.allclose(scale.grad.double(), expected[:, 0], rtol=1e-4, atol=1e-5)
    clipped = (x.grad == 0).float().mean()
    assert 0 < clipped < 0.9


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gradients_are_those_of_pytorch(bits):
    torch.manual_seed(bits)
    x = torch.randn(5, 40)
    scheme = Scheme(bits, symmetric=True, signed=True, axis=0)
    scale = 1.5 * x.abs().amax(1) / 2**bits
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    own, other = scale.clone().requires_grad_(), scale.clone().requires_grad_()
    zero = torch.zeros(5)
    upstream = torch.randn(x.shape)
    fake_quantize(mine, own, Affine(scheme, scale, zero.int())).backward(upstream)
    factor = 1 / math.sqrt(40 * 2 ** (bits - 1))
    torch._fake_quantize_learnable_per_channel_affine(
        theirs, other, zero, 0, scheme.low, scheme.high, factor
    ).backward(upstream)
    assert torch.allclose(mine.grad, theirs.grad, atol=1e-6)
    assert torch.allclose(own.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_values_on_the_last_integer_can_move():
    scheme = Scheme(2, symmetric=True, signed=True, axis=0)
    found = Affine(scheme, torch.tensor([0.3]), torch.zeros(1, dtype=torch.int32))
    x = (0.3 * torch.tensor([[-2.0, -1.0, 0.0, 1.0]])).requires_grad_()
    fake_quantize(x, found.scale, found).sum().backward()
    assert x.grad.tolist() == [[1.0] * 4]


def test_straight_through():
    x = torch.tensor([0.2, 0.7], requires_grad=True)
    y = through(x, x.round())
    assert y.tolist() == [0.0, 1.0]
    (y * torch.tensor([2.0, 3.0])).sum().backward()
    assert x.grad.tolist() == [2.0, 3.0]
