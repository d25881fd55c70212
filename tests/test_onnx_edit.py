"""Edits of ONNX models against the reference interpreter of ONNX."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from aiq.runtimes import onnx_edit


def means(axes, keeps, shape=(2, 3, 4, 5)):
    """Return a model that takes a mean of what a ReLU returns, and its result's shape."""
    left = [1 if i in {a % 4 for a in axes} else n for i, n in enumerate(shape)]
    result = left if keeps else [n for i, n in enumerate(shape) if i not in {a % 4 for a in axes}]
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["y"]),
            helper.make_node("ReduceMean", ["y", "axes"], ["z"], keepdims=int(keeps)),
        ],
        "means",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, result)],
        [numpy_helper.from_array(np.array(axes, np.int64), "axes")],
        value_info=[helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("axes", [(2, 3), (-1, -2)])
def test_a_mean_over_images_is_a_pooling_of_the_same_result(axes, keeps):
    model = means(axes, keeps)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    onnx_edit.pool_means(model)
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds[1] == "GlobalAveragePool"
    (pooled,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert pooled.shape == expected.shape
    np.testing.assert_allclose(pooled, expected, rtol=1e-6)


@pytest.mark.parametrize("axes", [(1,), (1, 2), (3,), (0, 2, 3)])
def test_other_means_stay(axes):
    model = means(axes, keeps=True)
    before = model.SerializeToString()
    onnx_edit.pool_means(model)
    assert model.SerializeToString() == before


def pooled(*sources: str):
    """Return a maximum of the concatenated `sources` (``float`` or ``int8``), quantised."""
    nodes, joined = [], []
    for index, source in enumerate(sources):
        value = "x"
        if source == "int8":
            code, value = f"code_{index}", f"value_{index}"
            nodes.append(helper.make_node("QuantizeLinear", ["x", "scale", "zero"], [code]))
            nodes.append(helper.make_node("DequantizeLinear", [code, "scale", "zero"], [value]))
        nodes.append(helper.make_node("Relu", [value], [f"relu_{index}"]))
        joined.append(f"relu_{index}")
    nodes += [
        helper.make_node("Concat", joined, ["all"], axis=1),
        helper.make_node("MaxPool", ["all"], ["most"], kernel_shape=[2, 2]),
        helper.make_node("QuantizeLinear", ["most", "scale", "zero"], ["y"], name="last"),
    ]
    constants = [
        numpy_helper.from_array(np.float32(0.02), "scale"),
        numpy_helper.from_array(np.uint8(7), "zero"),
    ]
    shapes = [(2, 3, 4, 5), (2, 3 * len(sources), 3, 4)]
    x, y = (
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in zip(
            "xy", (TensorProto.FLOAT, TensorProto.UINT8), shapes, strict=True
        )
    )
    graph = helper.make_graph(nodes, "pooled", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("sources", [("float",), ("float", "int8"), ("int8", "float")])
def test_float32_is_pooled_before_it_is_quantized(sources, tmp_path):
    model = pooled(*sources)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert run(model, x, tmp_path)[1] == [TensorProto.UINT8]
    onnx_edit.keep_pools(model)
    onnx.checker.check_model(model, full_check=True)
    found, dtypes = run(model, x, tmp_path)
    np.testing.assert_array_equal(found, expected)
    assert dtypes == [TensorProto.FLOAT]


def test_maxima_of_8_bits_stay():
    model = pooled("int8", "int8")
    before = model.SerializeToString()
    onnx_edit.keep_pools(model)
    assert model.SerializeToString() == before


def run(model, x, folder):
    """Return what ONNX Runtime computes, and the dtypes in which it takes maxima."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    graph = onnx.shape_inference.infer_shapes(onnx.load(options.optimized_model_filepath)).graph
    dtypes = {v.name: v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.output]}
    return session.run(None, {"x": x})[0], [
        dtypes[node.output[0]] for node in graph.node if node.op_type == "MaxPool"
    ]
