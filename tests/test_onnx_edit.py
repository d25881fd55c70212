"""Edits of ONNX models against the reference interpreter of ONNX."""

import numpy as np
import onnx
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
