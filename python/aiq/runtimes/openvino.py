"""OpenVINO's CPU plugin: int8, bfloat16 and float32 side by side in one network."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import openvino
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

OPSET = 22
"""The first operators of ONNX that compute in bfloat16."""

_PACKED = frozenset({"w8", "w4"})
"""Weight-only formats with a kernel for linear layers."""

_WEIGHTED = {Op.CONV, Op.POINTWISE, Op.DEPTHWISE, Op.GROUPED, Op.LINEAR}


class OpenVino:
    """OpenVINO on the QDQ model; its low-precision transformations fuse the residual additions."""

    name = "openvino"

    @property
    def version(self) -> str:
        """Version of OpenVINO."""
        return f"openvino-{openvino.__version__}"

    def support(self, op: Op, fmt: Format) -> Support:
        """Return the kind of support; bfloat16 is native where the CPU has it."""
        if fmt.name == "fp32":
            return Support.NATIVE
        if fmt.name == "fp16" or op not in _WEIGHTED:
            return Support.NONE
        if fmt.name == "bf16":
            able = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            return Support.NATIVE if able else Support.EMULATED
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
        function, program = load(converted.proto.SerializeToString(), converted.returns)
        kernels = assign(_kernels(program, converted.labels))
        return compiled(self, resolved, kernels, example_inputs, function)


def convert(
    traced: Trace,
    example_inputs: Inputs,
    formats: Mapping[str, Format],
    calibration: Iterable[Inputs],
) -> OnnxModel:
    """Return the ONNX model in which OpenVINO finds its kernels for `formats`."""
    rewritten = rewrite(traced, example_inputs, formats, calibration, packed=_PACKED)
    converted = to_onnx(rewritten, leaves(example_inputs), OPSET)
    onnx_edit.narrow(converted.proto, {n for n, fmt in formats.items() if fmt.name == "w4"})
    return converted


def load(
    model: bytes | str, returns: pytree.TreeSpec
) -> tuple[Callable[..., Any], openvino.CompiledModel]:
    """Return a function that runs the model (ONNX bytes, or a path) and the compiled model."""
    core = openvino.Core()
    program = core.compile_model(
        core.read_model(model),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 runs where the model says so
        },
    )
    request = program.create_infer_request()
    count = len(program.outputs)

    def run(*inputs: torch.Tensor) -> Any:  # noqa: ANN401 - what the model returns
        for index, x in enumerate(inputs):
            request.set_input_tensor(index, openvino.Tensor(x.contiguous().numpy()))
        request.infer()
        outputs = [
            torch.from_numpy(request.get_output_tensor(index).data.copy()) for index in range(count)
        ]
        return pytree.tree_unflatten(outputs, returns)

    return run, program


def _kernels(
    program: openvino.CompiledModel, labels: Mapping[str, tuple[str, ...]]
) -> Iterator[Kernel]:
    """Return the multiplications of the executable graph."""
    for node in program.get_runtime_model().get_ordered_ops():
        info = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        if info.get("layerType") in _MULTIPLY:
            # Names of all that was fused, with suffixes of the parts that were split off.
            names = [name.split("/")[0] for name in info["originalLayersNames"].split(",")]
            known = [labels[name] for name in names if name in labels]
            owner = min(known, key=len, default=())
            kind, primitive = info["layerType"], info["primitiveType"]
            yield Kernel(f"{kind} {primitive}", _format(primitive, info["runtimePrecision"]), owner)


_MULTIPLY = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}


def _format(primitive: str, precision: str) -> str:
    if primitive.endswith("f32") and precision in _STORED:
        return _STORED[precision]
    formats = {"I8": "w8a8", "bf16": "bf16", "f32": "fp32"}
    return next((f for end, f in formats.items() if primitive.endswith(end)), primitive)


_STORED = {"i8": "w8", "u8": "w8", "i4": "w4", "u4": "w4"}
