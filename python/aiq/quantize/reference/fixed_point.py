"""Rescaling of integers by real numbers, with one integer product and one shift.

Source: Jacob et al. 2018 (arXiv 1712.05877), section 2.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from aiq.errors import InputError

INT32 = torch.iinfo(torch.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Multiplier:
    """A positive real number as ``2^-shift * mantissa / 2^31``.

    Attributes
    ----------
    mantissa
        M_0 in [0.5, 1) times 2^31: int64, below 2^31.
    shift
        n in -30..31: int64.
    """

    mantissa: Tensor
    shift: Tensor

    def rescale(self, values: Tensor) -> Tensor:
        """Return `values`, int32, times this number, as saturated int32.

        A product of 64 bits is shifted once and rounded to nearest, ties up. (gemmlowp shifts and
        rounds twice, so its result can differ by one.)
        """
        places = 31 + self.shift
        product = values.long() * self.mantissa + (1 << (places - 1))
        return (product >> places).clamp_(INT32.min, INT32.max).int()


def fixed_point(ratio: Tensor) -> Multiplier:
    """Return the multiplier nearest to `ratio`, float64, with 31 significant bits.

    Raises
    ------
    InputError
        If a ratio is not between 0 and 2^30.
    """
    if not ((ratio > 0) & (ratio < 2.0**30)).all():
        raise InputError(
            "Scales differ by a factor of 2^30 or more, so integers cannot be rescaled; check the "
            "weights and the calibration data for values that are far too large or small."
        )
    mantissa, exponent = torch.frexp(ratio)
    digits = (mantissa * 2.0**31).round().long()
    carry = digits == 1 << 31
    digits, shift = torch.where(carry, 1 << 30, digits), -exponent.long() - carry.long()
    # A shift by 63 places or more rounds every product of 62 bits to zero.
    return Multiplier(torch.where(shift > 31, 0, digits), shift.clamp(max=31))


def power_of_two(ratio: Tensor) -> Multiplier:
    """Return the power of two nearest to `ratio`, with which rescaling is only a shift.

    It is exact if scales are powers of two (``Simulator(power_of_two=True)``); otherwise it is
    wrong by a factor of up to the square root of two.
    """
    return fixed_point(ratio.log2().round().exp2())
