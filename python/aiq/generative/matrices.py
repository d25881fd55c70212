"""A copy of a decoder with the weights of a plan, and the integers behind those weights."""

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from aiq.decoders import weight_path
from aiq.errors import GraphError, InputError
from aiq.formats import FP32, REFERENCE, Format
from aiq.graph import Layer, Trace
from aiq.quantize.affine import Affine
from aiq.quantize.rounding import Rounding

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """The weight of a linear layer in its format.

    Attributes
    ----------
    layer
        Name of the layer.
    fmt
        Its format: float32, or one with integer weights and float32 activations.
    value
        The rounded weight: float32, (outputs, inputs).
    codes
        Its integers, (outputs, inputs): int8 if they are symmetric around zero, otherwise uint8.
        Float32 has none.
    scales
        Scale of each group: float32, (outputs, groups).
    zero_points
        Zero point of each group: uint8, (outputs, groups); ``None`` if integers are symmetric.
    """

    layer: str
    fmt: Format
    value: Array
    codes: Array
    scales: Array
    zero_points: Array | None


@torch.no_grad()
def rounded(
    model: nn.Module, trace: Trace, rounding: Rounding, formats: Mapping[str, Format]
) -> tuple[Any, list[Matrix]]:
    """Return a copy of a decoder with the weights of a plan, and these weights.

    Linear layers have the weights and biases of their formats, and tables of embeddings are rounded
    to float16. An output layer that shares the table of the embedding gets a matrix of its own.

    Parameters
    ----------
    model
        The decoder, which is not changed.
    trace
        Its folded trace.
    rounding
        The weights and biases of that trace in any format.
    formats
        Layer name -> format; layers that are not named stay float32.

    Raises
    ------
    InputError
        If no kernel reads weights in a format of the plan.
    """
    own: Any = copy.deepcopy(model)
    table, head = own.get_input_embeddings(), own.get_output_embeddings()
    if head.weight is table.weight:
        head.weight = nn.Parameter(head.weight.clone())
        own.config.tie_word_embeddings = False
    for module in own.modules():
        if isinstance(module, nn.Embedding):
            module.weight.copy_(module.weight.half().float())
    parameters = dict(model.named_parameters())
    found = []
    for layer in trace.graph.quantizable:
        fmt = formats.get(layer.name, REFERENCE)
        path, _, _ = weight_path(layer, parameters).rpartition(".")
        module = own.get_submodule(path)
        module = head if module is table else module
        if fmt != REFERENCE:
            check_kernel(layer, fmt)
            key = (layer.name, fmt.weight, fmt.weight_granularity)
            value = rounding.weight(*key)
            module.weight.copy_(value if layer.weight in parameters else value.T)
            if getattr(module, "bias", None) is not None:
                module.bias.copy_(rounding.bias(*key))
        value = module.weight.detach()
        value = value if layer.weight in parameters else value.T
        quantizer = (
            None
            if fmt == REFERENCE
            else rounding.weight_quantizer(layer.name, fmt.weight, fmt.weight_granularity)
        )
        found.append(as_stored(layer.name, fmt, value.numpy(), quantizer))
        rounding.forget(layer.name)
    return own, found


def as_stored(layer: str, fmt: Format, value: Array, quantizer: Affine | None) -> Matrix:
    """Return a weight, (outputs, inputs), with its integers; it shares memory with it.

    The weight may be rounded or not, as that does not change its integers. Float32 has no
    quantiser.
    """
    if quantizer is None:
        empty = np.empty(0, np.float32)
        return Matrix(layer, fmt, value, empty, empty, None)
    codes = quantizer.quantize(torch.from_numpy(value)).numpy()
    scales = quantizer.scale.numpy().reshape(len(value), -1)
    if quantizer.scheme.symmetric:
        return Matrix(layer, fmt, value, codes.astype(np.int8), scales, None)
    zeros = quantizer.zero_point.numpy().astype(np.uint8).reshape(scales.shape)
    return Matrix(layer, fmt, value, codes.astype(np.uint8), scales, zeros)


def check_kernel(layer: Layer, fmt: Format) -> None:
    """Check that a kernel reads the weights of a layer in a format.

    Raises
    ------
    InputError
        If none does.
    """
    assert layer.weight_shape is not None
    columns, group = layer.weight_shape[-1], fmt.weight_granularity.group
    if fmt.activation != FP32 or not fmt.quantizes_weights or fmt.weight.bits not in {4, 8}:
        raise InputError(
            f"OpenVINO and ONNX Runtime have no kernel for layer {layer.name!r} of a decoder in "
            f"{fmt}; search with formats such as fp32,w8,w4,w8g32,w4g32,w4g64,w4g32z, or export "
            "the plan to a .gguf file."
        )
    if group is not None and columns > group and columns % group:
        raise InputError(
            f"Layer {layer.name!r} reads {columns} numbers, which groups of {group} do not divide; "
            "search with smaller groups, or pin the layer to fp32."
        )


class Lookup:
    """Finds matrices in an exported program by their values, as exporters rename and join them.

    Parameters
    ----------
    matrices
        The matrices, each of which a program has once.
    """

    def __init__(self, matrices: Iterable[Matrix]) -> None:
        self._left: defaultdict[bytes, list[Matrix]] = defaultdict(list)
        for matrix in matrices:
            self._left[_key(matrix.value)].append(matrix)

    def parts(self, weight: Array) -> list[Matrix]:
        """Return the matrices that a weight, (outputs, inputs), joins by their outputs.

        The list is empty if it holds anything else.
        """
        parts: list[Matrix] = []
        start = 0
        while start < len(weight):
            found = self._first(weight[start:])
            if found is None:
                return []
            parts.append(found)
            start += len(found.value)
        for part in parts:
            self._left[_key(part.value)].remove(part)
        return parts

    def _first(self, weight: Array) -> Matrix | None:
        """Return the matrix with which a weight begins."""
        for matrix in self._left.get(_key(weight), ()):
            if np.array_equal(matrix.value, weight[: len(matrix.value)]):
                return matrix
        return None

    def check_all_found(self) -> None:
        """Raise `GraphError` if a program lacks a matrix that is to be stored as integers.

        Exporters multiply some weights by constants, as that of a cap of logits. Those that stay
        float32 may be changed so.
        """
        for matrix in (m for left in self._left.values() for m in left):
            if matrix.fmt.quantizes_weights:
                raise GraphError(
                    f"The exporter joins the weight of {matrix.layer!r} with operators beside it, "
                    "and it cannot be stored as integers then; pin that layer to fp32, or export "
                    "the plan to a .gguf file."
                )


def _key(weight: Array) -> bytes:
    return np.ascontiguousarray(weight[0]).tobytes()


def is_half(values: Array) -> bool:
    """Whether all values of an array are float16 numbers."""
    return values.dtype == np.float32 and np.array_equal(
        values, values.astype(np.float16).astype(np.float32)
    )
