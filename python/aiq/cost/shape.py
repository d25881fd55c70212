"""How the shape of a layer changes the speed of its kernel.

Kernels compute blocks of rows and channels, distribute them over threads, and pad incomplete
blocks. Therefore the share of the peak that they reach depends on the shape of the layer. The
factor on the time of a layer is ``exp(sum of coefficient x feature)``, fitted by `aiq.calibrate` to
random layers.
"""

import math
from collections.abc import Mapping, Sequence

from aiq.graph import Layer
from aiq.hardware.runtime_profile import Correction

FEATURES: Mapping[str, tuple[float, float]] = {  # centre and scale of each feature
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
"""Feature of a layer -> its centre and its scale.

``rows``, ``width``, ``inputs``, ``outputs``, ``groups``, ``taps`` and ``stride`` are logarithms to
base 2 of: positions computed (batch x height x width of the output, or rows of a matrix product);
width of the output image; channels that a group reads; channels that a group writes; groups;
elements of a filter; positions read per position written. ``inputs_16``, ``outputs_16``,
``inputs_4`` and ``outputs_4`` are 1 if the channels read or written are not a multiple of 16 or 4,
otherwise 0. ``padding`` is log2 of the channels written, padded to a multiple of 16, over the
channels written. ``fused`` is 1 if an activation function or an addition is fused into the layer,
because a runtime may use another kernel then (OpenVINO has two for float32 matrices).
"""

WORK = "work"
"""Key in the range of a correction, beside the features: log2 of a layer's multiplications."""

# The sum of these features is log2 of the multiplications of a layer.
_FACTORS = ("rows", "inputs", "outputs", "groups", "taps")


def features(layer: Layer) -> tuple[float, ...]:
    """Return the features of a layer with weights, in the order of `FEATURES`."""
    assert layer.weight_shape is not None
    outputs = layer.output_channels
    _, inputs, *filters = layer.weight_shape
    channels, groups, width = inputs, 1, 1
    if filters:
        channels = layer.input_shapes[0][1 - len(layer.weight_shape)]
        groups = outputs // inputs if layer.transposed else channels // inputs
        inputs = channels // groups
        width = layer.output_shape[-1]
    positions = max(1, layer.output_elements // outputs)
    read = layer.input_elements // channels if filters else positions
    each = max(1, outputs // groups)
    logs = (positions, width, inputs, each, groups, math.prod(filters), max(1.0, read / positions))
    return (
        *map(math.log2, logs),
        float(channels % 16 > 0),
        float(outputs % 16 > 0),
        float(channels % 4 > 0),
        float(outputs % 4 > 0),
        math.log2(-(-outputs // 16) * 16 / outputs),
        # Batch norms do not count, since they are folded into the weights.
        float(any(name != "batch_norm" for name in layer.fused)),
    )


def log_work(shape: Sequence[float]) -> float:
    """Return log2 of the multiplications of a layer with these features."""
    named = dict(zip(FEATURES, shape, strict=True))
    return sum(named[name] for name in _FACTORS)


def scaled(shape: Sequence[float], limits: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return features by name, clamped to `limits`, centred and scaled.

    A feature without limits is 0. A layer of more work than any in the calibration gets the factor
    of a layer with fewer rows, because kernels compute blocks of rows one after the other.
    """
    named = dict(zip(FEATURES, shape, strict=True))
    if WORK in limits:
        named["rows"] -= max(0.0, log_work(shape) - limits[WORK][1])
    found = {}
    for name, (centre, scale) in FEATURES.items():
        low, high = limits.get(name, (centre, centre))
        found[name] = (min(max(named[name], low), high) - centre) / scale
    return found


def factor(correction: Correction | None, shape: Sequence[float]) -> float:
    """Return the factor on the time of a kernel for a layer with these features."""
    if correction is None or not shape:
        return 1.0
    value = scaled(shape, correction.range)
    return math.exp(sum(slope * value[name] for name, slope in correction.terms.items()))
