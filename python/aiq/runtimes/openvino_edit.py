"""Edits that an ONNX model needs before OpenVINO computes it as it is written."""

import onnx
from onnx import helper

_QUANTIZED = {"QuantizeLinear", "DequantizeLinear"}


def keep_products_apart(model: onnx.ModelProto) -> None:
    """Keep OpenVINO from merging small quantised matrix products into one kernel.

    Its CPU plugin merges products of matrices with what stands between them where both are small
    (``TokenizeMLPSeqSnippets`` in OpenVINO 2026.4). In the merged kernel, a product without a bias
    whose result is rounded next is read in the wrong dtype: the output is off by a factor of 1e10.
    With a bias the kernel is right, but does not say in which format it computes. So the result of
    every product goes through a ``LeakyRelu`` of slope 1, which is exact. It ends the sequence of
    operators that the plugin merges, and is computed by the kernel of the product itself. Networks
    that quantise nothing are left as they are: their merged kernels are right, and faster.

    Parameters
    ----------
    model
        Is changed. The shapes of its values are known.
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
