"""Edits of an ONNX model without which OpenVINO computes wrong results."""

from collections.abc import Collection, Mapping

import onnx
from onnx import helper, numpy_helper

from aiq.runtimes.onnx_graph import MULTIPLY

_QUANTIZED = {"QuantizeLinear", "DequantizeLinear"}

_CROSSED = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "MaxPool"}
"""Operators that the low-precision transformations apply to integers."""

_SMALLEST_SCALE = 1e-6
"""Scale below which sums are kept apart: OpenVINO is right at 2e-7 and wrong at 2e-8."""


def keep_sums_apart(model: onnx.ModelProto) -> None:
    """Keep OpenVINO from misreading sums of tensors with tiny scales.

    If the scale of a dequantised tensor in a sum is about 1e-8, the low-precision transformations
    of OpenVINO 2026.4 take it for zero, and the error exceeds the output itself. Such scales are
    usual if activations vanish, as in deep networks with random weights. In such sums, a
    ``LeakyRelu`` of slope 1 is applied to the dequantised tensors; it is exact, and the
    transformations do not cross it.

    Parameters
    ----------
    model
        The model, which is changed.
    """
    graph = model.graph
    constants = {value.name: value for value in graph.initializer}
    scales = {
        node.output[0]: numpy_helper.to_array(constants[node.input[1]]).min()
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[1] in constants
    }
    for index, node in reversed(list(enumerate(graph.node))):
        dequantized = [(i, name) for i, name in enumerate(node.input) if name in scales]
        if node.op_type != "Add" or all(scales[n] >= _SMALLEST_SCALE for _, n in dequantized):
            continue
        for which, _ in dequantized:
            _read_apart(graph, index, which)


def keep_means_apart(model: onnx.ModelProto) -> None:
    """Keep OpenVINO from computing means and sums on integers where its results are wrong.

    The low-precision transformations of OpenVINO 2026.4 compute them on the integers of a quantised
    tensor. In two cases a ``LeakyRelu`` of slope 1 is therefore applied to what they read; it is
    exact, and the transformations do not cross it.

    * The mean counts padding, be it that of a ``Pad`` before it. The zeros around the tensor then
      stand for another number than zero, and the border is wrong.
    * The second of three dimensions is reduced, as in the mean over the positions of a sequence,
      and there are several samples. The kernel then reads memory that nothing has written.

    Parameters
    ----------
    model
        The model, which is changed.
    """
    graph = model.graph
    if not any(node.op_type in _QUANTIZED for node in graph.node):
        return
    writers = {name: node for node in graph.node for name in node.output}
    constants = {value.name: value for value in graph.initializer}
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    for index, node in reversed(list(enumerate(graph.node))):
        if node.op_type == "AveragePool":
            is_wrong = _counts_padding(node, writers)
        elif node.op_type in {"ReduceMean", "ReduceSum"}:
            is_wrong = _reduces_second(node, shapes.get(node.input[0]), constants)
        else:
            continue
        if is_wrong:
            _read_apart(graph, index)


def _reduces_second(
    node: onnx.NodeProto, shape: list[int] | None, constants: Mapping[str, onnx.TensorProto]
) -> bool:
    """Whether a reduction is over the second of three dimensions of several samples, or may be."""
    if shape is None:  # of a value that an edit has made
        return True
    if len(shape) != 3 or shape[0] == 1:  # a number of samples that is not fixed is 0
        return False
    axes = [numpy_helper.to_array(constants[name]) % 3 for name in node.input[1:2]]
    reduced = {int(axis) for axis in axes[0]} if axes else {0, 1, 2}
    return 1 in reduced and 0 not in reduced


def _counts_padding(pooling: onnx.NodeProto, writers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether the means of an average pooling count padding."""
    said = {a.name: helper.get_attribute_value(a) for a in pooling.attribute}
    writer = writers.get(pooling.input[0])
    is_padded = writer is not None and writer.op_type == "Pad"
    return is_padded or bool(said.get("count_include_pad") and any(said.get("pads", ())))


def keep_products_apart(model: onnx.ModelProto) -> None:
    """Keep OpenVINO from merging small quantised matrix products into one kernel.

    Its CPU plugin merges small products of matrices with the operators between them
    (``TokenizeMLPSeqSnippets`` in OpenVINO 2026.4). In the merged kernel, a product without a bias
    whose result is rounded next is read in the wrong dtype: the output is wrong by a factor of
    1e10. With a bias the kernel is right, but does not report its format. Therefore a ``LeakyRelu``
    of slope 1 is applied to the result of every product. It is exact, it ends the sequence of
    operators that the plugin merges, and the kernel of the product computes it. Networks without
    quantisation are not changed, as their merged kernels are right, and faster.

    Parameters
    ----------
    model
        The model, which is changed.
    """
    graph = model.graph
    if not any(node.op_type in _QUANTIZED for node in graph.node):
        return
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output)
    }
    results = {value.name for value in graph.output}
    for index, node in reversed(list(enumerate(graph.node))):
        if node.op_type not in {"Gemm", "MatMul"} or ranks.get(node.output[0], 0) > 2:
            continue
        (result,) = node.output
        if result in results:
            continue
        product = f"{result}_product"
        node.output[0] = product
        same = helper.make_node("LeakyRelu", [product], [result], f"{result}_apart", alpha=1.0)
        graph.node.insert(index + 1, same)


def keep_activations_apart(model: onnx.ModelProto, layers: Collection[str]) -> None:
    """Keep OpenVINO from multiplying the weights of weight-only layers by integers.

    If the activations of such a layer are the dequantised result of another layer, the
    low-precision transformations of OpenVINO choose the integer kernel, as for ``w8a8``. The result
    is the same, but the format is not that of the plan, for which its time is predicted. Therefore
    a ``LeakyRelu`` of slope 1, which they do not cross, is applied to the activations.

    Parameters
    ----------
    model
        The model, whose nodes have the names of their layers; it is changed.
    layers
        Names of the weight-only layers.
    """
    graph = model.graph
    writers = {name: node for node in graph.node for name in node.output}
    for index, node in reversed(list(enumerate(graph.node))):
        if node.name not in layers or node.op_type not in MULTIPLY:
            continue
        writer = writers.get(node.input[0])
        while writer is not None and writer.op_type in _CROSSED:
            writer = writers.get(writer.input[0])
        if writer is not None and writer.op_type == "DequantizeLinear":
            _read_apart(graph, index)


def _read_apart(graph: onnx.GraphProto, index: int, which: int = 0) -> None:
    """Apply a ``LeakyRelu`` of slope 1 to an operand of the node at `index`."""
    node = graph.node[index]
    own = f"{node.output[0]}_operand_{which}"
    same = helper.make_node("LeakyRelu", [node.input[which]], [own], f"{own}_apart", alpha=1.0)
    node.input[which] = own
    graph.node.insert(index, same)
