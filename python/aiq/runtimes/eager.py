"""PyTorch without a compiler: the floor that every other runtime is compared with."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from aiq.formats import Format
from aiq.graph import Op, trace
from aiq.graph.export import Inputs, call_arguments
from aiq.runtimes.base import Compiled, Support, compiled, resolve
from aiq.runtimes.kernels import Kernel
from aiq.runtimes.rewrite import rewrite


class Eager:
    """Runs the module as it is, layer by layer: float32 and bfloat16."""

    name = "eager"

    @property
    def version(self) -> str:
        """Version of PyTorch."""
        return f"torch-{torch.__version__}"

    def support(self, op: Op, fmt: Format) -> Support:
        """Return native for float32 and bfloat16, none for everything else."""
        return Support.NATIVE if fmt.name in {"fp32", "bf16"} else Support.NONE

    def compile(
        self,
        model: torch.nn.Module,
        example_inputs: Inputs,
        formats: Mapping[str, Format],
        calibration: Iterable[Inputs] = (),
        *,
        emulate: bool = False,
    ) -> Compiled:
        """Return the module itself, or its graph with casts; see `Runtime.compile`."""
        traced = trace(model, example_inputs)
        resolved = resolve(self, traced.graph, formats, emulate=emulate)
        nodes = {layer.name: layer.nodes[0] for layer in traced.graph.quantizable}
        kernels = {name: Kernel(nodes[name], fmt.name, ()) for name, fmt in resolved.items()}
        if any(fmt.name == "bf16" for fmt in resolved.values()):
            rewritten = rewrite(traced, example_inputs, resolved, calibration)

            def function(*inputs: torch.Tensor) -> Any:  # noqa: ANN401 - what the model returns
                return pytree.tree_unflatten(rewritten.module(*inputs), rewritten.returns)

        else:
            module = copy.deepcopy(model).eval()
            structure = pytree.tree_structure(call_arguments(example_inputs))

            def function(*inputs: torch.Tensor) -> Any:  # noqa: ANN401 - what the model returns
                args, kwargs = pytree.tree_unflatten(inputs, structure)
                return module(*args, **kwargs)

        return compiled(self, resolved, kernels, example_inputs, function)
