"""ONNX Runtime: int8 convolutions, products and additions; four-bit weights of linear layers."""

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch.utils import _pytree as pytree

from aiq.export import Inputs
from aiq.formats import Format
from aiq.graph import Op, trace
from aiq.runtimes.base import Compiled, Support, compiled, leaves, resolve
from aiq.runtimes.kernels import Kernel, assign
from aiq.runtimes.onnx_graph import MULTIPLY, to_onnx
from aiq.runtimes.rewrite import rewrite

OPSET = 21
"""The newest operators whose quantised forms ONNX Runtime fuses."""

_ABSORBED = frozenset({"relu", "relu6", "hardtanh", "clamp"})
"""What QLinearConv and QGemm do to their result: everything that is a clamp."""

_WEIGHTED = {Op.CONV, Op.POINTWISE, Op.DEPTHWISE, Op.GROUPED, Op.LINEAR}


class OnnxRuntime:
    """ONNX Runtime's CPU provider on a QDQ model (uint8 activations, int8 weights per channel)."""

    name = "onnxruntime"

    @property
    def version(self) -> str:
        """Version of ONNX Runtime."""
        return f"onnxruntime-{onnxruntime.__version__}"

    def support(self, op: Op, fmt: Format) -> Support:
        """Return the kind of support; its CPU kernels know no bfloat16."""
        if fmt.name == "fp32":
            return Support.NATIVE
        if fmt.name == "bf16" or op not in _WEIGHTED:
            return Support.NONE
        return Support.NATIVE if fmt.name == "w8a8" else Support.EMULATED

    def compile(
        self,
        model: torch.nn.Module,
        example_inputs: Inputs,
        formats: Mapping[str, Format],
        calibration: Iterable[Inputs] = (),
        *,
        emulate: bool = False,
    ) -> Compiled:
        """Compile `model`; see `Runtime.compile`."""
        traced = trace(model, example_inputs)
        resolved = resolve(self, traced.graph, formats, emulate=emulate)
        rewritten = rewrite(traced, example_inputs, resolved, calibration, absorbed=_ABSORBED)
        converted = to_onnx(rewritten, leaves(example_inputs), OPSET)
        _quantize_biases(converted.proto)
        function, optimized = load(converted.proto.SerializeToString(), converted.returns)
        kernels = assign(_kernels(optimized, converted.labels))
        return compiled(self, resolved, kernels, example_inputs, function)


def load(
    model: bytes | str, returns: pytree.TreeSpec
) -> tuple[Callable[..., Any], onnx.ModelProto]:
    """Return a function that runs the model (its bytes, or its path) and the optimised model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Waiting threads would otherwise burn the processor that others are timed on.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        session = onnxruntime.InferenceSession(
            model,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=_DISABLED,
        )
        proto = onnx.load(optimized)
    names = [value.name for value in session.get_inputs()]

    def run(*inputs: torch.Tensor) -> Any:  # noqa: ANN401 - what the model returns
        feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        outputs = [torch.from_numpy(value) for value in session.run(None, feed)]
        return pytree.tree_unflatten(outputs, returns)

    return run, proto


_DISABLED = ["WeightBiasQuantization"]
"""Rounds float32 weights between two quantised layers, which no plan asked for."""

_FORMATS = {
    **dict.fromkeys(("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"), "w8a8"),
    **dict.fromkeys(("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm"), "fp32"),
    **dict.fromkeys(("MatMul", "FusedMatMul"), "fp32"),
}


def _kernels(optimized: onnx.ModelProto, labels: Mapping[str, tuple[str, ...]]) -> Iterator[Kernel]:
    """Return the multiplications of the optimised model."""
    for node in optimized.graph.node:
        if node.op_type in _FORMATS:
            # The optimiser appends to the names of the nodes, or values, that it replaces.
            name = node.name if node.name in labels else re.sub(_SUFFIX, "", node.name)
            domain = f"{node.domain}." if node.domain else ""
            kind = domain + node.op_type
            yield Kernel(kind, _FORMATS[node.op_type], labels.get(name, ()))


_SUFFIX = r"(_token_\d+|_nchwc|_nchw|/\w+)+$"


def _quantize_biases(model: onnx.ModelProto) -> None:
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
    node = writers.get(name)
    if node is not None and node.op_type == "Transpose":
        node = writers.get(node.input[0])
    if node is None or node.op_type != "DequantizeLinear":
        return None
    return constants[node.input[1]]
