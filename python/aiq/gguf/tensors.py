"""The tensors of a decoder as a GGUF file holds them, every layer in its planned format."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aiq.decoders import weight_path
from aiq.errors import InputError
from aiq.formats import REFERENCE, Format
from aiq.gguf.blocks import GROUP, TYPES, pack_blocks
from aiq.gguf.header import LLAMA3, rope_type
from aiq.gguf_config import FACTORS, position_factors
from aiq.graph import Layer, Trace
from aiq.quantize.rounding import Rounding

_ADDS_ONE = {"gemma", "gemma2", "gemma3"}
"""Architectures whose norms multiply by one more than their weight; files hold the sum."""


_NO_BIASES = {"qwen3", "gemma", "gemma2", "gemma3"}
"""Architectures in which llama.cpp reads no biases, and opens no file that has some."""


class Stored(NamedTuple):
    """A tensor of a file.

    Attributes
    ----------
    name, kind
        Name of the tensor, and type of its elements or blocks.
    data
        Blocks as bytes, (rows, bytes of a row), or floating-point numbers.
    value
        Values with which the simulated network computes, in the order of the file.
    """

    name: str
    kind: gguf.GGMLQuantizationType
    data: npt.NDArray[Any]
    value: Tensor


def tensors(
    model: torch.nn.Module,
    architecture: str,
    trace: Trace,
    rounding: Rounding,
    formats: Mapping[str, Format],
) -> Iterator[Stored]:
    """Yield all tensors of a decoder.

    Weights of linear layers are stored in their formats, other matrices (the embedding) in float16,
    and vectors in float32. If the output layer and the embedding share a matrix, the file holds it
    once, in the format of the output layer.

    Raises
    ------
    InputError
        If a format has no type in GGUF files, or a matrix cannot be cut into blocks.
    """
    config: Any = model.config
    names = _names(model, architecture)
    parameters = dict(model.named_parameters())
    layers = {weight_path(layer, parameters): layer for layer in trace.graph.quantizable}
    for path, exact in parameters.items():
        name = names.get_name(path, try_suffixes=(".weight", ".bias"))
        if name is None or (path.endswith(".bias") and architecture in _NO_BIASES):
            raise InputError(
                f"A .gguf file of kind {architecture} has no place for the parameter {path!r}; "
                "export the model to .onnx or .xml."
            )
        heads = _heads(config, path) if architecture == "llama" else None
        if path in layers:
            yield _matrix(name, layers[path], heads, rounding, formats)
            continue
        layer = layers.get(f"{path.removesuffix('.bias')}.weight")
        value = exact.detach()
        if layer is not None and _format(layer, formats).quantizes_weights:
            fmt = _format(layer, formats)
            value = rounding.bias(layer.name, fmt.weight, fmt.weight_granularity)
        if architecture in _ADDS_ONE and path.endswith("norm.weight"):
            value = value + 1
        yield _plain(name, "F32" if value.ndim == 1 else "F16", _turned(value, heads))
    if rope_type(getattr(config, "rope_parameters", None) or {}) == LLAMA3:
        yield _plain(FACTORS, "F32", position_factors(config))


def kinds(
    model: torch.nn.Module, architecture: str, trace: Trace, formats: Mapping[str, Format]
) -> dict[str, str]:
    """Return the name of each layer's weight in a file, and its type.

    Raises
    ------
    InputError
        If a format has no type in GGUF files.
    """
    names, parameters = _names(model, architecture), dict(model.named_parameters())
    return {
        names.get_name(weight_path(layer, parameters), try_suffixes=(".weight", ".bias")): _kind(
            layer, _format(layer, formats)
        )
        for layer in trace.graph.quantizable
    }


def _names(model: torch.nn.Module, architecture: str) -> gguf.TensorNameMap:
    """Return the names of tensors in a file, by those of parameters."""
    config: Any = model.config
    kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    return gguf.get_tensor_name_map(kind, config.num_hidden_layers)


def _kind(layer: Layer, fmt: Format) -> str:
    if fmt.name not in TYPES:
        raise InputError(
            f"A .gguf file has no type for layer {layer.name!r} in {fmt}; search again with "
            f"formats from {','.join(TYPES)}."
        )
    return TYPES[fmt.name]


def _format(layer: Layer, formats: Mapping[str, Format]) -> Format:
    return formats.get(layer.name, REFERENCE)


def _matrix(
    name: str,
    layer: Layer,
    heads: int | None,
    rounding: Rounding,
    formats: Mapping[str, Format],
) -> Stored:
    """Return the weight of a layer in its format."""
    fmt = _format(layer, formats)
    kind = gguf.GGMLQuantizationType[_kind(layer, fmt)]
    operands = rounding.operands[layer.name]
    exact = rounding.program.constants[operands.weight]
    if not fmt.quantizes_weights:
        return _plain(name, kind.name, _turned(exact, heads))
    if exact.shape[1] % GROUP:
        raise InputError(
            f"Layer {layer.name!r} reads {exact.shape[1]} numbers, which blocks of {GROUP} do not "
            "divide; pin it to fp32."
        )
    key = (layer.name, fmt.weight, fmt.weight_granularity)
    packed = torch.from_numpy(pack_blocks(rounding.weight(*key), rounding.weight_quantizer(*key)))
    return Stored(name, kind, _turned(packed, heads).numpy(), _turned(rounding.weight(*key), heads))


def _plain(name: str, kind: str, value: Tensor) -> Stored:
    dtype = np.float16 if kind == "F16" else np.float32
    data = value.contiguous().numpy().astype(dtype)
    return Stored(name, gguf.GGMLQuantizationType[kind], data, value)


def _heads(config: Any, path: str) -> int | None:  # noqa: ANN401
    """Return how many heads the rows of a parameter belong to, if GGUF files order them otherwise.

    llama.cpp turns pairs of neighbouring rows of queries and keys by the position of a token,
    transformers those of the first and second half of a head.
    """
    if ".q_proj." in path:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if ".k_proj." in path else None


def _turned(value: Tensor, heads: int | None) -> Tensor:
    """Return rows in the order of llama.cpp, see `_heads`."""
    if heads is None:
        return value
    halves = value.reshape(heads, 2, len(value) // heads // 2, *value.shape[1:])
    return halves.swapaxes(1, 2).reshape(value.shape)
