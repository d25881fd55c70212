"""OpenVINO's CPU plugin: int8, bfloat16 and float32 side by side in one network."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import openvino
import torch

from aiq.errors import InputError, reason
from aiq.formats import BF16, FP32, DType
from aiq.runtimes import (
    instructions,
    onnx_edit,
    openvino_bf16,
    openvino_edit,
    openvino_factors,
    openvino_files,
    signature,
)
from aiq.runtimes.base import CompiledGraph
from aiq.runtimes.job import Job
from aiq.runtimes.kernels import RealisedKernel, assign
from aiq.runtimes.onnx_based import OnnxBased
from aiq.runtimes.onnx_graph import OnnxModel, to_onnx
from aiq.runtimes.openvino_calls import Calls, Request
from aiq.runtimes.openvino_core import core
from aiq.runtimes.signature import METADATA, Signature
from aiq.runtimes.support import Support
from aiq.runtimes.times import KernelTimes

OPSET = 22
"""The first version of ONNX's operators that compute in bfloat16."""


class OpenVino(OnnxBased):
    """OpenVINO's CPU plugin on a QDQ model.

    aiq inserts the quantize nodes itself, not NNCF. The scales are therefore those with which the
    plan's accuracy was measured, and the same in every runtime. Casts to bfloat16 are in the graph,
    layer by layer. The global precision hint takes their place if every layer is ``wNaMbf16``,
    unless queries and keys come from layers of their own: it would transpose them as integers, for
    which OpenVINO 2026.4 has a slow kernel.
    """

    name = "openvino"

    @property
    def version(self) -> str:
        """Version of OpenVINO."""
        return f"openvino-{openvino.__version__}"

    def _computes(self, dtype: DType) -> Support:
        """Return the kind of support; bfloat16 is native if the CPU supports it."""
        if dtype == BF16:
            return Support.NATIVE if _has_bfloat16() else Support.EMULATED
        return Support.NATIVE if dtype == FP32 else Support.NONE

    def _convert(self, job: Job) -> OnnxModel:
        converted = to_onnx(job.rewritten, job.inputs, OPSET)
        packed = self._packed(job)
        onnx_edit.block(converted.proto, packed)
        openvino_edit.keep_activations_apart(converted.proto, packed)
        openvino_edit.keep_sums_apart(converted.proto)
        openvino_edit.keep_products_apart(converted.proto)
        openvino_edit.keep_means_apart(converted.proto)
        openvino_factors.sign(converted.proto)
        wanted = set(job.formats.values())
        is_bf16 = wanted and all(f.quantizes_activations and f.between == BF16 for f in wanted)
        if is_bf16 and openvino_factors.are_packed(converted.proto):
            openvino_bf16.widen(converted.proto)
        return converted

    def _open(self, model: bytes, labels: Mapping[str, Sequence[str]]) -> CompiledGraph:
        return _load(openvino_bf16.read(model), labels)

    def _targets(self, path: Path) -> tuple[Path, ...]:
        return path, path.with_suffix(".bin")

    def _write(self, job: Job, path: Path) -> None:
        """Write the network, and its weights to a file with the suffix ``.bin`` beside it."""
        proto, labels = self._convert(job)
        model = openvino_bf16.read(proto.SerializeToString())
        weights = openvino_files.fingerprint(model)
        text = signature.write_document(job.signature, labels=labels, weights=weights)
        model.set_rt_info(text, METADATA)
        model.set_rt_info("0", ["runtime_options", _ROUNDED_GROUP])  # for those who open it too
        openvino.save_model(model, path, compress_to_fp16=False)

    def _install(self, draft: Path, path: Path) -> None:
        weights = draft.with_suffix(".bin").read_bytes()
        openvino_files.write_pair(path, draft.read_bytes(), weights)

    def _time(
        self,
        model: bytes,
        labels: Mapping[str, Sequence[str]],
        inputs: Sequence[torch.Tensor],
        runs: int,
    ) -> KernelTimes:
        program = _compile(openvino_bf16.read(model), PERF_COUNT=True)
        request = Request(program)
        found: dict[str, list[float]] = {}
        for _ in range(runs):
            request.run(inputs)
            for entry in request.profile:
                found.setdefault(entry.node_name, []).append(entry.real_time.total_seconds())
        return assign(_kernels(program, labels)), found

    def _read(self, path: Path) -> tuple[Signature, CompiledGraph]:
        if path.stat().st_size > _MOST:
            raise InputError(
                f"{path} has more than {_MOST:,} bytes, and a description of a network is smaller; "
                "give a file that aiq.export wrote."
            )
        try:
            model = openvino_files.read_pair(path)
        except RuntimeError:
            raise InputError(
                f"{path} is no OpenVINO model, or lacks {path.with_suffix('.bin').name} beside it; "
                "give one that aiq.export wrote."
            ) from None
        if any(x.partial_shape.is_dynamic for x in model.inputs):
            raise InputError(
                f"{path} has inputs of no fixed shape; give one that aiq.export wrote."
            )
        text = model.get_rt_info(METADATA).astype(str) if model.has_rt_info(METADATA) else None
        found, document = signature.read_document(text, path)
        if document.weights not in {None, openvino_files.fingerprint(model)}:
            raise InputError(
                f"{path} and the weights beside it are not of one export; export the plan again."
            )
        inputs = [(tuple(x.shape), x.element_type.to_dtype()) for x in model.inputs]
        found.check(inputs, len(model.outputs), path)
        try:
            return found, _load(model, document.labels)
        except RuntimeError as error:
            raise InputError(
                f"OpenVINO cannot compile {path} ({reason(error)}); export the plan again."
            ) from None

    def _opened(self, path: Path) -> Callable[..., Iterable[torch.Tensor]]:
        model = core().read_model(path)
        settings = {openvino_bf16.PRECISION: openvino_bf16.precision(model)}
        program = core().compile_model(model, "CPU", settings)

        def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
            results = program([x.contiguous().numpy() for x in inputs])
            return [torch.from_numpy(value.copy()) for value in results.to_tuple()]

        return run


_MOST = 2**28
"""Largest size in bytes of the file of a network, whose weights are in another file."""
_ROUNDED_GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"


@cache
def _has_bfloat16() -> bool:
    capabilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities and instructions.may_multiply_bfloat16()


def _load(model: openvino.Model, labels: Mapping[str, Sequence[str]]) -> CompiledGraph:
    program = _compile(model)
    return Calls(program), assign(_kernels(program, labels))


def _compile(model: openvino.Model, **more: object) -> openvino.CompiledModel:
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        openvino_bf16.PRECISION: openvino_bf16.precision(model),  # or casts in the model
        _ROUNDED_GROUP: 0,
        **more,
    }
    return core().compile_model(model, "CPU", settings)


def _kernels(
    program: openvino.CompiledModel, labels: Mapping[str, Sequence[str]]
) -> Iterator[RealisedKernel]:
    """Yield the multiplications of the executable graph.

    A layer is identified by its weights, which no fusion renames, or else by the names of the nodes
    that were fused into a kernel. A kernel that merges several products is yielded for each.
    """
    for node in program.get_runtime_model().get_ordered_ops():
        info = _info(node)
        kind, primitive = info.get("layerType"), info.get("primitiveType", "")
        if kind not in {*_MULTIPLY, _MERGED}:
            continue
        operands = [_info(value.get_source_output().get_node()) for value in node.inputs()]
        constants = [x["originalLayersNames"] for x in operands if x.get("layerType") == "Const"]
        owners = [found for name in constants if (found := _owners(name, labels))]
        place = node.get_friendly_name()
        if kind == _MERGED:
            fmt = _format(primitive, "", 1, 1)
            for owner in owners:
                yield RealisedKernel(f"{kind} {primitive}", fmt, owner, place)
            continue
        # The names of all fused nodes, with suffixes of parts that were split off. The kernel has
        # the name of one of them. If groups of weights are unpacked, the others may be missing.
        names = [place, *info["originalLayersNames"].split(",")]
        heard = (labels.get(name.split("/")[0]) for name in names)
        known = [tuple(layers) for layers in heard if layers]
        owner = owners[0] if owners else min(known, key=len, default=())
        fmt = _format(primitive, info["runtimePrecision"], *_channel(node))
        yield RealisedKernel(f"{kind} {primitive}", fmt, owner, place)


def _info(node: openvino.Node) -> dict[str, str]:
    return {key: value.astype(str) for key, value in node.get_rt_info().items()}


def _owners(constant: str, labels: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the layers that multiply by a constant, which packing may have renamed."""
    layer = constant.removesuffix(onnx_edit.PACKED_CODES)
    return (layer,) if layer != constant else tuple(labels.get(constant, ()))


_MERGED = "Subgraph"
"""Type of kernels that are compiled from several operators."""

_MULTIPLY = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}


def _channel(node: openvino.Node) -> tuple[int, int]:
    """Return the numbers of weights and of scales of a channel of a product."""
    shapes = [tuple(operand.get_shape()) for operand in node.inputs()]
    # Operands are the activation, the weights, the bias, and the scales of stored integers.
    return shapes[1][-1], shapes[3][-1] if len(shapes) > 3 and len(shapes[3]) == 2 else 1


def _format(primitive: str, precision: str, weights: int, scales: int) -> str:
    if primitive.endswith("f32") and precision in _STORED:
        return _STORED[precision] + (f"g{weights // scales}" if scales > 1 else "")
    formats = {"I8": "w8a8", "i8": "w8a8", "bf16": "bf16", "f32": "fp32"}
    return next((f for end, f in formats.items() if primitive.endswith(end)), primitive)


_STORED = {"i8": "w8", "u8": "w8", "i4": "w4", "u4": "w4"}
