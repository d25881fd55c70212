"""The common part of runtimes that read ONNX models."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial

import torch

from aiq.formats import DType, Format
from aiq.graph import WEIGHTED, Op
from aiq.runtimes import instructions
from aiq.runtimes.absorbed import absorbs
from aiq.runtimes.base import CompiledGraph, Runtime
from aiq.runtimes.bundle import Bundle, joined, split
from aiq.runtimes.job import Job
from aiq.runtimes.onnx_graph import OnnxModel, parts
from aiq.runtimes.rewrite import Target
from aiq.runtimes.support import Support
from aiq.runtimes.times import KernelTimes, LayerTimes, Part, layer_times
from aiq.runtimes.weight_only import FORMATS as PACKED


class OnnxBased(Runtime):
    """A runtime whose programs start as an ONNX model, with integers as ONNX writes them."""

    integer_ops = (Op.POOL, Op.CONCAT)

    @property
    def target(self) -> Target:
        """Description of the graphs that its kernels expect."""
        return Target(
            weight_bits=instructions.weight_bits(), absorbs=absorbs(self.name), packed=PACKED
        )

    @staticmethod
    def _packed(job: Job) -> dict[str, Format]:
        """Layer name -> format, of layers whose weights alone are small."""
        return {name: fmt for name, fmt in job.formats.items() if fmt.name in PACKED}

    @abstractmethod
    def _computes(self, dtype: DType) -> Support:
        """Return how the runtime computes with floats of a dtype, between layers and in them."""

    def _support(self, op: Op, fmt: Format) -> Support:
        if fmt.name == "fp32":
            return Support.NATIVE
        if op not in WEIGHTED:
            return Support.NONE
        floats = self._computes(fmt.between)
        if floats != Support.NATIVE:
            return floats
        if fmt.name in PACKED and op is Op.LINEAR:
            return Support.DEQUANT
        return Support.NATIVE if fmt.kernel.name in {"bf16", "w8a8"} else Support.EMULATED

    @abstractmethod
    def _convert(self, job: Job) -> OnnxModel:
        """Return the ONNX model in which the runtime finds its kernels."""

    @abstractmethod
    def _open(self, model: bytes, labels: Mapping[str, Sequence[str]]) -> CompiledGraph:
        """Return the program of a serialised model."""

    @abstractmethod
    def _time(
        self,
        model: bytes,
        labels: Mapping[str, Sequence[str]],
        inputs: Sequence[torch.Tensor],
        runs: int,
    ) -> KernelTimes:
        """Run a serialised model under the profiler."""

    def _build(self, job: Job) -> CompiledGraph:
        model, labels = self._convert(job)
        return self._open(model.SerializeToString(), labels)

    def compile_many(
        self,
        models: Sequence[torch.nn.Module],
        inputs: Sequence[torch.Tensor],
        formats: Sequence[Mapping[str, Format]],
    ) -> list[Part]:
        """Compile small models with one export; see `Runtime.compile_many`."""
        given = tuple(inputs)
        bundle = Bundle(models).eval()
        job = self._prepare(bundle, given, joined(formats), [given], emulate=False)
        whole, labels = self._convert(job)
        found = []
        graphs = split(job.graph, len(given))
        for index, (part, x, graph) in enumerate(zip(parts(whole), given, graphs, strict=True)):
            content = part.SerializeToString()
            program, _ = self._open(content, labels)
            profile = partial(self._layer_times, content, labels, x, f"parts.{index}.")
            found.append(Part(partial(program, x), graph, profile))
        return found

    def _profile(self, job: Job, runs: int) -> KernelTimes:
        model, labels = self._convert(job)
        return self._time(model.SerializeToString(), labels, job.inputs, runs)

    def _layer_times(
        self,
        model: bytes,
        labels: Mapping[str, Sequence[str]],
        x: torch.Tensor,
        prefix: str,
        runs: int,
    ) -> LayerTimes:
        """Return the times of a part of a bundle, whose layers have names with a prefix."""
        layers, total = layer_times(self._time(model, labels, [x], runs))
        return LayerTimes({name.removeprefix(prefix): t for name, t in layers.items()}, total)
