"""Round weights by data, so that the errors of one weight make up for those of others.

Rounding each weight to nearest gives the smallest error of the weights, not of the outputs. The
mean squared error of a layer's outputs is ``sum (w' - w) H (w' - w)^T`` over its output channels,
with the second moments H of its inputs (`aiq.quantize.moments`). `gptq` rounds one input's weights
after the other, and changes those still to come so that they make up for the error so far (Frantar
et al. 2023, arXiv 2210.17323, equations 2 and 3). `adaptive` starts there and minimises the same
error further, the objective of AdaRound (Nagel et al. 2020, arXiv 2004.10568, equation 13): by
exact steps in one input's weights at a time, instead of by gradients.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from aiq.formats import WeightRounding
from aiq.quantize.affine import Affine, Scheme, from_rows, to_rows

DAMPING = (0.01, 0.1, 1.0)
"""Parts of the mean diagonal of H of which the first is added to it that makes it invertible.

Inputs that hardly vary, or vary together, need that.
"""

BLOCK = 32
"""Inputs that are rounded before the weights of all later ones are changed."""

SWEEPS = 10
"""Most passes of `adaptive` over all inputs."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """The numbers to which weights are rounded: scale and zero point of each, (G, O, K)."""

    scale: Tensor
    zero: Tensor
    scheme: Scheme

    def round(self, weight: Tensor, at: int) -> Tensor:
        """Return the nearest numbers of the weights of input `at`, (G, O)."""
        return _nearest(weight, self.scale[..., at], self.zero[..., at], self.scheme)


def _nearest(weight: Tensor, scale: Tensor, zero: Tensor, scheme: Scheme) -> Tensor:
    codes = (weight / scale).round_().add_(zero).clamp_(scheme.low, scheme.high)
    return codes.sub_(zero).mul_(scale)


def rounded_by_data(
    weight: Tensor, quantizer: Affine, moments: Tensor, how: WeightRounding
) -> Tensor:
    """Return weights rounded to the grid of `quantizer`: float32, of the shape of `weight`.

    The error of the outputs is never larger than with rounding to nearest.

    Parameters
    ----------
    weight
        Weights as (outputs, inputs of a group, taps...).
    quantizer
        Scales and zero points of the weights.
    moments
        Second moments of the inputs of G groups, (G, K, K).
    how
        The way of rounding.
    """
    nearest = quantizer.fake_quantize(weight)
    groups, reads, _ = moments.shape
    shape = (groups, -1, reads)
    grid = _grid(weight, quantizer, shape)
    w, prepared = weight.reshape(shape).float(), _prepared(moments)
    if prepared is None:  # nothing is known of the inputs, as they never vary
        return nearest
    found = gptq(w, grid, *prepared)
    if how is WeightRounding.ADAPTIVE:
        found = adaptive(w, found, grid, moments.float())
    plain = nearest.reshape(shape)
    worse = output_error(found - w, moments) > output_error(plain - w, moments)
    best = torch.where(worse[..., None], plain, found)
    return best.reshape(weight.shape)


def _grid(weight: Tensor, quantizer: Affine, shape: tuple[int, ...]) -> _Grid:
    rows = to_rows(weight, quantizer.scheme)

    def spread(values: Tensor) -> Tensor:
        whole = values[:, None].expand(rows.shape).contiguous()
        return from_rows(whole, weight.shape, quantizer.scheme).reshape(shape).float()

    return _Grid(spread(quantizer.scale), spread(quantizer.zero_point), quantizer.scheme)


def output_error(change: Tensor, moments: Tensor) -> Tensor:
    """Return the mean squared error of each output, (G, O), for a change of weights, (G, O, K)."""
    return ((change @ moments) * change).sum(-1)


@lru_cache(maxsize=1)  # the formats of a layer follow each other
def _prepared(moments: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the order in which inputs are rounded, and how later weights make up for errors.

    The order, (K,), is one for all groups, so that they are rounded together: those with the
    largest moments come first. Row j of the upper Cholesky factor of the inverse, (G, K, K), holds,
    up to its diagonal element, how the later weights make up for an error of weight j once the
    earlier ones are fixed. ``None`` if no damping makes the moments invertible.
    """
    h = moments.double()
    diagonal = h.diagonal(dim1=1, dim2=2)
    order = diagonal.mean(0).argsort(descending=True, stable=True)
    for part in DAMPING:
        more = (part * diagonal.mean(1, keepdim=True)).expand_as(diagonal)
        damped = (h + torch.diag_embed(more))[:, order][:, :, order]
        root, failed = torch.linalg.cholesky_ex(damped)
        if bool(failed.any()):
            continue
        factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(root), upper=True)
        if not bool(failed.any()) and bool(factor.isfinite().all()):
            return order, factor.float()
    return None


def gptq(weight: Tensor, grid: _Grid, order: Tensor, factor: Tensor) -> Tensor:
    """Return weights rounded one input after the other.

    Parameters
    ----------
    weight
        Weights, (G, O, K).
    grid
        The numbers to which they are rounded.
    order, factor
        The order of the inputs, (K,), and how later weights make up for errors, (G, K, K).
    """
    left = weight[..., order].mT.contiguous()  # an input's weights lie side by side
    scale, zero = (x[..., order].mT.contiguous() for x in (grid.scale, grid.zero))
    found = torch.empty_like(left)
    for start in range(0, len(order), BLOCK):
        end = min(start + BLOCK, len(order))
        errors = torch.empty(len(left), end - start, left.shape[-1], dtype=left.dtype)
        for j in range(start, end):
            found[:, j] = _nearest(left[:, j], scale[:, j], zero[:, j], grid.scheme)
            error = (left[:, j] - found[:, j]) / factor[:, j, j, None]
            left[:, j:end] -= factor[:, j, j:end, None] * error[:, None]
            errors[:, j - start] = error
        left[:, end:] -= factor[:, start:end, end:].mT @ errors
    return found.mT[..., order.argsort()]


def adaptive(weight: Tensor, start: Tensor, grid: _Grid, moments: Tensor) -> Tensor:
    """Return rounded weights of a smaller output error than `start`, or of the same.

    Each step moves the weights of one input to the best numbers, with all others as they are.

    Parameters
    ----------
    weight, start
        The exact weights, and rounded ones, (G, O, K).
    grid
        The numbers to which weights are rounded.
    moments
        Second moments of the inputs, (G, K, K).
    """
    found = start.clone()
    slope = (found - weight) @ moments  # half the derivative of the error
    diagonal = moments.diagonal(dim1=1, dim2=2)
    for _ in range(SWEEPS):
        moved = False
        for j in range(weight.shape[-1]):
            curve = diagonal[:, None, j].clamp(min=torch.finfo(torch.float32).tiny)
            best = grid.round(found[..., j] - slope[..., j] / curve, j)
            step = best - found[..., j]
            if bool(step.any()):
                moved = True
                found[..., j] = best
                slope += step[..., None] * moments[:, None, j]
        if not moved:
            break
    return found
