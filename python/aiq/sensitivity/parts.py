"""Formats as sums of parts: the errors of weights and of activations are independent.

The harm of a ``wNaM`` is then the sum of that of its weights alone and that of its activations
alone. All widths from 2 to 8 take 14 measurements a layer instead of 49.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from aiq.formats import FP32, REFERENCE, Format

Parts = Mapping[Format, tuple[Format, ...]]
"""Format -> the formats whose harm adds up to its harm."""


def parts_of(columns: Sequence[Format], joint: bool | None = None) -> tuple[Parts, bool]:
    """Return the parts of each format that rounds something, and whether each is its own part.

    Parameters
    ----------
    columns
        The formats.
    joint
        Whether each format is its own part. By default, whichever gives fewer distinct parts.
    """
    whole = {f: (f.kernel,) for f in columns if f != REFERENCE}
    apart = {f: _apart(f.kernel) for f in whole}
    joint = len(distinct(apart)) >= len(distinct(whole)) if joint is None else joint
    return whole if joint else apart, joint


def distinct(parts: Parts) -> list[Format]:
    """Return the parts of all formats, each once."""
    return list(dict.fromkeys(part for found in parts.values() for part in found))


def _apart(chosen: Format) -> tuple[Format, ...]:
    """Return the formats that round only the weights and only the activations of `chosen`."""
    if not (chosen.quantizes_weights and chosen.quantizes_activations):
        return (chosen,)
    weights = replace(chosen, name=f"w{chosen.weight.bits}", activation=FP32, compute=FP32)
    activations = replace(chosen, name=f"a{chosen.activation.bits}", weight=FP32, compute=FP32)
    return weights, activations
