"""PyTorch without a compiler: the baseline of all other runtimes."""

import copy
from collections.abc import Iterable

import torch
from torch.utils import _pytree as pytree

from aiq.formats import Format
from aiq.graph import Op
from aiq.runtimes.base import CompiledGraph, Runtime
from aiq.runtimes.job import Job
from aiq.runtimes.kernels import RealisedKernel
from aiq.runtimes.rewrite import Target
from aiq.runtimes.support import Support

_NATIVE = frozenset({"fp32", "bf16"})


class Eager(Runtime):
    """Runs the module layer by layer, in float32 and bfloat16."""

    name = "eager"
    keeps_layout = True
    target = Target()

    @property
    def version(self) -> str:
        """Version of PyTorch."""
        return f"torch-{torch.__version__}"

    def _support(self, op: Op, fmt: Format) -> Support:
        """Return native for float32 and bfloat16, and none for all other formats."""
        return Support.NATIVE if fmt.name in _NATIVE else Support.NONE

    def _build(self, job: Job) -> CompiledGraph:
        """Return the module itself, or its graph if there are casts or it changes its inputs."""
        heads = job.rewritten.heads
        kernels = {name: RealisedKernel(n, job.formats[name].name, ()) for n, name in heads.items()}
        if job.writes_inputs or any(fmt.name != "fp32" for fmt in job.formats.values()):
            return torch.no_grad()(job.rewritten.module), kernels
        module = copy.deepcopy(job.model).eval()
        arguments = job.signature.arguments.template

        @torch.no_grad()
        def function(*inputs: torch.Tensor) -> Iterable[torch.Tensor]:
            args, kwargs = arguments.fill(inputs)
            results = pytree.tree_leaves(module(*args, **kwargs))
            return [x for x in results if isinstance(x, torch.Tensor)]

        return function, kernels
