"""Number formats: how a layer is stored and computed.

A format combines the dtypes of weights, activations and arithmetic. Names are ``fp32``, ``bf16``,
``fp16``, ``w8a8``, ``w4`` (weight-only), ``w4g64`` (weight-only, with a scale for every 64
weights), ``w4g64z`` (the same with a zero point for every 64 weights), in general ``wNaM`` with N
and M from 2 to 8, and ``wNaMbf16`` if operators between layers, such as attention and norms,
compute in bfloat16.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from typing import ClassVar

from aiq.errors import FormatError


class Kind(StrEnum):
    """Whether a dtype is an integer or a floating-point number."""

    FLOAT = "float"
    INT = "int"


class WeightRounding(StrEnum):
    """The way in which weights are rounded, see `aiq.quantize.adaptive`."""

    NEAREST = "nearest"
    GPTQ = "gptq"
    ADAPTIVE = "adaptive"


@dataclass(frozen=True, slots=True)
class Granularity:
    """The set of weights that share one scale, and whether they have a zero point.

    Scales of groups are float16, as in the files of all runtimes; others are float32.

    Attributes
    ----------
    group
        Number of elements of a channel that share a scale; ``None`` for all of them.
    zero_point
        Whether each scale has a zero point. Otherwise integers are symmetric around zero.
    is_tensor
        Whether all channels share one scale.
    """

    group: int | None = None
    zero_point: bool = False
    is_tensor: bool = False

    TENSOR: ClassVar["Granularity"]
    CHANNEL: ClassVar["Granularity"]

    def __str__(self) -> str:
        if self.group is None:
            return "tensor" if self.is_tensor else "channel"
        return f"group of {self.group}" + (" with zero point" if self.zero_point else "")


Granularity.TENSOR = Granularity(is_tensor=True)
Granularity.CHANNEL = Granularity()

SCALE_BITS = 16
"""Bits of the scale of a group of weights."""


@dataclass(frozen=True, slots=True)
class DType:
    """A number type.

    Attributes
    ----------
    name
        ``fp32``, ``bf16``, ``fp16``, or ``intN``.
    kind
        Floating point or integer.
    bits
        Width of a stored element in bits.
    """

    name: str
    kind: Kind
    bits: int


@dataclass(frozen=True, slots=True)
class RowsDType(DType):
    """The number types of a weight whose output channels differ in them.

    Attributes
    ----------
    rows
        Dtype of each output channel.
    """

    rows: tuple[DType, ...]


FP32 = DType("fp32", Kind.FLOAT, 32)
BF16 = DType("bf16", Kind.FLOAT, 16)
FP16 = DType("fp16", Kind.FLOAT, 16)
INTEGERS = {bits: DType(f"int{bits}", Kind.INT, bits) for bits in range(2, 9)}

KERNEL_DTYPES = {dtype.name: dtype for dtype in (FP32, BF16, INTEGERS[8])}
"""Name -> dtype, for the dtypes in which kernels of runtimes multiply and read tensors."""


@dataclass(frozen=True, slots=True)
class Format:
    """How one layer is stored and computed.

    Attributes
    ----------
    name
        Name in plans, tables and on the command line.
    weight, activation
        Dtype of the stored weights, and of the layer's input and output.
    compute
        Dtype of the multiplications. It is ``int8`` for every ``wNaM``, as narrower integers are
        unpacked to bytes, and otherwise the dtype of the activations.
    weight_granularity
        The set of weights that share one scale, if weights are integers.
    between
        Floating-point dtype of the operators after the layer that have no integer kernel, up to the
        next layers: attention, norms, most activation functions.
    """

    name: str
    weight: DType
    activation: DType
    compute: DType
    weight_granularity: Granularity = Granularity.CHANNEL
    between: DType = FP32

    @property
    def kernel(self) -> "Format":
        """The format of the layer's own kernel, without the dtype between layers.

        Formats with the same kernel round alike, so they have the same accuracy drop.
        """
        if not self.quantizes_activations or self.between == FP32:
            return self
        return replace(self, name=self.name.removesuffix(self.between.name), between=FP32)

    @property
    def stored_bits(self) -> float:
        """Bits of a weight in memory, with its share of the scale and zero point of its group.

        The scale of a whole channel is not counted.
        """
        scales = self.weight_granularity
        if scales.group is None:
            return self.weight.bits
        extra = SCALE_BITS + (self.weight.bits if scales.zero_point else 0)
        return self.weight.bits + extra / scales.group

    @property
    def quantizes_weights(self) -> bool:
        """Whether the weights are stored as integers."""
        return self.weight.kind is Kind.INT

    @property
    def quantizes_activations(self) -> bool:
        """Whether the activations are stored as integers."""
        return self.activation.kind is Kind.INT

    def held_to(self, weight_bits: int) -> "Format":
        """Return the format with at most `weight_bits` bits for a weight, and the same name.

        It changes only if activations are integers too, as other kernels read weights as stored.
        """
        if not self.quantizes_activations or self.weight.bits <= weight_bits:
            return self
        return replace(self, weight=INTEGERS[weight_bits])

    def __str__(self) -> str:
        return self.name


ALIASES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "int8": "w8a8", "int4": "w4"}
"""Other names of formats: what the field calls them."""

_USUAL = (*ALIASES, *ALIASES.values(), "w4a8", "w4a4", "w4g64", "w8", "w8a8bf16")
"""Names that are suggested for a misspelled one."""

_PATTERN = re.compile(r"w([2-8])(?:a([2-8])(bf16)?|g(32|64|128)(z)?)?")


def parse(name: str) -> Format:
    """Return the format with the given name.

    Parameters
    ----------
    name
        ``fp32``, ``bf16``, ``fp16``, ``wN``, ``wNgK``, ``wNgKz``, ``wNaM`` or ``wNaMbf16`` with N
        and M in 2..8 and K 32, 64 or 128. ``int8`` is another name of ``w8a8``, and ``int4`` of
        ``w4``. Case and blanks around the name do not matter.

    Raises
    ------
    FormatError
        If no format has this name.

    Examples
    --------
    >>> parse("w4a8").weight.bits, parse("w4a8").activation.bits, parse("w4").activation.name
    (4, 8, 'fp32')
    """
    key = str(name).strip().lower()
    key = ALIASES.get(key, key)
    for dtype in (FP32, BF16, FP16):
        if key == dtype.name:
            return Format(key, dtype, dtype, dtype, between=dtype)
    match = _PATTERN.fullmatch(key)
    if match is None:
        close = get_close_matches(key, _USUAL, n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise FormatError(
            f"Unknown format {name!r}{meant}; use fp32, bf16, fp16, wN or wNaM with N and M from 2 "
            "to 8, for example w8a8 or w4; weights in groups of 32, 64 or 128, as in w4g64, or "
            "w4g64z with zero points; or bfloat16 between integer layers, for example w8a8bf16."
        )
    weight = INTEGERS[int(match[1])]
    if match[2] is None:
        group = None if match[4] is None else int(match[4])
        return Format(key, weight, FP32, FP32, Granularity(group, match[5] is not None))
    between = BF16 if match[3] else FP32
    return Format(key, weight, INTEGERS[int(match[2])], INTEGERS[8], between=between)


def parse_all(names: str | Iterable[str | Format]) -> tuple[Format, ...]:
    """Return the formats in `names`, a sequence or a string with commas, each once.

    Raises
    ------
    FormatError
        If the list is empty or one of the names is unknown.
    """
    if not isinstance(names, Iterable):
        raise FormatError(f"The formats are {names!r}; give their names, for example fp32,w8a8.")
    items = names.split(",") if isinstance(names, str) else list(names)
    formats = dict.fromkeys(f if isinstance(f, Format) else parse(f) for f in items)
    if not formats:
        raise FormatError("The list of formats is empty; name at least one, for example fp32,w8a8.")
    return tuple(formats)


REFERENCE = parse("fp32")
"""The format with which every plan is compared."""

PAPER = parse_all("fp32,w8,w4")
"""The formats of the paper, which have activations in float32."""

INTEGER_GRID = (
    *parse_all("fp32"),
    *(parse(f"w{w}a{a}") for w in range(8, 1, -1) for a in range(8, 1, -1)),
)
"""Float32, and every integer width of weights and activations."""


def by_channel(formats: Sequence[Format]) -> Format:
    """Return the weight-only format of a layer whose output channels have formats of their own.

    Its name has a letter for each channel: the bits of its weights, or ``f`` for float32. Channels
    that all have one format give that format.

    Parameters
    ----------
    formats
        Format of each output channel: ``fp32``, or ``wN`` with a scale for each channel.

    Raises
    ------
    FormatError
        If there are no formats, or one of them is of another kind.

    Examples
    --------
    >>> by_channel([parse("w8"), parse("w4"), parse("fp32")]).name
    'channels-84f'
    """
    for one in formats:
        plain = one.activation == FP32 and one.weight_granularity == Granularity.CHANNEL
        if not plain or one.weight not in {FP32, *INTEGERS.values()}:
            raise FormatError(
                f"An output channel cannot have the format {one}; use fp32 or wN, for example w4."
            )
    if not formats:
        raise FormatError("There are no output channels; give a format for each.")
    if len(set(formats)) == 1:
        return formats[0]
    name = "channels-" + "".join("f" if f.weight == FP32 else str(f.weight.bits) for f in formats)
    rows = tuple(f.weight for f in formats)
    weight = RowsDType(name, Kind.INT, max(row.bits for row in rows), rows)
    return Format(name, weight, FP32, FP32)
