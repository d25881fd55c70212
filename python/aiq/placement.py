"""Which layers a runtime runs in another format than the one asked for, on any machine.

Kernels exist for operators in places. No CPU runtime has an integer kernel for a transposed
convolution; PyTorch has none for a convolution of volumes; ONNX Runtime's integer convolution
writes integers, so it cannot write a result of the network. There the runtime multiplies rounded
operands in float32: the results are those of the format that was asked for, the time is that of the
format that runs. The cost prices what runs, the search does not offer what does not run, and
`aiq.runtimes.Runtime.support` says ``emulated``.
"""

import math
from collections.abc import Callable, Mapping

from aiq.formats import REFERENCE, Format, parse
from aiq.graph import Layer, Op


def runs_as(runtime: str | None, layer: Layer, fmt: Format) -> Format:
    """Return the format whose kernel multiplies in `layer` when `runtime` is asked for `fmt`.

    Where it has the format's own kernel, or nothing is known of the runtime, that is `fmt`. What a
    machine lacks, such as bfloat16, is not looked at.
    """
    if runtime is None or runtime not in _INTEGER_KERNEL:
        return fmt
    if fmt.quantizes_activations:
        return fmt if _INTEGER_KERNEL[runtime](layer) else REFERENCE
    if fmt.quantizes_weights:
        return _weight_only(runtime, layer, fmt)
    return fmt


def _inductor(layer: Layer) -> bool:
    is_volumetric = layer.weight_shape is not None and len(layer.weight_shape) > 4
    return not layer.transposed and not is_volumetric


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
"""Runtime -> whether it has an integer kernel for a layer."""


def _weight_only(runtime: str, layer: Layer, fmt: Format) -> Format:
    """Return what runs where activations stay float32: only linear layers read stored integers."""
    assert layer.weight_shape is not None
    rows, *rest = layer.weight_shape
    columns = math.prod(rest)
    if layer.op is not Op.LINEAR or fmt.weight.bits not in {4, 8}:
        return REFERENCE
    size = fmt.weight_granularity.group
    group = None if size is None or columns <= size else size
    if group is not None and columns % group:
        return REFERENCE
    if runtime != "inductor":
        return fmt
    # PyTorch's kernel for four bits reads tiles; that for eight has a scale for each channel.
    tiles = fmt.weight.bits == 4 and rows % 16 == 0 and columns % 32 == 0
    if tiles or (fmt.weight.bits == 8 and group is None):
        return fmt
    return parse("w8") if group is None else REFERENCE
