"""Bfloat16 between all integer layers, as a setting of OpenVINO instead of casts in the model."""

import numpy as np
import onnx
import openvino
from onnx import TensorProto, numpy_helper

from aiq.runtimes.openvino_core import core

PRECISION = "INFERENCE_PRECISION_HINT"
"""Setting of the dtype in which OpenVINO computes what is float32 in a model."""

_NARROW = "aiq_precision"
"""Key of the note in the metadata of an ONNX model."""


def widen(model: onnx.ModelProto) -> None:
    """Write float32 where the model has bfloat16, and note that OpenVINO is to choose bfloat16.

    Casts to bfloat16 hide integers from the low-precision transformations, and end the sequences of
    operators that the CPU plugin merges into one kernel. If everything between the layers is
    bfloat16, the plugin's own setting says the same without casts. `read` sets it.

    Parameters
    ----------
    model
        The model, which is changed.
    """
    graph = model.graph
    for value in graph.value_info:
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    constants = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                constants.append(attribute.t)
            elif node.op_type == "Cast" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
    for constant in constants:
        if constant.data_type == TensorProto.BFLOAT16:
            exact = numpy_helper.to_array(constant).astype(np.float32)
            constant.CopyFrom(numpy_helper.from_array(exact, constant.name))
    note = model.metadata_props.add()
    note.key, note.value = _NARROW, "bf16"


def read(content: bytes) -> openvino.Model:
    """Return a serialised ONNX model, with the setting that `widen` noted."""
    model = core().read_model(content)
    if model.has_rt_info(["framework", _NARROW]):
        model.set_rt_info("bf16", ["runtime_options", PRECISION])
    return model


def precision(model: openvino.Model) -> str:
    """Return the dtype in which OpenVINO is to compute what is float32 in a model."""
    return "bf16" if model.has_rt_info(["runtime_options", PRECISION]) else "f32"
