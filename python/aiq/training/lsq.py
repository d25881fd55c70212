"""Rounding with gradients: the straight-through estimator, and learned step sizes.

Rounding has no useful derivative. The straight-through estimator (Bengio et al. 2013, arXiv
1308.3432) takes 1 for values within the range of the integers, and 0 for those that are clipped.
The derivative by the scale is that of LSQ (Esser et al. 2020, arXiv 1902.08153, equation 3).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from aiq.quantize.affine import Affine, from_rows, to_rows

HALF = 0.5001
"""Distance in steps from the nearest integer from which a value counts as clipped.

Esser et al. clip at the last integer itself. Half a step further, rounding still gives that
integer; and weights that lie on the grid, where training may start, can still move away from it.
"""


def fake_quantize(x: Tensor, scale: Tensor, quantizer: Affine) -> Tensor:
    """Return `x` rounded as `Affine.fake_quantize` does, with gradients for `x` and `scale`.

    For a value x with the scale s, the result y and the integers from l to h around the zero point,
    dy/dx is 1 within the range and 0 outside, and dy/ds is ``(y - x) / s`` within, l below and h
    above. The gradient of s is multiplied by ``1 / sqrt(n max(-l, h))`` for the n values that share
    s (Esser et al. 2020, section 2.2), so that it suits the learning rate of the values.

    Parameters
    ----------
    x
        Values of any shape.
    scale
        Scale of each row: (rows,), positive.
    quantizer
        The integers, the rows and their zero points; its scales are not used.
    """
    found: Tensor = _FakeQuantize.apply(x, scale, quantizer)
    return found


class _FakeQuantize(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, quantizer: Affine) -> Tensor:  # noqa: ANN401
        y = Affine(quantizer.scheme, scale.detach(), quantizer.zero_point).fake_quantize(x)
        ctx.save_for_backward(x, y, scale)
        ctx.quantizer = quantizer
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        x, y, scale = ctx.saved_tensors
        scheme, zero_point = ctx.quantizer.scheme, ctx.quantizer.zero_point
        step = scale
        if scheme.axis is not None:
            shape, (x, y, gradient) = x.shape, (to_rows(v, scheme) for v in (x, y, gradient))
            step = scale[:, None]
        error = y - x
        inside = error.abs() <= HALF * step
        by_value = gradient * inside
        by_scale = torch.where(inside, error, y).mul_(gradient)
        if scheme.axis is None:
            by_scale, count = by_scale.sum()[None], x.numel()
        else:
            by_scale, count = by_scale.sum(1), x.shape[1]
            by_value = from_rows(by_value, shape, scheme)
        largest = torch.maximum(zero_point - scheme.low, scheme.high - zero_point)
        return by_value, by_scale / scale / (count * largest).sqrt(), None


def through(value: Tensor, rounded: Tensor) -> Tensor:
    """Return `rounded`, with the gradient of `value`."""
    return rounded.detach() + (value - value.detach())
