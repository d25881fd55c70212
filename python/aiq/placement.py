"""Which layers a runtime runs in another format than the one asked for, on any machine.

Kernels exist for operators in places. No CPU runtime has an integer kernel for a transposed
convolution; PyTorch has none for a convolution of volumes and small products of one row; ONNX
Runtime's integer convolution writes integers, so it cannot write a result of the network. There the
runtime multiplies rounded operands in float32: the results are those of the format that was asked
for, the time is that of the format that runs. The cost prices what runs, the search does not offer
what does not run, and `aiq.runtimes.Runtime.support` says ``emulated``.
"""

import math
from collections.abc import Callable, Mapping

from aiq.formats import REFERENCE, Format
from aiq.graph import Layer, Op


def runs_as(runtime: str | None, layer: Layer, fmt: Format) -> Format:
    """Return the format whose kernel multiplies in `layer` when `runtime` is asked for `fmt`.

    Where it has the format's own kernel, or nothing is known of the runtime, that is `fmt`. What a
    machine lacks, such as bfloat16, is not looked at.
    """
    if runtime is None or runtime not in _INTEGER_KERNEL:
        return fmt
    if fmt.quantizes_weights and not _INTEGER_KERNEL[runtime](layer):
        return REFERENCE
    if fmt.quantizes_weights and not fmt.quantizes_activations:
        return _weight_only(layer, fmt)
    return fmt


def _inductor(layer: Layer) -> bool:
    assert layer.weight_shape is not None
    if layer.op is not Op.LINEAR:
        return not layer.transposed and len(layer.weight_shape) < 5
    # Products of a single row are written as sums where they are small
    # (torch/_inductor/decomposition.py: addmm, mm).
    outputs, inputs = layer.weight_shape
    has_bias = layer.weight_elements > outputs * inputs
    is_small = outputs == 1 or (has_bias and max(outputs, inputs) <= 16)
    return layer.output_elements > outputs or not is_small


def _onnxruntime(layer: Layer) -> bool:
    writes_integers = layer.op is Op.LINEAR or not layer.is_output
    return writes_integers and not layer.transposed


def _openvino(layer: Layer) -> bool:
    return not layer.transposed


_INTEGER_KERNEL: Mapping[str, Callable[[Layer], bool]] = {
    "inductor": _inductor,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
"""Runtime -> whether it has a kernel with integer weights for a layer, if for its operator."""


def _weight_only(layer: Layer, fmt: Format) -> Format:
    """Return what runs where activations stay float32: only linear layers read stored integers."""
    assert layer.weight_shape is not None
    columns = math.prod(layer.weight_shape[1:])
    group = fmt.weight_granularity.group
    tiles = group is None or columns <= group or columns % group == 0
    is_stored = layer.op is Op.LINEAR and fmt.weight.bits in {4, 8} and tiles
    return fmt if is_stored else REFERENCE
