"""ONNX Runtime: int8 convolutions, products and additions; four-bit weights of linear layers."""

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.external_data_helper import _get_all_tensors, uses_external_data

from aiq import machine
from aiq.errors import InputError, reason
from aiq.formats import FP32, DType
from aiq.runtimes import onnx_edit, signature
from aiq.runtimes.base import CompiledGraph
from aiq.runtimes.job import Job
from aiq.runtimes.kernels import RealisedKernel, assign
from aiq.runtimes.onnx_based import OnnxBased
from aiq.runtimes.onnx_graph import OnnxModel, to_onnx
from aiq.runtimes.signature import METADATA, Signature
from aiq.runtimes.support import Support
from aiq.runtimes.times import KernelTimes

OPSET = 21
"""The newest version of ONNX's operators whose quantised forms ONNX Runtime fuses."""


class OnnxRuntime(OnnxBased):
    """ONNX Runtime's CPU provider on a QDQ model (uint8 activations, int8 weights per channel)."""

    name = "onnxruntime"

    @property
    def version(self) -> str:
        """Version of ONNX Runtime."""
        return f"onnxruntime-{onnxruntime.__version__}"

    def _computes(self, dtype: DType) -> Support:
        """Return the kind of support; there are no CPU kernels for bfloat16 and float16."""
        return Support.NATIVE if dtype == FP32 else Support.NONE

    def _convert(self, job: Job) -> OnnxModel:
        converted = to_onnx(job.rewritten, job.inputs, OPSET)
        onnx_edit.quantize_biases(converted.proto)
        onnx_edit.pool_means(converted.proto)
        onnx_edit.keep_pools(converted.proto)
        onnx_edit.pack_weights(converted.proto, self._packed(job))
        return converted

    def _open(self, model: bytes, labels: Mapping[str, Sequence[str]]) -> CompiledGraph:
        return _load(model, labels)

    def _write(self, job: Job, path: Path) -> None:
        model, labels = self._convert(job)
        text = signature.write_document(job.signature, labels=labels)
        model.metadata_props.add(key=METADATA, value=text)
        path.write_bytes(model.SerializeToString())

    def _time(
        self,
        model: bytes,
        labels: Mapping[str, Sequence[str]],
        inputs: Sequence[torch.Tensor],
        runs: int,
    ) -> KernelTimes:
        with tempfile.TemporaryDirectory() as folder:
            prefix = str(Path(folder) / "profile")
            session, kernels = _session(model, labels, profile=prefix)
            run = _runner(session)
            for _ in range(runs):
                run(*inputs)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        found: dict[str, list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_TIMED):
                found.setdefault(event["name"].removesuffix(_TIMED), []).append(event["dur"] / 1e6)
        return kernels, found

    def _read(self, path: Path) -> tuple[Signature, CompiledGraph]:
        content = _content(path)
        try:
            model = onnx.load_from_string(content)
        except DecodeError:
            raise InputError(f"{path} is no ONNX model; give one that aiq.export wrote.") from None
        if any(map(uses_external_data, _get_all_tensors(model))):
            raise InputError(
                f"{path} keeps weights in other files, and aiq.export does not; give a file that "
                "it wrote."
            )
        texts = {item.key: item.value for item in model.metadata_props}
        found, document = signature.read_document(texts.get(METADATA), path)
        try:
            session, kernels = _session(content, document.labels)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no other base
            raise InputError(
                f"ONNX Runtime cannot read {path} ({reason(error)}); export the plan again."
            ) from None
        inputs = [_type(value) for value in model.graph.input]
        found.check(inputs, len(model.graph.output), path)
        return found, (_runner(session), kernels)

    def _opened(self, path: Path) -> Callable[..., Iterable[torch.Tensor]]:
        session = onnxruntime.InferenceSession(str(path), disabled_optimizers=_DISABLED)
        return _runner(session)


def _content(path: Path) -> bytes:
    """Return the bytes of a model; raise `InputError` if it is larger than a model can be."""
    if path.stat().st_size > _MOST:
        raise InputError(f"{path} is larger than an ONNX model can be; give one of at most 2 GiB.")
    return path.read_bytes()


def _type(value: onnx.ValueInfoProto) -> tuple[tuple[int, ...], object]:
    """Return the shape and the NumPy dtype of an input of a model."""
    found = value.type.tensor_type
    shape = tuple(size.dim_value for size in found.shape.dim)
    return shape, onnx.helper.tensor_dtype_to_np_dtype(found.elem_type)


def _load(model: bytes, labels: Mapping[str, Sequence[str]]) -> CompiledGraph:
    session, kernels = _session(model, labels)
    return _runner(session), kernels


def _runner(session: onnxruntime.InferenceSession) -> Callable[..., list[torch.Tensor]]:
    names = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(value) for value in session.run(outputs, feed)]

    return run


def _session(
    model: bytes, labels: Mapping[str, Sequence[str]], profile: str | None = None
) -> tuple[onnxruntime.InferenceSession, dict[str, RealisedKernel]]:
    """Return a session, and the kernel of each layer; `profile` is the prefix of a file's name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Otherwise waiting threads would use the processor on which other programs are timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if 1 < threads <= len(machine.processors()):
        # ONNX Runtime does so by default, but not if the number of threads is given. Without it,
        # threads often start on the caller's processor. Processors are counted from one.
        pinned = ";".join(str(processor + 1) for processor in machine.near_processors(threads)[1:])
        options.add_session_config_entry("session.intra_op_thread_affinities", pinned)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        session = onnxruntime.InferenceSession(
            model,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=_DISABLED,
        )
        kernels = assign(_kernels(onnx.load(optimized), labels))
    return session, kernels


_MOST = 2**31 - 1
"""Largest size of a protocol buffer in bytes."""

_TIMED = "_kernel_time"
"""Suffix that the profiler appends to the name of a node."""


_DISABLED = ["WeightBiasQuantization", "SkipLayerNormFusion"]
"""Optimisers that are switched off.

The first would round float32 weights between two quantised layers, which is not part of the plan.
The second joins a sum and a norm in a kernel that ONNX Runtime 1.32 computes more slowly than both.
"""

_FORMATS = {
    **dict.fromkeys(("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"), "w8a8"),
    **dict.fromkeys(("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm"), "fp32"),
    **dict.fromkeys(("MatMul", "FusedMatMul"), "fp32"),
    "MatMulNBits": "",  # its attributes determine the format
}


def _kernels(
    optimized: onnx.ModelProto, labels: Mapping[str, Sequence[str]]
) -> Iterator[RealisedKernel]:
    """Yield the multiplications of the optimised model."""
    for node in optimized.graph.node:
        if node.op_type in _FORMATS:
            # The optimiser extends the names of the nodes, or values, that it replaces.
            name = node.name.removeprefix("fused ")
            name = name if name in labels else re.sub(_SUFFIX, "", name)
            domain = f"{node.domain}." if node.domain else ""
            kind = domain + node.op_type
            fmt = _unpacked_format(node) or _FORMATS[node.op_type] or _packed_format(node)
            yield RealisedKernel(kind, fmt, tuple(labels.get(name, ())), node.name)


def _unpacked_format(node: onnx.NodeProto) -> str:
    """Return the format of weights that were unpacked when the model was opened, or ``""``."""
    found = [re.search(r"_unpacked_(\w+)$", name) for name in node.input]
    return next((match[1] for match in found if match), "")


def _packed_format(node: onnx.NodeProto) -> str:
    sizes = {a.name: a.i for a in node.attribute}
    # Channels without groups are packed in blocks too, all with the same scale.
    group = f"g{sizes['block_size']}" if node.input[2].endswith("_group_scales") else ""
    return f"w{sizes['bits']}{group}"


_SUFFIX = r"(_token_\d+|_nchwc|_nchw|/\w+)+$"
