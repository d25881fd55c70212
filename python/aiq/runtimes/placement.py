"""Layers that a runtime runs in another format than the plan's, on any machine.

Whether there is a kernel depends on a layer's place in the network. No CPU runtime has an integer
kernel for a transposed convolution. PyTorch has none for 3-D convolutions and for small products of
one row. ONNX Runtime's integer convolution writes integers, so it cannot write a result of the
network. Neither has a kernel for an image without a batch. In such places the runtime multiplies
rounded operands in float32: the results are those of the plan's format, and the time is that of
float32. The cost model therefore prices float32 there, the search does not offer the format, and
`aiq.runtimes.Runtime.support` returns ``emulated``.
"""

import math
from collections.abc import Callable, Mapping

from aiq.formats import REFERENCE, Format
from aiq.graph import Layer, Op
from aiq.hardware import sections
from aiq.hardware.sections import DECODERS


def runs_as(runtime: str | None, layer: Layer, fmt: Format) -> Format:
    """Return the format in which `runtime` runs `layer` if its format in the plan is `fmt`.

    It is `fmt` if the runtime has a kernel for it there, or if the runtime is not known here.
    Instructions that a machine lacks, such as those for bfloat16, are not considered.
    """
    if runtime is None or runtime not in _INTEGER_KERNEL:
        return fmt
    if fmt.quantizes_weights and not _INTEGER_KERNEL[runtime](layer):
        return REFERENCE
    if runtime == GGUF:
        return fmt if _in_blocks(layer, fmt) else REFERENCE
    if runtime in DECODERS.values():
        return fmt if _in_folder(layer, fmt) else REFERENCE
    if fmt.quantizes_weights and not fmt.quantizes_activations:
        return _weight_only(layer, fmt)
    return fmt


GGUF = sections.GGUF
"""Name of the runtimes of GGUF files: llama.cpp, and those that read the same files."""

LAST_LOGITS = frozenset({GGUF})
"""Runtimes whose output layer reads the last token of a prompt only; others read all of them."""

_IN_BLOCKS: Mapping[str, float] = {
    "w4g32": 4.5,
    "w4g32z": 5.0,
    "w5g32": 5.5,
    "w5g32z": 6.0,
    "w8g32": 8.5,
}
"""Weight-only format that GGUF files have -> bits of a weight in it. Zero points are float16."""


def stored_bits(runtime: str | None, fmt: Format) -> float:
    """Return the bits of a weight as the files of `runtime` store it, with those of its scale.

    Decoders in folders have the name of their section as `runtime`.
    """
    if runtime == GGUF:
        return _IN_BLOCKS.get(fmt.name, fmt.stored_bits)
    is_folder = runtime == DECODERS["onnxruntime"] and fmt.quantizes_weights
    return _onnx_decoder_bits(fmt) if is_folder else fmt.stored_bits


def _onnx_decoder_bits(fmt: Format) -> float:
    """Return the bits of a weight in a folder of ONNX Runtime, see `aiq.generative.nbits`.

    Scales are float32, as activations are. Four bits have one in each 32 weights of a channel, and
    zero points of four bits; eight bits have zero points in float32.
    """
    bits, kind = fmt.weight.bits, fmt.weight_granularity
    group = kind.group or (32 if bits == 4 else None)
    if group is None:
        return bits
    zero_point = (bits if bits == 4 else 32) if kind.zero_point else 0
    return bits + (32 + zero_point) / group


def times_as(runtime: str | None, layer: Layer, fmt: Format) -> Format:
    """Return the format whose time a layer takes in `runtime` if its format in the plan is `fmt`.

    It is that of `runs_as`, with one exception: ONNX Runtime unpacks weights of eight bits to
    float32 when it opens a file (`aiq.runtimes.onnx_edit.pack_weights`).
    """
    is_weight_only = fmt.quantizes_weights and not fmt.quantizes_activations
    if runtime == "onnxruntime" and is_weight_only and fmt.weight.bits == 8:
        return REFERENCE
    return runs_as(runtime, layer, fmt)


def _is_plain(fmt: Format) -> bool:
    """Whether weights are symmetric integers of four or eight bits."""
    return fmt.weight.bits in {4, 8} and not fmt.weight_granularity.zero_point


def _inductor(layer: Layer) -> bool:
    assert layer.weight_shape is not None
    if layer.op is not Op.LINEAR:
        return not layer.transposed and len(layer.weight_shape) < 5 and not _is_unbatched(layer)
    # Inductor replaces small products of a single row by sums
    # (torch/_inductor/decomposition.py: addmm, mm).
    outputs, inputs = layer.weight_shape
    has_bias = layer.weight_elements > outputs * inputs
    is_small = outputs == 1 or (has_bias and max(outputs, inputs) <= 16)
    return layer.output_elements > outputs or not is_small


def _onnxruntime(layer: Layer) -> bool:
    writes_integers = layer.op is Op.LINEAR or not layer.is_output
    return writes_integers and not layer.transposed and not _is_unbatched(layer)


def _openvino(layer: Layer) -> bool:
    return not layer.transposed


def _in_blocks(layer: Layer, fmt: Format) -> bool:
    """Whether a GGUF file can hold the weight of a layer in `fmt`."""
    assert layer.weight_shape is not None
    if fmt.name not in _IN_BLOCKS:
        return fmt.name in {"fp32", "fp16"}
    return layer.op is Op.LINEAR and layer.weight_shape[-1] % 32 == 0


def _in_folder(layer: Layer, fmt: Format) -> bool:
    """Whether decoders in folders have a kernel for a layer in `fmt`, see `aiq.generative`."""
    is_weight_only = fmt.quantizes_weights and not fmt.quantizes_activations
    return is_weight_only and fmt.weight.bits in {4, 8} and _tiles(layer, fmt)


def _tiles(layer: Layer, fmt: Format) -> bool:
    """Whether groups of weights fill the rows of the weight of a layer."""
    assert layer.weight_shape is not None
    columns, group = math.prod(layer.weight_shape[1:]), fmt.weight_granularity.group
    return group is None or columns <= group or columns % group == 0


def _is_unbatched(layer: Layer) -> bool:
    """Whether a convolution reads a single image without a dimension for the batch.

    PyTorch adds and removes that dimension around the convolution, which hides the rounding of its
    operand and of its result from the kernel.
    """
    assert layer.weight_shape is not None
    return layer.op is not Op.LINEAR and len(layer.input_shapes[0]) < len(layer.weight_shape)


_INTEGER_KERNEL: Mapping[str, Callable[[Layer], bool]] = {
    "inductor": _inductor,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    **dict.fromkeys((GGUF, *DECODERS.values()), lambda layer: layer.op is Op.LINEAR),
}
"""Runtime -> whether it has a kernel with integer weights for a layer of a supported operator."""


def _weight_only(layer: Layer, fmt: Format) -> Format:
    """Return the format that runs for a weight-only format; only linear layers store integers."""
    is_stored = layer.op is Op.LINEAR and _is_plain(fmt) and _tiles(layer, fmt)
    return fmt if is_stored else REFERENCE
