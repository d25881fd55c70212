"""Affine quantisation: real numbers as integers, ``r = S (q - Z)``.

A *row* is a set of elements that share a scale S and a zero point Z. A row is a whole tensor, or an
output channel of a weight, or a group of consecutive elements of a channel. Rounding is to nearest,
ties to even, and equals PyTorch's quantisers bit for bit.

Sources: Jacob et al. 2018 (arXiv 1712.05877), section 2.1; Krishnamoorthi 2018 (arXiv 1806.08342).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from aiq import _core
from aiq.errors import InputError

SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""Smallest scale, a number whose reciprocal is finite in float32."""

SMALLEST_HALF, LARGEST_HALF = 2.0**-24, torch.finfo(torch.float16).max
"""Smallest and largest scale of a group of weights."""

SCALE_OF_ZEROS = torch.finfo(torch.float32).eps
"""Scale of a range that contains only zero, as in PyTorch's observers."""

LARGEST_REAL = torch.finfo(torch.float32).max * (1 - 2.0**-8)
"""Largest end of a range, so that every dequantised integer is finite in float32."""

BLOCK = 1 << 16
"""Number of elements that are rounded at once, which fit a core's cache."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """The integers that a tensor may use, and its division into rows.

    A weight of shape (64, 32, 3, 3) has 64 rows of 288 elements with ``axis=0``, and 192 rows of
    96 with ``axis=0, group=96``.

    Attributes
    ----------
    bits
        Width of the integers in bits: 2 to 8.
    symmetric
        Whether ranges are +-max(|r|). The zero point is then the middle integer: 0 if `signed`.
    signed
        Whether the integers start at ``-2^(bits-1)``; otherwise they start at 0.
    axis
        Dimension of the channels, each of which is a row; ``None`` makes the tensor one row.
    group
        Number of elements of a channel that form a row; ``None`` makes the channel one row.
    power_of_two
        Whether scales are powers of two, so that integers are rescaled by shifts only.
    half
        Whether scales are float16 numbers, as those of groups of weights are in files.
    """

    bits: int
    symmetric: bool
    signed: bool
    axis: int | None = None
    group: int | None = None
    power_of_two: bool = False
    half: bool = False

    def __post_init__(self) -> None:
        if self.bits not in range(2, 9):
            raise InputError(f"Integers of {self.bits} bits are not supported; give 2 to 8.")
        if self.group is not None and (self.axis is None or self.group < 1):
            raise InputError(
                f"Groups of {self.group} elements need an axis and a positive size; give both."
            )

    @property
    def low(self) -> int:
        """The smallest integer."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest integer."""
        return self.low + (1 << self.bits) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """Scales and zero points of the rows of a tensor.

    Attributes
    ----------
    scheme
        The integers, and the division into rows.
    scale
        Scale of each row: float32, (rows,), positive.
    zero_point
        Zero point of each row: int32, (rows,), from ``scheme.low`` to ``scheme.high``.
    """

    scheme: Scheme
    scale: Tensor
    zero_point: Tensor

    def quantize(self, x: Tensor) -> Tensor:
        """Return `x` as integers: int32, of the same shape."""
        rows = to_rows(x, self.scheme)
        codes = self._steps(rows).int() + self.zero_point[:, None]
        return from_rows(codes, x.shape, self.scheme)

    def dequantize(self, q: Tensor) -> Tensor:
        """Return the real numbers that the integers `q` stand for: float32, of the same shape."""
        rows = to_rows(q, self.scheme) - self.zero_point[:, None]
        return from_rows(rows.float() * self.scale[:, None], q.shape, self.scheme)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return `x` rounded to the nearest numbers that integers stand for; NaN stays NaN.

        A tensor of one row keeps its memory format.
        """
        if self.scheme.axis is not None:
            rounded = self._rounded(to_rows(x.detach(), self.scheme))
            return from_rows(rounded, x.shape, self.scheme)
        # Four vectorised operators are several times faster than torch.fake_quantize_*.
        zero_point = int(self.zero_point)
        low, high = self.scheme.low - zero_point, self.scheme.high - zero_point
        return x.mul(self.scale.reciprocal()).round_().clamp_(low, high).mul_(self.scale)

    def _rounded(self, rows: Tensor) -> Tensor:
        """Return rows of which each is rounded with its own scale."""
        rounded, levels = torch.empty(rows.shape), self.scheme.high - self.scheme.low
        operands = (rows, self.scale, (self.scheme.low - self.zero_point).float(), rounded)
        pieces = (torch.split(x, rows_at_once(rows)) for x in operands)
        for parts in zip(*pieces, strict=True):
            part, scale, low, target = (x.numpy() for x in parts)
            _core.round_rows(part, scale, low, levels, target)
        return rounded

    def _steps(self, rows: Tensor) -> Tensor:
        """Return ``q - Z`` in float32, which is exact for integers below 2^9."""
        zero_point = self.zero_point[:, None]
        steps = (rows * self.scale.reciprocal()[:, None]).round_()
        return steps.clamp_(self.scheme.low - zero_point, self.scheme.high - zero_point)


def rows_at_once(rows: Tensor) -> int:
    """Return the number of rows that have about `BLOCK` elements."""
    return max(1, BLOCK // max(1, rows.shape[1]))


def to_rows(x: Tensor, scheme: Scheme) -> Tensor:
    """Return `x` as a matrix of the rows of `scheme`: (rows, elements of a row).

    The last group of a channel is padded with zeros.
    """
    if scheme.axis is None:
        return x.reshape(1, -1)
    channels = x.movedim(scheme.axis, 0).flatten(1) if x.ndim > 1 else x[:, None]
    if scheme.group is None:
        return channels
    missing = -channels.shape[1] % scheme.group
    if missing:
        channels = torch.nn.functional.pad(channels, (0, missing))
    return channels.reshape(-1, scheme.group)


def from_rows(rows: Tensor, shape: torch.Size, scheme: Scheme) -> Tensor:
    """Return the tensor of `shape` whose rows are `rows`: the inverse of `to_rows`."""
    if scheme.axis is None:
        return rows.reshape(shape)
    moved = list(shape)
    first = moved.pop(scheme.axis)
    channels = rows.reshape(first, -1)[:, : math.prod(moved)]
    return channels.reshape(first, *moved).movedim(0, scheme.axis)


def from_range(low: Tensor, high: Tensor, scheme: Scheme) -> Affine:
    """Return the scales and zero points with which the integers cover the given ranges.

    Parameters
    ----------
    low, high
        Smallest and largest real number of each row: float32, (rows,). A range is widened to
        contain zero, so that zero is exact.
    scheme
        The integers, and the division into rows.

    Notes
    -----
    ``S = (r_max - r_min) / (2^bits - 1)`` and ``Z = q_min - round(r_min / S)``. If the scheme is
    symmetric, ``S = 2 max(|r|) / (2^bits - 1)``. PyTorch's observers give the same bit for bit.
    """
    low, high = low.clamp(-LARGEST_REAL, 0), high.clamp(0, LARGEST_REAL)
    half = (scheme.high - scheme.low) / 2
    # Half of a range is exact, whereas a whole range may overflow float32.
    scale = torch.maximum(-low, high) / half if scheme.symmetric else (high / 2 - low / 2) / half
    scale = torch.where(low == high, SCALE_OF_ZEROS, scale)
    if scheme.symmetric:
        return from_scale(scale, scheme)
    scale = _allowed(scale, scheme)
    zero_point = scheme.low - torch.round(low / scale).int()
    return Affine(scheme, scale, zero_point.clamp(scheme.low, scheme.high))


def from_scale(scale: Tensor, scheme: Scheme) -> Affine:
    """Return the symmetric quantiser with the given scales: float32, (rows,)."""
    middle = (scheme.low + scheme.high + 1) // 2
    zero_point = torch.full(scale.shape, middle, dtype=torch.int32)
    return Affine(scheme, _allowed(scale, scheme), zero_point)


def _allowed(scale: Tensor, scheme: Scheme) -> Tensor:
    """Return the scales that `scheme` allows next to `scale`; powers of two are not below it."""
    if scheme.half:
        return scale.clamp(SMALLEST_HALF, LARGEST_HALF).half().float()
    scale = scale.clamp(min=SMALLEST_SCALE)
    return scale.log2().ceil().exp2() if scheme.power_of_two else scale
