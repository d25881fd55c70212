"""ONNX Runtime: int8 convolutions, products and additions; four-bit weights of linear layers."""

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch.utils import _pytree as pytree

from aiq.formats import Format
from aiq.graph import Op, Trace, trace
from aiq.graph.export import Inputs
from aiq.runtimes import onnx_edit
from aiq.runtimes.base import Compiled, Support, compiled, leaves, resolve
from aiq.runtimes.kernels import Kernel, assign
from aiq.runtimes.onnx_graph import OnnxModel, to_onnx
from aiq.runtimes.rewrite import rewrite

OPSET = 21
"""The newest operators whose quantised forms ONNX Runtime fuses."""

_ABSORBED = frozenset({"relu", "relu6", "hardtanh", "clamp"})
"""What QLinearConv and QGemm do to their result: everything that is a clamp."""

_PACKED = {"w8": 8, "w4": 4}
"""Weight-only formats with a kernel for linear layers, and their bits."""

_WEIGHTED = {Op.CONV, Op.POINTWISE, Op.DEPTHWISE, Op.GROUPED, Op.LINEAR}


class OnnxRuntime:
    """ONNX Runtime's CPU provider on a QDQ model (uint8 activations, int8 weights per channel)."""

    name = "onnxruntime"

    @property
    def version(self) -> str:
        """Version of ONNX Runtime."""
        return f"onnxruntime-{onnxruntime.__version__}"

    def support(self, op: Op, fmt: Format) -> Support:
        """Return the kind of support; its CPU kernels know no bfloat16 and no float16."""
        if fmt.name == "fp32":
            return Support.NATIVE
        if fmt.name in {"bf16", "fp16"} or op not in _WEIGHTED:
            return Support.NONE
        if fmt.name in _PACKED and op is Op.LINEAR:
            return Support.DEQUANT
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
        converted = convert(traced, example_inputs, resolved, calibration)
        function, optimized = load(converted.proto.SerializeToString(), converted.returns)
        kernels = assign(_kernels(optimized, converted.labels))
        return compiled(self, resolved, kernels, example_inputs, function)


def convert(
    traced: Trace,
    example_inputs: Inputs,
    formats: Mapping[str, Format],
    calibration: Iterable[Inputs],
) -> OnnxModel:
    """Return the ONNX model in which ONNX Runtime finds its kernels for `formats`."""
    rewritten = rewrite(
        traced, example_inputs, formats, calibration, absorbed=_ABSORBED, packed=_PACKED
    )
    converted = to_onnx(rewritten, leaves(example_inputs), OPSET)
    onnx_edit.quantize_biases(converted.proto)
    bits = {name: _PACKED[fmt.name] for name, fmt in formats.items() if fmt.name in _PACKED}
    onnx_edit.pack(converted.proto, bits)
    return converted


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
    "MatMulNBits": "weight-only",
}


def _kernels(optimized: onnx.ModelProto, labels: Mapping[str, tuple[str, ...]]) -> Iterator[Kernel]:
    """Return the multiplications of the optimised model."""
    for node in optimized.graph.node:
        if node.op_type in _FORMATS:
            # The optimiser appends to the names of the nodes, or values, that it replaces.
            name = node.name if node.name in labels else re.sub(_SUFFIX, "", node.name)
            domain = f"{node.domain}." if node.domain else ""
            kind = domain + node.op_type
            bits = next((a.i for a in node.attribute if a.name == "bits"), None)
            fmt = _FORMATS[node.op_type] if bits is None else f"w{bits}"
            yield Kernel(kind, fmt, labels.get(name, ()))


_SUFFIX = r"(_token_\d+|_nchwc|_nchw|/\w+)+$"
