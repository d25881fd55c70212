"""Ranges: how much of a tensor's values the integers cover.

An observer reads the range of an activation from its `Statistics`; weights are seen whole. Few bits
want a range narrower than the extremes: clipping the rare large values buys finer steps for all
others.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from aiq.quantize.affine import Affine, Scheme, from_range, from_scale, to_rows
from aiq.quantize.statistics import BINS, Statistics

CLIPS = 64
"""Ranges tried in each sweep for the least error."""


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
    cumulated = statistics.counts.cumsum(0).double() / statistics.counts.sum()
    width = statistics.limit / BINS
    first = int((cumulated > 1 - share).nonzero()[0])
    last = int((cumulated >= share).nonzero()[0])
    low, high = (first - BINS) * width, (last + 1 - BINS) * width
    return max(low, statistics.low), min(high, statistics.high)


def mse(statistics: Statistics, bits: int) -> tuple[float, float]:
    """Return the range with the least mean squared error of quantisation."""
    present = statistics.counts > 0
    x, weight = statistics.centers[present], statistics.counts[present].float()

    def error(rounded: Tensor) -> Tensor:
        return (rounded - x).square_() @ weight

    return _search(statistics, bits, x, error)


def entropy(statistics: Statistics, bits: int) -> tuple[float, float]:
    """Return the range with the least Kullback-Leibler divergence of the quantised values.

    The values of an integer are spread evenly over the bins that it stands for (TensorRT's
    calibration, Migacz 2017).
    """
    present = statistics.counts > 0
    x, p = statistics.centers[present], statistics.counts[present].double()
    p = p / p.sum()

    def error(rounded: Tensor) -> Tensor:
        losses = []
        for row in rounded:
            _, level = row.unique(return_inverse=True)
            mass = torch.zeros(int(level.max()) + 1, dtype=p.dtype).index_add_(0, level, p)
            bins = torch.zeros_like(mass).index_add_(0, level, torch.ones_like(p))
            losses.append((p * (p / (mass / bins)[level]).log()).sum())
        return torch.stack(losses)

    return _search(statistics, bits, x, error)


OBSERVERS: dict[str, Observer] = {
    "min_max": min_max,
    "moving_average": moving_average,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}


def _search(
    statistics: Statistics, bits: int, x: Tensor, error: Callable[[Tensor], Tensor]
) -> tuple[float, float]:
    """Return the range of least error: shrink both ends together, then each alone.

    `error` maps the quantised values of `x` under each of several ranges, (ranges, len(x)), to
    (ranges,).
    """
    scheme = Scheme(bits, symmetric=False, signed=False, axis=0)
    fractions = torch.linspace(1, 1 / CLIPS, CLIPS)
    low, high = min(statistics.low, 0.0), max(statistics.high, 0.0)

    def best(lows: Tensor, highs: Tensor) -> tuple[float, float]:
        lows, highs = torch.broadcast_tensors(lows, highs)
        quantizer = from_range(lows, highs, scheme)
        chosen = int(error(quantizer.fake_quantize(x.expand(len(lows), -1))).argmin())
        return float(lows[chosen]), float(highs[chosen])

    if low < 0 < high:
        full_low, full_high = low, high
        low, high = best(low * fractions, high * fractions)
        low, high = best(torch.tensor(low), full_high * fractions)
        return best(full_low * fractions, torch.tensor(high))
    return best(low * fractions, high * fractions)


def symmetric_mse(weight: Tensor, scheme: Scheme) -> Affine:
    """Return the symmetric quantiser of `weight` with the least squared error of each row.

    Scales are searched between a row's largest magnitude and a small part of it, first coarsely,
    then around the best.

    Parameters
    ----------
    weight
        Real numbers, of any shape.
    scheme
        Symmetric and signed.
    """
    rows = to_rows(weight.float(), scheme)
    largest = rows.abs().amax(1) / scheme.high
    best_error = torch.full_like(largest, math.inf)
    best = torch.ones_like(largest)
    for center, width in ((torch.full_like(largest, 0.55), 0.45), (None, 0.9 / 16)):
        around = best.clone() if center is None else center
        for offset in torch.linspace(width, -width, 17):
            fraction = (around + offset).clamp(0.05, 1.0)
            quantizer = from_scale(fraction * largest, scheme)
            error = (quantizer._steps(rows).mul_(quantizer.scale[:, None]) - rows).square_().sum(1)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best = torch.where(better, fraction, best)
    return from_scale(best * largest, scheme)
