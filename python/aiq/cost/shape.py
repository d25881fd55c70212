"""What the shape of a layer does to the speed of its kernel.

Kernels compute blocks of rows and channels, share them out to threads, and pad what is left over,
so that the share of the peak they reach hangs on the layer's shape. The factor on a layer's time is
``exp(sum of coefficient x feature)``, fitted by `aiq.calibrate` on random layers.
"""

import math
from collections.abc import Mapping, Sequence

from aiq.graph import Layer
from aiq.hardware.runtime_profile import Correction

FEATURES: Mapping[str, tuple[float, float]] = {  # centre and scale of each
    "rows": (9, 3),
    "width": (4, 2),
    "inputs": (5, 2),
    "outputs": (5, 2),
    "groups": (3, 3),
    "taps": (2, 1.5),
    "stride": (0, 1),
    "inputs_16": (0, 1),
    "outputs_16": (0, 1),
    "inputs_4": (0, 1),
    "outputs_4": (0, 1),
    "padding": (0, 0.5),
    "fused": (0, 1),
}
"""Logarithms to base 2 of the positions computed (batch, height and width of the output; rows of a
matrix product), the width of the output image, channels of a group read and written, groups,
elements of a filter, positions read per position written; then 1 where the channels read, written
are no multiple of 16, of 4; log2 of the channels written, padded to 16, over those written; and 1
where an activation function or an addition is fused into it: not every kernel can, so a runtime may
take another one (OpenVINO has two for float32 matrices)."""

WORK = "work"
"""In a correction's range: log2 of a layer's multiplications (`work`), beside the features."""

_FACTORS = ("rows", "inputs", "outputs", "groups", "taps")  # of a layer's multiplications


def features(layer: Layer) -> tuple[float, ...]:
    """Return `FEATURES` of a layer with weights, in order."""
    assert layer.weight_shape is not None
    outputs, inputs, *filters = layer.weight_shape
    positions = max(1, layer.output_elements // outputs)
    channels, groups, width, read = inputs, 1, 1, positions
    if filters:
        channels = layer.input_shapes[0][-len(layer.weight_shape) + 1]
        groups = channels // inputs
        width = layer.output_shape[-1]
        read = layer.input_elements // channels
    each = max(1, outputs // groups)
    logs = (positions, width, inputs, each, groups, math.prod(filters), max(1.0, read / positions))
    return (
        *map(math.log2, logs),
        float(channels % 16 > 0),
        float(outputs % 16 > 0),
        float(channels % 4 > 0),
        float(outputs % 4 > 0),
        math.log2(-(-outputs // 16) * 16 / outputs),
        float(any(name != "batch_norm" for name in layer.fused)),  # which goes into the weights
    )


def work(shape: Sequence[float]) -> float:
    """Return log2 of the multiplications of a layer with a shape."""
    named = dict(zip(FEATURES, shape, strict=True))
    return sum(named[name] for name in _FACTORS)


def scaled(shape: Sequence[float], limits: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return features by name, held within `limits`, centred and scaled.

    A feature that a profile does not know says nothing. Kernels compute blocks of rows: a layer of
    more work than any that was calibrated runs at the speed of one with as many rows fewer.
    """
    named = dict(zip(FEATURES, shape, strict=True))
    if WORK in limits:
        named["rows"] -= max(0.0, work(shape) - limits[WORK][1])
    found = {}
    for name, (centre, scale) in FEATURES.items():
        low, high = limits.get(name, (centre, centre))
        found[name] = (min(max(named[name], low), high) - centre) / scale
    return found


def factor(correction: Correction | None, shape: Sequence[float]) -> float:
    """Return what a kernel's time is multiplied by for a shape."""
    if correction is None or not shape:
        return 1.0
    value = scaled(shape, correction.range)
    return math.exp(sum(slope * value[name] for name, slope in correction.terms.items()))
