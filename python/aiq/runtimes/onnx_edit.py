"""Edits of an ONNX model that let ONNX Runtime use its integer kernels."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from aiq.formats import Format
from aiq.runtimes.onnx_graph import MULTIPLY


class _Weight(NamedTuple):
    """Quantised weights of a layer: codes, (rows, columns), and scales, (rows, groups)."""

    codes: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    group: int | None


def _weights(
    graph: onnx.GraphProto, formats: Mapping[str, Format]
) -> Iterator[tuple[int, onnx.NodeProto, onnx.NodeProto, _Weight]]:
    """Yield index, node, dequantize node and weights of each weight-only layer."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    writers = {name: node for node in graph.node for name in node.output}
    for index, node in enumerate(list(graph.node)):
        if node.name not in formats or node.op_type not in MULTIPLY:
            continue
        dequantize = _dequantized_by(node.input[1], writers)
        if dequantize is None:
            continue
        codes, scale = (numpy_helper.to_array(constants[name]) for name in dequantize.input[:2])
        group = formats[node.name].weight_granularity.group
        if group is not None:
            shape = constants[_joined(graph, dequantize).input[1]]
            codes = codes.reshape(numpy_helper.to_array(shape))
        yield index, node, dequantize, _Weight(codes, scale.reshape(len(codes), -1), group)


def pack_weights(model: onnx.ModelProto, formats: Mapping[str, Format]) -> None:
    """Store the weights of weight-only layers as integers, with float32 activations.

    Weights of four bits become operands of ``MatMulNBits`` at the accuracy level that does not
    round activations. At that level its kernel for eight bits is many times slower than a float32
    product. Weights of eight bits are therefore unpacked by a cast and a product with their scales,
    which ONNX Runtime computes once when it opens the model.

    Parameters
    ----------
    model
        The model, whose nodes have the names of their layers; it is changed.
    formats
        Layer name -> format, for the layers to be packed.
    """
    graph = model.graph
    for _, node, _, weight in reversed(list(_weights(graph, formats))):
        if formats[node.name].weight.bits == 4:
            _pack_four_bits(graph, node, weight)
        else:
            _unpack_eight_bits(graph, node, weight)
    if formats:
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    _prune(graph)


def _pack_four_bits(graph: onnx.GraphProto, node: onnx.NodeProto, weight: _Weight) -> None:
    size = weight.group or _BLOCK
    rows, columns = weight.codes.shape
    blocks = -(-columns // size)
    unsigned = np.full((rows, blocks * size), 8, dtype=np.uint8)
    unsigned[:, :columns] = weight.codes.astype(np.int16) + 8
    scales = "group_scales" if weight.group else "scales"
    parts = {
        "weight": (unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)).reshape(rows, blocks, -1),
        scales: np.ascontiguousarray(np.broadcast_to(weight.scales, (rows, blocks))),
    }
    for part, values in parts.items():
        graph.initializer.append(numpy_helper.from_array(values, _packed(node, part)))
    inputs = [node.input[0], *(_packed(node, part) for part in parts)]
    if len(node.input) == 3:  # the bias of a Gemm, after two optional operands that are left out
        inputs += ["", "", node.input[2]]
    replacement = helper.make_node(
        "MatMulNBits",
        inputs,
        node.output,
        name=node.name,
        domain="com.microsoft",
        K=columns,
        N=rows,
        bits=4,
        block_size=size,
        accuracy_level=_FLOAT32,
    )
    node.CopyFrom(replacement)


def _unpack_eight_bits(graph: onnx.GraphProto, node: onnx.NodeProto, weight: _Weight) -> None:
    rows, columns = weight.codes.shape
    fmt = f"w8g{weight.group}" if weight.group else "w8"
    codes = weight.codes.astype(np.int8).reshape(rows, weight.scales.shape[1], -1)
    parts = ("codes", "cast", "steps", "product", "shape", "rows", f"unpacked_{fmt}")
    names = [_packed(node, part) for part in parts]
    steps = np.ascontiguousarray(weight.scales[..., None])
    shape = np.array([rows, columns], dtype=np.int64)
    for name, values in ((names[0], codes), (names[2], steps), (names[4], shape)):
        graph.initializer.append(numpy_helper.from_array(values, name))
    transposes = any(a.name == "transB" and a.i for a in node.attribute)
    unpack = [
        helper.make_node("Cast", [names[0]], [names[1]], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [names[1], names[2]], [names[3]]),
        helper.make_node("Reshape", [names[3], names[4]], [names[6] if transposes else names[5]]),
    ]
    if not transposes:
        unpack.append(helper.make_node("Transpose", [names[5]], [names[6]], perm=[1, 0]))
    node.input[1] = names[6]
    for made in reversed(unpack):
        graph.node.insert(0, made)


def block(model: onnx.ModelProto, formats: Mapping[str, Format]) -> None:
    """Store weight-only layers in standard ONNX: INT4 for four bits, and blocks for groups."""
    graph = model.graph
    for _, node, dequantize, weight in list(_weights(graph, formats)):
        fmt = formats[node.name]
        dtype = onnx.TensorProto.INT4 if fmt.weight.bits == 4 else onnx.TensorProto.INT8
        zeros = np.zeros(weight.scales.shape, dtype=np.int8)
        scales = weight.scales
        if weight.group is None:
            zeros, scales = zeros[:, 0], scales[:, 0]
        names = [_packed(node, part) for part in ("codes", "scales", "zero_points")]
        for name, values in ((names[0], weight.codes), (names[2], zeros)):
            tensor = helper.make_tensor(name, dtype, values.shape, values.ravel())
            graph.initializer.append(tensor)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(scales), names[1]))
        dequantize.input[:] = names
        if weight.group is not None:
            reshape = _joined(graph, dequantize)
            dequantize.output[:] = reshape.output
            graph.node.remove(reshape)
            dequantize.attribute.append(helper.make_attribute("block_size", weight.group))
            axis = next(a for a in dequantize.attribute if a.name == "axis")
            axis.i = 1
    _prune(graph)


PACKED_CODES = ":packed_codes"
"""End of the name of the integer weights of a weight-only layer; the layer's name is before it."""


def _packed(node: onnx.NodeProto, part: str) -> str:
    """Return the name of a constant of a weight-only layer, which no tensor of the model has."""
    return f"{node.name}:packed_{part}"


def _joined(graph: onnx.GraphProto, dequantize: onnx.NodeProto) -> onnx.NodeProto:
    """Return the reshape that joins the groups of `dequantize` into channels."""
    return next(node for node in graph.node if dequantize.output[0] in node.input)


_BLOCK = 32

_FLOAT32 = 1
"""Accuracy level of ``MatMulNBits`` that does not round activations."""


def _prune(graph: onnx.GraphProto) -> None:
    """Remove nodes and constants that no node reads."""
    results = {value.name for value in graph.output}
    while True:
        used = results | set(_read(graph))
        dead = [node for node in graph.node if not used & set(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names that nodes of a graph read, including those in branches and loops."""
    for node in graph.node:
        yield from node.input
        for part in node.attribute:
            for inner in (part.g, *part.graphs):
                yield from _read(inner)
                yield from (value.name for value in inner.output)


def quantize_biases(model: onnx.ModelProto) -> None:
    """Store the biases of quantised layers as int32, without which the layers are not fused."""
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
        codes = np.rint(values / step.astype(np.float64))  # fits 32 bits by the weights' scales
        names = [f"{product.name}_bias_{part}" for part in ("codes", "scale", "dequantized")]
        graph.initializer.append(numpy_helper.from_array(codes.astype(np.int32), names[0]))
        graph.initializer.append(numpy_helper.from_array(step, names[1]))
        added.append(helper.make_node("DequantizeLinear", names[:2], names[2:], axis=0))
        node.input[index] = names[2]
    nodes = [*added, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def pool_means(model: onnx.ModelProto) -> None:
    """Replace means over images by ``GlobalAveragePool``, which has an integer kernel."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    for index, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "ReduceMean" or len(node.input) < 2 or shapes.get(node.input[0]) != 4:
            continue
        axes = numpy_helper.to_array(constants[node.input[1]]) if node.input[1] in constants else []
        if {int(axis) % 4 for axis in axes} != {2, 3}:
            continue
        keeps = all(a.i for a in node.attribute if a.name == "keepdims")
        source, axis_name, (result,) = node.input[0], node.input[1], node.output
        pooled = result if keeps else f"{result}_pooled"
        if not keeps:
            graph.node.insert(index + 1, helper.make_node("Squeeze", [pooled, axis_name], [result]))
        node.CopyFrom(helper.make_node("GlobalAveragePool", [source], [pooled], name=node.name))


def keep_pools(model: onnx.ModelProto) -> None:
    """Keep maximum pooling of float32 values before their quantisation.

    ONNX Runtime moves the quantisation before the pooling, whose kernel for 8-bit images with
    channels first is slow: 3.4 ms for 64 channels of 111 x 111 on an EPYC Zen 3, where float32
    takes 0.1 ms. It only moves quantisations with a single scale, so the scale is repeated for
    every channel, which computes the same. Pooling of values that are quantised already is not
    changed, as its kernel with channels last is fast.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    writers = {name: node for node in graph.node for name in node.output}
    channels = {
        value.name: value.type.tensor_type.shape.dim[1].dim_value
        for value in graph.value_info
        if len(value.type.tensor_type.shape.dim) > 1
    }
    for node in graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        pool, count = writers.get(node.input[0]), channels.get(node.input[0])
        if pool is None or pool.op_type != "MaxPool" or not count:
            continue
        if _is_quantized(pool.input[0], writers):
            continue
        for index, part in ((1, "scale"), (2, "zero_point")):
            value = numpy_helper.to_array(constants[node.input[index]])
            name = f"{node.output[0]}_{part}_by_channel"
            repeated = np.full(count, value, dtype=value.dtype)
            graph.initializer.append(numpy_helper.from_array(repeated, name))
            node.input[index] = name
        axis = next((a for a in node.attribute if a.name == "axis"), None) or node.attribute.add()
        axis.CopyFrom(helper.make_attribute("axis", 1))


def _is_quantized(name: str, writers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether the value `name` is computed in 8 bits."""
    node = writers.get(name)
    if node is None:
        return False
    if node.op_type in {"Relu", "Clip", "MaxPool"}:
        return _is_quantized(node.input[0], writers)
    if node.op_type == "Concat":
        return all(_is_quantized(value, writers) for value in node.input)
    return bool(node.op_type == "DequantizeLinear")


def _scale(
    name: str, writers: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> onnx.TensorProto | None:
    """Return the scale with which the value `name` was dequantised, if it was."""
    node = _dequantized_by(name, writers)
    return None if node is None else constants[node.input[1]]


def _dequantized_by(name: str, writers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    node = writers.get(name)
    while node is not None and node.op_type in {"Transpose", "Reshape"}:
        node = writers.get(node.input[0])
    return node if node is not None and node.op_type == "DequantizeLinear" else None
