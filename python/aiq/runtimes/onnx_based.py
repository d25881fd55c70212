"""What runtimes that read ONNX share: one model in, a program out, and bundles cut up."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from aiq.formats import Format
from aiq.runtimes.base import Job, Program, Runtime
from aiq.runtimes.bundle import Bundle, joined
from aiq.runtimes.onnx_graph import OnnxModel, parts

PACKED = frozenset(f"w{bits}{group}" for bits in (4, 8) for group in ("", "g32", "g64", "g128"))
"""Weight-only formats with a kernel for linear layers."""


class OnnxBased(Runtime):
    """A runtime whose programs start as an ONNX model."""

    @abstractmethod
    def _convert(self, job: Job) -> OnnxModel:
        """Return the ONNX model in which the runtime finds its kernels."""

    @abstractmethod
    def _open(self, model: bytes, labels: Mapping[str, Sequence[str]]) -> Program:
        """Return the program of a serialised model."""

    def _build(self, job: Job) -> Program:
        model, labels = self._convert(job)
        return self._open(model.SerializeToString(), labels)

    def compile_many(
        self,
        models: Sequence[torch.nn.Module],
        inputs: Sequence[torch.Tensor],
        formats: Sequence[Mapping[str, Format]],
    ) -> list[Callable[[], Any]]:
        """Compile small models with one export; see `Runtime.compile_many`."""
        given = tuple(inputs)
        bundle = Bundle(models).eval()
        job = self._prepare(bundle, given, joined(formats), [given], emulate=False)
        whole, labels = self._convert(job)
        programs = [self._open(part.SerializeToString(), labels)[0] for part in parts(whole)]
        return [partial(program, x) for program, x in zip(programs, given, strict=True)]
