"""Edits that an ONNX model needs before ONNX Runtime finds its integer kernels."""

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from aiq.runtimes.onnx_graph import MULTIPLY


def pack(model: onnx.ModelProto, bits: Mapping[str, int]) -> None:
    """Replace the products of weight-only layers by ``MatMulNBits``.

    The kernel rounds the activations to eight bits, each block of `_BLOCK` with a scale of its
    own, as its float32 variant is slower than a float32 product.

    Parameters
    ----------
    model
        Its nodes are called like their layers.
    bits
        Layer -> bits of its weights.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    writers = {name: node for node in graph.node for name in node.output}
    for index, node in enumerate(list(graph.node)):
        if node.name not in bits or node.op_type not in MULTIPLY:
            continue
        weight = _dequantized_by(node.input[1], writers)
        if weight is None:
            continue
        width = bits[node.name]
        codes, scale = (numpy_helper.to_array(constants[name]) for name in weight.input[:2])
        rows, columns = codes.shape
        blocks = -(-columns // _BLOCK)
        zero = 1 << (width - 1)
        unsigned = np.full((rows, blocks * _BLOCK), zero, dtype=np.uint8)
        unsigned[:, :columns] = codes.astype(np.int16) + zero
        if width == 4:
            unsigned = unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)
        parts = {
            "weight": unsigned.reshape(rows, blocks, -1),
            "scales": np.repeat(scale[:, None], blocks, axis=1).astype(np.float32),
        }
        for part, values in parts.items():
            graph.initializer.append(numpy_helper.from_array(values, f"{node.name}_{part}"))
        inputs = [node.input[0], *(f"{node.name}_{part}" for part in parts)]
        if len(node.input) == 3:  # the bias of a Gemm; zero points and order are left out
            inputs += ["", "", node.input[2]]
        replacement = helper.make_node(
            "MatMulNBits",
            inputs,
            node.output,
            name=node.name,
            domain="com.microsoft",
            K=columns,
            N=rows,
            bits=width,
            block_size=_BLOCK,
            accuracy_level=4,
        )
        graph.node[index].CopyFrom(replacement)
    if bits:
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    _prune(graph)


def narrow(model: onnx.ModelProto, layers: Collection[str]) -> None:
    """Store the codes of `layers`, weight-only of four bits, in four bits instead of a byte."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    writers = {name: node for node in graph.node for name in node.output}
    for node in [n for n in graph.node if n.name in layers and n.op_type in MULTIPLY]:
        weight = _dequantized_by(node.input[1], writers)
        if weight is None:
            continue
        for index, part in ((0, "codes"), (2, "zero_points")):
            values = numpy_helper.to_array(constants[weight.input[index]])
            name = f"{node.name}_{part}"
            tensor = helper.make_tensor(name, onnx.TensorProto.INT4, values.shape, values.ravel())
            graph.initializer.append(tensor)
            weight.input[index] = name
    _prune(graph)


_BLOCK = 32


def _prune(graph: onnx.GraphProto) -> None:
    """Remove the nodes and constants that nothing reads."""
    results = {value.name for value in graph.output}
    while True:
        used = results | {name for node in graph.node for name in node.input}
        dead = [node for node in graph.node if not used & set(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def quantize_biases(model: onnx.ModelProto) -> None:
    """Store the biases of quantised layers as int32: only so are the layers fused."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    writers = {name: node for node in graph.node for name in node.output}
    added = []
    for node in graph.node:
        if node.op_type == "Add" and node.input[0] in writers:  # the bias of a product before it
            product, index = writers[node.input[0]], 1
        else:
            product, index = node, 2
        if product.op_type not in MULTIPLY or len(node.input) <= index:
            continue
        scales = [_scale(name, writers, constants) for name in product.input[:2]]
        bias = constants.get(node.input[index])
        if bias is None or not all(scales):
            continue
        activation, weight = (numpy_helper.to_array(scale) for scale in scales if scale)
        step = np.asarray(activation * weight, dtype=np.float32)
        values = numpy_helper.to_array(bias)
        if step.shape != values.shape:
            continue
        limits = np.iinfo(np.int32)
        codes = np.rint(values / step.astype(np.float64)).clip(limits.min, limits.max)
        names = [f"{product.name}_bias_{part}" for part in ("codes", "scale", "dequantized")]
        graph.initializer.append(numpy_helper.from_array(codes.astype(np.int32), names[0]))
        graph.initializer.append(numpy_helper.from_array(step, names[1]))
        added.append(helper.make_node("DequantizeLinear", names[:2], names[2:], axis=0))
        node.input[index] = names[2]
    nodes = [*added, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _scale(
    name: str, writers: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> onnx.TensorProto | None:
    """Return the scale with which the value `name` was dequantised."""
    node = _dequantized_by(name, writers)
    return None if node is None else constants[node.input[1]]


def _dequantized_by(name: str, writers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    node = writers.get(name)
    if node is not None and node.op_type == "Transpose":
        node = writers.get(node.input[0])
    return node if node is not None and node.op_type == "DequantizeLinear" else None
