"""Ranges: how much of a tensor's values the integers cover.

An observer reads the range of an activation from its `Statistics`; weights are seen whole. Few bits
want a range narrower than the extremes: clipping the rare large values buys finer steps for all
others.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from aiq.quantize.affine import Affine, Scheme, from_range, from_scale, to_rows
from aiq.quantize.statistics import BINS, Statistics

CLIPS = 64
"""Ranges tried in each sweep for the least error of an activation."""

SHARES, REFINEMENTS = 16, 3
"""Scales of a weight tried from its largest magnitude down, and how often the best is refined."""

NARROWEST = {2: 0.1, 3: 0.1, 4: 0.2, 5: 0.5}
"""Bits -> smallest share of the largest magnitude that is tried; 0.8 for more bits."""

BLOCK, PIECE = 1 << 16, 1 << 12
"""Elements worked on at a time, which fit a core's cache, and summed at a time."""

Observer = Callable[[Statistics, int], tuple[float, float]]
"""Reads the range of a tensor that is to be stored in so many bits."""


def min_max(statistics: Statistics, bits: int) -> tuple[float, float]:
    """Return the extremes."""
    return statistics.low, statistics.high


def moving_average(
    statistics: Statistics, bits: int, constant: float = 0.01
) -> tuple[float, float]:
    """Return the exponential moving average of the batches' extremes (Jacob et al. 2018)."""
    low, high = torch.tensor(statistics.extremes[0])
    for extremes in statistics.extremes[1:]:
        batch_low, batch_high = torch.tensor(extremes)
        low = low + constant * (batch_low - low)
        high = high + constant * (batch_high - high)
    return float(low), float(high)


def percentile(statistics: Statistics, bits: int, share: float = 0.9999) -> tuple[float, float]:
    """Return the range that clips a share of ``1 - share`` at either end, to a bin's width."""
    cumulated = statistics.counts.cumsum(0)
    width, total = statistics.limit / BINS, int(cumulated[-1])
    kept = math.ceil(share * total)
    first = int((cumulated > total - kept).nonzero()[0])
    last = int((cumulated >= kept).nonzero()[0])
    low, high = (first - BINS) * width, (last + 1 - BINS) * width
    return max(low, statistics.low), min(high, statistics.high)


def mse(statistics: Statistics, bits: int) -> tuple[float, float]:
    """Return the range with the least mean squared error of quantisation."""
    present = statistics.counts > 0
    x, weight = statistics.centers[present] / statistics.unit, statistics.counts[present].float()

    def error(rounded: Tensor, scale: Tensor) -> Tensor:
        return (rounded - x).square_() @ weight

    return _search(statistics, bits, x, error)


def entropy(statistics: Statistics, bits: int) -> tuple[float, float]:
    """Return the range with the least Kullback-Leibler divergence of the quantised values.

    TensorRT's calibration (Migacz 2017): what is clipped counts at the ends of the range, and the
    values of an integer are spread evenly over its bins. Zeros do not count: they are exact. Of
    ranges that diverge alike the one with the least squared error is taken.
    """
    counts = statistics.counts.clone()
    counts[BINS] = 0
    present = counts > 0
    x = statistics.centers[present] / statistics.unit
    p = counts[present].double() / max(int(counts.sum()), 1)

    def error(rounded: Tensor, scale: Tensor) -> Tensor:
        inside = (rounded - x).abs() <= scale[:, None] / 2
        noise = (rounded - x).square().double() @ p
        divergence = [_divergence(p, *row) for row in zip(rounded, inside, strict=True)]
        return torch.stack(divergence) + 1e-9 * noise / (x.square().double() @ p)

    return _search(statistics, bits, x, error)


def _divergence(p: Tensor, rounded: Tensor, inside: Tensor) -> Tensor:
    """Return the divergence of clipped probabilities `p` from those that integers tell apart."""
    kept = inside.nonzero()[:, 0]
    if not len(kept):
        return torch.tensor(math.inf, dtype=p.dtype)
    first, last = int(kept[0]), int(kept[-1])
    inner = p[first : last + 1]
    clipped = inner.clone()
    clipped[0] += p[:first].sum()
    clipped[-1] += p[last + 1 :].sum()
    _, level = torch.unique_consecutive(rounded[first : last + 1], return_inverse=True)
    mass = inner.new_zeros(int(level[-1]) + 1).index_add_(0, level, inner)
    width = torch.zeros_like(mass).index_add_(0, level, torch.ones_like(inner))
    spread = (mass / width)[level] / inner.sum()
    return (clipped * (clipped / spread).log()).sum()


OBSERVERS: dict[str, Observer] = {
    "min_max": min_max,
    "moving_average": moving_average,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}


def _search(
    statistics: Statistics, bits: int, x: Tensor, error: Callable[[Tensor, Tensor], Tensor]
) -> tuple[float, float]:
    """Return the range of least error over zero points and, finely, over scales.

    The zero point is an integer, so where values pile up at an end (the black of an image) a little
    wider range can hit them exactly. `error` maps the quantised values of `x` under each of several
    ranges, (ranges, len(x)), and their scales, (ranges,), to (ranges,). `x` is in units of
    ``statistics.unit``, of which no square is too large or too small.
    """
    scheme, unit = Scheme(bits, symmetric=False, signed=False, axis=0), statistics.unit
    low, high = min(statistics.low, 0.0), max(statistics.high, 0.0)
    if low == high or not len(x):
        return low, high
    low, high = low / unit, high / unit
    middle = int(from_range(torch.tensor([low]), torch.tensor([high]), scheme).zero_point)
    near = range(max(middle - 2, 0), min(middle + 2, scheme.high) + 1)
    zero_points = [middle] if low == 0 or high == 0 else list(near)

    def least(pairs: list[tuple[int, float]]) -> tuple[int, float]:
        steps = torch.tensor(pairs)
        zeros, scales = steps.unbind(1)
        quantizer = from_range(-zeros * scales, (scheme.high - zeros) * scales, scheme)
        rounded = quantizer.fake_quantize(x.expand(len(pairs), -1))
        return pairs[int(error(rounded, quantizer.scale).argmin())]

    def covering(zero_point: int) -> float:
        below, above = max(zero_point, 1), max(scheme.high - zero_point, 1)
        return max(-low / below, high / above)

    coarse = [1.1 * (i + 1) / CLIPS for i in range(CLIPS)]
    zero_point, scale = least([(z, covering(z) * f) for z in zero_points for f in coarse])
    fine = [covering(zero_point) * 1.5 * (i / CLIPS - 0.5) / CLIPS for i in range(CLIPS + 1)]
    zero_point, scale = least([(zero_point, max(scale + f, scale / 2)) for f in fine])
    return -zero_point * scale * unit, (scheme.high - zero_point) * scale * unit


def symmetric_mse(weight: Tensor, scheme: Scheme) -> Affine:
    """Return the symmetric quantiser of `weight` with the least squared error of each row.

    The best of a few scales from a row's largest magnitude down is refined: the codes of a scale
    have a least-squares scale of their own, ``<w, q> / <q, q>``, which has better codes again.

    Parameters
    ----------
    weight
        Real numbers, of any shape.
    scheme
        Symmetric and signed.
    """
    rows = to_rows(weight.float(), scheme)
    # In units of the largest power of two of a row, no square overflows or vanishes.
    exponent = torch.frexp(rows.abs().amax(1)).exponent.clamp(min=-126)
    rows = torch.ldexp(rows, -exponent[:, None])
    if rows.shape[1] > PIECE:
        rows = pad(rows, (0, -rows.shape[1] % PIECE))
    shares = torch.linspace(NARROWEST.get(scheme.bits, 0.8), 1.0, SHARES)
    count = max(1, BLOCK // rows.shape[1])
    scale = torch.cat([_least(r, shares, scheme) for r in torch.split(rows, count)])
    return from_scale(torch.ldexp(scale, exponent), scheme)


def _least(rows: Tensor, shares: Tensor, scheme: Scheme) -> Tensor:
    """Return the scale of each row, (R,), found among `shares` of the largest and refined."""

    def errors(scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return allowed scales, (..., R), and their squared errors."""
        scale = from_scale(scale, scheme).scale
        rounded = _codes(rows, scale, scheme).mul_(scale[..., None])
        return scale, _total(rounded.sub_(rows).square_())

    candidates = shares[:, None] * rows.abs().amax(1) / scheme.high
    count = max(1, BLOCK // rows.numel())
    tried = [errors(part) for part in torch.split(candidates, count)]
    scales, found = (torch.cat(parts) for parts in zip(*tried, strict=True))
    error, index = found.min(0)
    scale = scales.gather(0, index[None])[0]
    for _ in range(REFINEMENTS):
        codes = _codes(rows, scale, scheme)
        product = _total(codes * rows)
        other, other_error = errors(product / _total(codes.square_()).clamp_(min=1))
        better = other_error < error
        scale, error = torch.where(better, other, scale), torch.where(better, other_error, error)
    return scale


def _codes(rows: Tensor, scale: Tensor, scheme: Scheme) -> Tensor:
    codes = rows * scale.reciprocal()[..., None]
    return codes.round_().clamp_(scheme.low, scheme.high)


def _total(x: Tensor) -> Tensor:
    """Return the sum over the last dimension, in an order that no number of threads changes."""
    return x.view(*x.shape[:-1], -1, min(PIECE, x.shape[-1])).sum(-1).sum(-1)
