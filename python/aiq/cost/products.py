"""The time of a matrix product with few rows, from the measured ones of a profile."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from aiq.formats import Format, parse
from aiq.graph import Layer, Op
from aiq.hardware.products import Product


def nearest(measured: Mapping[str, tuple[Product, ...]], fmt: Format) -> tuple[Product, ...]:
    """Return the products in `fmt`, or else in the format of as many bits with the next group.

    The result is empty if no format of as many bits was measured.
    """
    if fmt.name in measured or fmt.quantizes_activations:
        return measured.get(fmt.name, ())
    alike = [f for f in map(parse, measured) if f.weight == fmt.weight]
    by_size = sorted(alike, key=lambda f: abs(f.stored_bits - fmt.stored_bits))
    return measured[by_size[0].name] if by_size else ()


def seconds(measured: Sequence[Product], fmt: Format, layer: Layer) -> float | None:
    """Return the time of a linear layer in `fmt`, or ``None`` if it is no linear layer.

    Between two measured numbers of rows the time is interpolated linearly. Beyond the largest one
    it grows in proportion to the rows, because kernels compute blocks of rows one after the other.

    Parameters
    ----------
    measured
        Products in this format, in the order of their rows.
    fmt, layer
        The format, which determines the bytes of the weight, and the layer.
    """
    if layer.op is not Op.LINEAR or layer.weight_shape is None or not measured:
        return None
    elements = math.prod(layer.weight_shape)
    rows = max(1, layer.output_elements // layer.weight_shape[0])
    times = [_seconds(product, fmt, elements) for product in measured]
    known = [product.rows for product in measured]
    if rows > known[-1]:
        return times[-1] * rows / known[-1]
    return float(np.interp(rows, known, times))


def _seconds(product: Product, fmt: Format, elements: int) -> float:
    """Return the time of a weight of `elements`; its rate is interpolated over their logarithm."""
    sizes, rates = zip(*product.rates, strict=True)
    rate = float(np.interp(math.log(elements), np.log(sizes), rates))
    return product.start_us * 1e-6 + elements * fmt.stored_bits / 8 / (rate * 1e9)
