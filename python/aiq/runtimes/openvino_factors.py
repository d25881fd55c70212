"""Signed integers for the factors of products in attention, which OpenVINO then multiplies."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

_PASSED = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Gather", "Mul", "Cast"}
"""Operators between the rounding of a factor and the product."""

_MIDDLE = 128
"""The middle integer of eight bits, which is the zero point of a symmetric range."""

_ZERO = "zero_point_of_factors"


def sign(model: onnx.ModelProto) -> None:
    """Let both factors of a product be signed if the zero point of both is the middle integer.

    The values are the same. The low-precision transformations subtract the zero point of unsigned
    integers before they multiply, and multiply in floating point.

    Parameters
    ----------
    model
        The model, which is changed.
    """
    graph = model.graph
    writers = {name: node for node in graph.node for name in node.output}
    middles = {
        value.name
        for value in graph.initializer
        if value.data_type == TensorProto.UINT8 and numpy_helper.to_array(value).tolist() == _MIDDLE
    }
    signed: set[str] = set()
    for node in graph.node:
        if node.op_type == "MatMul":
            codes = [_codes(value, writers, middles) for value in node.input]
            signed |= set(codes) if all(codes) else set()
    if not signed:
        return
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), _ZERO))
    for node in graph.node:
        is_written = node.op_type == "QuantizeLinear" and node.output[0] in signed
        if is_written or (node.op_type == "DequantizeLinear" and node.input[0] in signed):
            node.input[2] = _ZERO
    for value in graph.value_info:
        if value.name in signed:
            value.type.tensor_type.elem_type = TensorProto.INT8


def are_packed(model: onnx.ModelProto) -> bool:
    """Whether both factors of every product of integers are parts of one tensor."""
    writers = {name: node for node in model.graph.node for name in node.output}
    products = (node for node in model.graph.node if node.op_type == "MatMul")
    factors = ([_codes(value, writers) for value in node.input] for node in products)
    return all(first == second for first, second in factors if first and second)


def _codes(
    value: str, writers: Mapping[str, NodeProto], zero_points: set[str] | None = None
) -> str:
    """Return the integers of which `value` consists, or ``""`` if there are none.

    If zero points are given, only integers with one of them count.
    """
    while value in writers and writers[value].op_type in _PASSED:
        value = writers[value].input[0]
    reader = writers.get(value)
    if reader is None or reader.op_type != "DequantizeLinear":
        return ""
    writer = writers.get(reader.input[0])
    if writer is None or writer.op_type != "QuantizeLinear":
        return ""
    is_meant = zero_points is None or writer.input[2] in zero_points
    return str(reader.input[0]) if is_meant else ""
