"""PyTorch without a compiler: the floor that every other runtime is compared with."""

import copy
from collections.abc import Iterable, Mapping

import torch

from aiq.formats import Format
from aiq.graph import Op, trace
from aiq.runtimes.base import Compiled, Inputs, Support, resolve


class Eager:
    """Runs the module as it is, layer by layer: float32 and bfloat16."""

    name = "eager"

    @property
    def version(self) -> str:
        """Version of PyTorch."""
        return f"torch-{torch.__version__}"

    def unavailable(self) -> str | None:
        """Return ``None``: PyTorch is always there."""
        return None

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
        """Return a copy of `model` whose bfloat16 layers cast what they read; see `Runtime`."""
        graph = trace(model, example_inputs).graph
        resolved = resolve(self, graph, formats, emulate=emulate)
        module = copy.deepcopy(model).eval()
        paths = {name: name.partition("#")[0] for name in resolved}
        for path in {paths[name] for name, fmt in resolved.items() if fmt.name == "bf16"}:
            _narrow(module.get_submodule(path))
        dtypes = {name: _weight_dtype(module, path) for name, path in paths.items()}
        return Compiled(
            runtime=self.name,
            asked={name: fmt.name for name, fmt in resolved.items()},
            realised={name: _NAMES.get(dtype, str(dtype)) for name, dtype in dtypes.items()},
            kernels={
                name: type(module.get_submodule(path)).__name__ for name, path in paths.items()
            },
            shapes=tuple(tuple(x.shape) for x in example_inputs),
            threads=torch.get_num_threads(),
            function=module,
        )


_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def _weight_dtype(module: torch.nn.Module, path: str) -> torch.dtype:
    weight = module.get_submodule(path).weight
    assert isinstance(weight, torch.Tensor)
    return weight.dtype


def _narrow(layer: torch.nn.Module) -> None:
    layer.to(torch.bfloat16)
    layer.register_forward_pre_hook(lambda _, inputs: tuple(x.bfloat16() for x in inputs))
    layer.register_forward_hook(lambda _, __, output: output.float())
