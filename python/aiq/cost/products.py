"""The time of a matrix product with few rows, and of attention, from those of a profile."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from aiq.formats import Format, parse
from aiq.graph import Layer, Op
from aiq.hardware.products import Product

CACHE_BYTES = 2.0
"""Bytes of an element of keys and values."""


def nearest(measured: Mapping[str, tuple[Product, ...]], fmt: Format) -> tuple[Product, ...]:
    """Return the products in `fmt`, or else in the format of as many bits with the next group.

    The result is empty if no format of as many bits was measured.
    """
    if fmt.name in measured or fmt.quantizes_activations:
        return measured.get(fmt.name, ())
    alike = [f for f in map(parse, measured) if f.weight == fmt.weight]
    by_size = sorted(alike, key=lambda f: abs(f.stored_bits - fmt.stored_bits))
    return measured[by_size[0].name] if by_size else ()


def seconds(measured: Sequence[Product], bits: float, layer: Layer) -> float | None:
    """Return the time of a linear layer, or ``None`` if it is no linear layer.

    Parameters
    ----------
    measured
        Products in the format of the layer, in the order of their rows.
    bits
        Bits of a weight as the runtime stores it, with its share of scales and zero points. The
        rates were measured with the same bits.
    layer
        The layer.
    """
    if layer.op is not Op.LINEAR or layer.weight_shape is None or not measured:
        return None
    elements = math.prod(layer.weight_shape)
    rows = max(1, layer.output_elements // layer.weight_shape[0])
    return product_seconds(measured, rows, elements, bits / 8)


def attention_seconds(measured: Sequence[Product], layer: Layer) -> float:
    """Return the time of an attention layer, which `aiq.graph.is_attention` recognises.

    One query reads the keys and values of the cache, which several heads may share. Many queries
    multiply with those of every head; that is half of the layer's FLOPs.

    Parameters
    ----------
    measured
        Attention in the order of its rows, which are queries. It was measured without shared keys.
    layer
        The layer; it reads queries of shape (..., heads, length, width), keys, and values.
    """
    query, _, value = layer.input_shapes[:3]
    heads = query[-3] if len(query) > 3 else 1
    rows = max(1, layer.output_elements // (heads * value[-1]))
    read = max(1, layer.input_elements - rows * heads * query[-1])
    multiplied = max(1, layer.flops // (2 * rows))
    times = [_seconds(p, read if p.rows == 1 else multiplied, CACHE_BYTES) for p in measured]
    return _at_rows(measured, times, rows)


def product_seconds(measured: Sequence[Product], rows: int, elements: int, width: float) -> float:
    """Return the time of a product with `rows` rows and `elements` elements of `width` bytes."""
    return _at_rows(measured, [_seconds(p, elements, width) for p in measured], rows)


def _at_rows(measured: Sequence[Product], times: Sequence[float], rows: int) -> float:
    """Return the time at a number of rows, from the times at those that were measured.

    Between two of them the time is interpolated linearly. Beyond the largest one it grows in
    proportion to the rows, because kernels compute blocks of rows one after the other.
    """
    known = [product.rows for product in measured]
    if rows > known[-1]:
        return times[-1] * rows / known[-1]
    return float(np.interp(rows, known, times))


def _seconds(product: Product, elements: int, width: float) -> float:
    """Return the time of a weight of `elements`.

    The time of a byte is interpolated linearly over the logarithm of the elements.
    """
    sizes, rates = zip(*product.rates, strict=True)
    times = [1e-9 / rate for rate in rates]
    return product.start_us * 1e-6 + elements * width * interpolated(elements, sizes, times)


def interpolated(elements: int, sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the value at a number of elements, from those at increasing `sizes`.

    It is linear in the logarithm of the elements, and constant beyond the ends.
    """
    return float(np.interp(math.log(elements), np.log(sizes), values))
