"""Operators without weights, on integers: those that fuse into a layer, and those between layers.

ReLU is a maximum, and ReLU6 a clamp at 6 divided by the scale. Before an addition, both summands
are rescaled to a common scale.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiq.errors import InputError
from aiq.quantize.affine import Affine
from aiq.quantize.program import Step
from aiq.quantize.reference.fixed_point import INT32, fixed_point

GUARD_BITS = 12
"""Bits of precision that an addition has beyond the coarser of the two scales."""


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Real numbers as ``scale * values``.

    Attributes
    ----------
    values
        Integers: int32.
    scale
        One scale, or one per channel in a shape that broadcasts over `values`: float64.
    """

    values: Tensor
    scale: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """A stored tensor: the integers of the quantiser `affine`, int32."""

    codes: Tensor
    affine: Affine

    @property
    def sums(self) -> Sums:
        """The same real numbers without a zero point."""
        return Sums(self.codes - self.affine.zero_point, self.affine.scale.double())


def sums_of(value: Codes | Sums) -> Sums:
    """Return `value` without a zero point."""
    return value.sums if isinstance(value, Codes) else value


def operate(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Call an operator without weights, in integers if one of its arguments is.

    Raises
    ------
    InputError
        If the operator has no form in integers.
    """
    integers = next((x for x in args if isinstance(x, (Codes, Sums))), None)
    if integers is None:
        return step.function(*args, **kwargs)
    name = step.operator
    if name in _OPERATORS:
        args = tuple(sums_of(x) if isinstance(x, Codes) else x for x in args)
        result = _OPERATORS[name](*args, **kwargs)
        if result is not None:
            return result
    elif name in _MOVES:
        if isinstance(integers, Codes):
            moved = step.function(integers.codes, *args[1:], **kwargs)
            return Codes(moved, integers.affine) if isinstance(moved, Tensor) else moved
        moved = step.function(integers.values, *args[1:], **kwargs)
        return Sums(moved, integers.scale) if isinstance(moved, Tensor) else moved
    raise InputError(
        f"Operator {name!r} (node {step.name!r}) has no form in integers here; run the network "
        "with the simulator."
    )


_MOVES = frozenset(
    {"view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze", "permute", "transpose"}
    | {"clone", "sym_size", "max_pool1d", "max_pool2d", "max_pool3d"}
)
"""Operators that move or select integers and compute none."""


def _relu(x: Sums) -> Sums:
    return Sums(x.values.clamp(min=0), x.scale)


def _clamp(x: Sums, low: Tensor | float | None = None, high: Tensor | float | None = None) -> Sums:
    def bound(value: Tensor | float | None, extreme: int) -> Tensor:
        value = torch.as_tensor(extreme * x.scale if value is None else value).double()
        return (value / x.scale).round().clamp(INT32.min, INT32.max).int()

    values = torch.maximum(x.values, bound(low, INT32.min))
    return Sums(torch.minimum(values, bound(high, INT32.max)), x.scale)


def _hardtanh(x: Sums, low: float = -1.0, high: float = 1.0) -> Sums:
    return _clamp(x, low, high)


def _relu6(x: Sums) -> Sums:
    return _clamp(x, 0.0, 6.0)


def _add(x: object, y: object, alpha: float = 1) -> Sums | None:
    if not (isinstance(x, Sums) and isinstance(y, Sums)) or alpha != 1:
        return None
    common = torch.maximum(x.scale, y.scale) / 2.0**GUARD_BITS
    one, other = (fixed_point(z.scale / common).rescale(z.values).long() for z in (x, y))
    return Sums((one + other).clamp_(INT32.min, INT32.max).int(), common)


def _mean(
    x: Sums, dim: Sequence[int] | None = None, keepdim: bool = False, dtype: object = None
) -> Sums | None:
    if x.scale.numel() > 1 or dtype is not None:
        return None
    dims = tuple(range(x.values.ndim)) if dim is None else tuple(dim)
    count = math.prod(x.values.shape[d] for d in dims)
    total = x.values.sum(dims, keepdim).clamp_(INT32.min, INT32.max)
    return Sums(total.int(), x.scale / count)


def _adaptive_avg_pool2d(x: Sums, output_size: Sequence[int]) -> Sums | None:
    return _mean(x, (-2, -1), keepdim=True) if tuple(output_size) == (1, 1) else None


_OPERATORS: dict[str, Callable[..., Sums | None]] = {
    "relu": _relu,
    "relu6": _relu6,
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "add": _add,
    "mean": _mean,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
}
"""Operators in integers; they return ``None`` for arguments with which they have no such form."""
