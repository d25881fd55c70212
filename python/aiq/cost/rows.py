"""Layers, formats and machines as the rows of numbers that the core takes."""

import math
from collections.abc import Sequence

from aiq.formats import DType, Format
from aiq.graph import WEIGHTED, Layer, Op
from aiq.hardware import Hardware
from aiq.typed import Count

Work = tuple[Count, Count, Count, Count, Count, Count, Count, bool]
Storage = tuple[Count, Count, Count, bool, Count]
Machine = tuple[list[float], list[tuple[float, float]]]


def work(layer: Layer) -> Work:
    """Return the fields of the core's `Work`, in order."""
    scales = layer.weight_shape[0] if layer.weight_shape else 0
    return (
        layer.flops,
        layer.weight_elements,
        scales,
        layer.input_elements,
        layer.fused_elements,
        layer.output_elements,
        _channels(layer),
        layer.is_output,
    )


def _channels(layer: Layer) -> int:
    """Return the output channels computed side by side: those of a group, all if depthwise."""
    if layer.op not in WEIGHTED or not layer.weight_shape:
        return 0
    outputs = layer.weight_shape[0]
    if layer.op is not Op.GROUPED:
        return outputs
    channels = layer.input_shapes[0][-len(layer.weight_shape) + 1]
    return max(1, outputs * layer.weight_shape[1] // channels)


def storage(format_: Format, compute: int) -> Storage:
    """Return the fields of the core's `Storage`, in order."""
    return (
        format_.weight.bits,
        format_.activation.bits,
        format_.activation.bits,
        format_.quantizes_weights,
        compute,
    )


def machine(hardware: Hardware, dtypes: Sequence[DType]) -> Machine:
    """Return the core's `Hardware`: peaks of `dtypes`, then sizes and bandwidths, in SI units.

    Raises
    ------
    HardwareError
        If the profile lacks a dtype.
    """
    return (
        [hardware.peak(dtype) * 1e9 for dtype in dtypes],
        [(level.size_kib * 1024, level.read_gbps * 1e9) for level in hardware.memory],
    )


def largest_activations(layers: Sequence[Layer], bits: int) -> float:
    """Return the bytes of what the widest layer reads and writes."""
    widest = max(x.input_elements + x.fused_elements + x.output_elements for x in layers)
    return math.ceil(widest * bits / 8)
