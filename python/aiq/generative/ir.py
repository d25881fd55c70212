"""The weights of a plan in an OpenVINO model, as its CPU plugin reads them.

Integers, zero points and scales are constants of their own, and operators between them and the
product compute the weight. The plugin multiplies by the integers without computing it.
"""

from collections.abc import Iterable

import numpy as np
import openvino
from openvino import Type, opset13

from aiq.generative.matrices import Lookup, Matrix, is_half


def compress(model: openvino.Model, matrices: Iterable[Matrix]) -> None:
    """Store the weights of a model in their formats, and embeddings in float16.

    Parameters
    ----------
    model
        The model, which is changed.
    matrices
        The weights of all linear layers.

    Raises
    ------
    GraphError
        If the model lacks one that is to be stored as integers.
    """
    lookup = Lookup(matrices)
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        table = node.input_value(0).get_node() if kind == "Gather" else None
        if table is not None and table.get_type_name() == "Constant":
            if len(table.shape) == 2 and is_half(table.data):
                half = opset13.constant(table.data.astype(np.float16))
                node.input(0).replace_source_output(opset13.convert(half, Type.f32).output(0))
        elif kind == "MatMul" and node.input_value(1).get_node().get_type_name() == "Constant":
            _compress(node, lookup)
    lookup.check_all_found()
    model.validate_nodes_and_infer_types()


def _compress(node: openvino.Node, lookup: Lookup) -> None:
    """Replace a product with a float32 constant by one with its integers."""
    constant, attributes = node.input_value(1).get_node(), node.get_attributes()
    if len(constant.shape) != 2 or constant.get_element_type() != Type.f32:
        return
    parts = lookup.parts(constant.data if attributes["transpose_b"] else constant.data.T)
    if not parts or not parts[0].fmt.quantizes_weights:
        return
    (matrix,) = parts
    product = opset13.matmul(
        node.input_value(0), _weight(matrix), attributes["transpose_a"], transpose_b=True
    )
    product.set_friendly_name(matrix.layer)
    for reader in node.output(0).get_target_inputs():
        reader.replace_source_output(product.output(0))


def _weight(matrix: Matrix) -> openvino.Node:
    """Return the operators that compute a weight from its integers.

    Scales of groups are float16 numbers, and those of channels float32.
    """
    rows, groups = matrix.scales.shape
    one = () if groups == 1 else (groups,)
    bits, is_signed = matrix.fmt.weight.bits, matrix.zero_points is None
    stored = getattr(Type, f"{'i' if is_signed else 'u'}{bits}")
    wide = Type.f16 if groups > 1 else Type.f32
    codes = opset13.constant(matrix.codes.reshape(rows, *one, -1), dtype=stored)
    found = opset13.convert(codes, wide)
    if matrix.zero_points is not None:
        zeros = opset13.constant(matrix.zero_points.reshape(rows, *one, 1), dtype=stored)
        found = opset13.subtract(found, opset13.convert(zeros, wide))
    scales = matrix.scales.reshape(rows, *one, 1)
    found = opset13.multiply(found, opset13.constant(scales, dtype=wide))
    if groups > 1:
        shape = opset13.constant(np.array(matrix.codes.shape), dtype=Type.i64)
        found = opset13.convert(opset13.reshape(found, shape, special_zero=False), Type.f32)
    return found
