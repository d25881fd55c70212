"""Observers: choose the range of a tensor that the integers cover.

An observer computes the range of an activation from its `Statistics`; that of a weight is computed
from all its values. With few bits the best range is narrower than the extremes: clipping the rare
large values gives smaller quantisation steps to all others.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from aiq import _core
from aiq.quantize.affine import Affine, Scheme, from_range, from_scale, rows_at_once, to_rows
from aiq.quantize.statistics import BINS, Statistics

CLIPS = 64
"""Number of ranges tried in each of two sweeps for the smallest error of an activation."""

SHARES, REFINEMENTS = 16, 3
"""Number of scales tried for a weight, and of refinements of the best one."""

NARROWEST = {2: 0.1, 3: 0.1, 4: 0.2, 5: 0.5}
"""Number of bits -> smallest share of the largest magnitude that is tried; 0.8 for more bits."""

NARROWEST_RANGE = 0.7
"""Smallest share of a row's range that is tried if it has a zero point."""

Observer = Callable[[Statistics, int], tuple[float, float]]
"""Function of a tensor's statistics and a number of bits that returns the range to cover."""


def min_max(statistics: Statistics, bits: int) -> tuple[float, float]:
    """Return the smallest and the largest value."""
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
    """Return the range that clips a part of ``1 - share`` at either end, to a bin's width."""
    cumulated = statistics.counts.cumsum(0)
    width, total = statistics.limit / BINS, int(cumulated[-1])
    kept = math.ceil(share * total)
    first = int((cumulated > total - kept).nonzero()[0])
    last = int((cumulated >= kept).nonzero()[0])
    low, high = (first - BINS) * width, (last + 1 - BINS) * width
    return max(low, statistics.low), min(high, statistics.high)


def mse(statistics: Statistics, bits: int) -> tuple[float, float]:
    """Return the range with the smallest mean squared error of quantisation."""
    present = statistics.counts > 0
    x, weight = statistics.centers[present] / statistics.unit, statistics.counts[present].float()

    def error(rounded: Tensor, scale: Tensor) -> Tensor:
        return (rounded - x).square_() @ weight

    return _search(statistics, bits, x, error)


def entropy(statistics: Statistics, bits: int) -> tuple[float, float]:
    """Return the range with the smallest Kullback-Leibler divergence of the quantised values.

    This is TensorRT's calibration (Migacz 2017). Clipped values count at the ends of the range, and
    the probability of an integer is spread evenly over its bins. Zeros are exact and do not count.
    Among ranges of equal divergence, the one with the smallest squared error is returned.
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
    """Return the divergence of clipped probabilities `p` from those of the quantised values."""
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
    """Return the range with the smallest error, by a search over zero points and scales.

    The zero point is an integer. If many values are equal to an end of the range, such as the black
    of an image, a slightly wider range can represent them exactly.

    Parameters
    ----------
    statistics, bits
        Statistics of the activation, and the number of bits.
    x
        N values in units of ``statistics.unit``, whose squares are finite and not zero.
    error
        Maps the values quantised with R ranges, (R, N), and the R scales to R errors.
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


def weight_mse(weight: Tensor, scheme: Scheme) -> Affine:
    """Return the quantiser of `weight` with the smallest squared error of each row.

    With zero points, some shares of a row's range are tried, the same at both ends.
    """
    if scheme.symmetric:
        return symmetric_mse(weight, scheme)
    found = [_least_range(rows, scheme) for rows in _blocks(weight, scheme)]
    scale, zero_point = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Affine(scheme, scale, zero_point)


def symmetric_mse(weight: Tensor, scheme: Scheme) -> Affine:
    """Return the symmetric quantiser of `weight` with the smallest squared error of each row.

    Some shares of a row's largest magnitude are tried as its range, and the best scale is refined:
    the integers q of a scale have a least-squares scale ``<w, q> / <q, q>``, for which the integers
    are computed again.

    Parameters
    ----------
    weight
        Weight of any shape.
    scheme
        A symmetric and signed scheme.
    """
    return from_scale(torch.cat([_least(rows, scheme) for rows in _blocks(weight, scheme)]), scheme)


def _blocks(weight: Tensor, scheme: Scheme) -> tuple[Tensor, ...]:
    """Return the rows of a weight as matrices that fit a core's cache."""
    rows = to_rows(weight.detach().float(), scheme)
    return torch.split(rows, rows_at_once(rows))


def _least_range(rows: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Return the scale and the zero point of each of R rows, (R,), with the smallest error."""
    shares = torch.linspace(NARROWEST_RANGE, 1.0, SHARES).flip(0)[:, None]
    tried = from_range(rows.amin(1) * shares, rows.amax(1) * shares, scheme)
    best = _best(rows, tried.scale, scheme.low - tried.zero_point, scheme)[0][None].long()
    return tried.scale.gather(0, best)[0], tried.zero_point.gather(0, best)[0]


def _least(rows: Tensor, scheme: Scheme) -> Tensor:
    """Return the scale of each of R rows, (R,), with the smallest error, without a zero point."""
    # Each row is divided by a power of two near its largest magnitude: then no square overflows.
    largest = rows.abs().amax(1)
    exponent = torch.frexp(largest).exponent.clamp(min=-126)
    unit = torch.ldexp(torch.ones(len(rows)), -exponent)
    rows, largest = rows * unit[:, None], largest * unit

    def tried(scales: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the best of the allowed scales next to `scales`, (S, R), and its sums."""
        scales = from_scale(scales, scheme).scale
        lows = torch.full_like(scales, scheme.low)
        best, error, product, square = _best(rows, scales, lows, scheme)
        return scales.gather(0, best[None].long())[0], error, product, square

    shares = torch.linspace(NARROWEST.get(scheme.bits, 0.8), 1.0, SHARES)
    scale, error, product, square = tried(shares[:, None] * largest / scheme.high)
    for _ in range(REFINEMENTS):
        other = tried((product / square.clamp(min=1))[None])
        pairs = zip(other, (scale, error, product, square), strict=True)
        better = other[1] < error
        scale, error, product, square = (torch.where(better, new, old) for new, old in pairs)
    return torch.ldexp(scale, exponent)


def _best(rows: Tensor, scales: Tensor, lows: Tensor, scheme: Scheme) -> Tensor:
    """Return which of S scales of each of R rows has the smallest error: float32, (4, R).

    The first number of a row is the position of the scale, the others are three sums over the row:
    of squared errors, of the products of integers and numbers, and of squared integers.

    Parameters
    ----------
    rows
        The rows.
    scales, lows
        Scales, and smallest integers less the zero points, (S, R).
    scheme
        The integers.
    """
    best = torch.empty(4, len(rows))
    levels = scheme.high - scheme.low
    _core.fit_rows(rows.numpy(), scales.numpy(), lows.float().numpy(), levels, best.numpy())
    return best
