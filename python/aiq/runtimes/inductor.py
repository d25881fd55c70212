"""TorchInductor: int8 through torchao's PT2E lowering, bfloat16 and float32 through oneDNN."""

import re
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from operator import attrgetter
from typing import NamedTuple

import torch
import torchao
from torch._inductor import compile as inductor_compile
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler
from torch.fx import Graph, Node

from aiq.errors import RuntimeUnavailableError
from aiq.formats import Format
from aiq.graph import Op, trace
from aiq.runtimes import pt2e
from aiq.runtimes.base import Compiled, Inputs, Support, resolve

_CONVOLUTIONS = {Op.CONV, Op.POINTWISE, Op.DEPTHWISE, Op.GROUPED}


class Inductor:
    """``torch.compile``'s backend, called on the exported graph: no guards, weights frozen."""

    name = "inductor"

    @property
    def version(self) -> str:
        """Versions of PyTorch and torchao."""
        return f"torch-{torch.__version__}+torchao-{torchao.__version__}"

    def unavailable(self) -> str | None:
        """Say what is missing: Inductor needs a C++ compiler."""
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            return (
                "Runtime inductor needs a C++ compiler, and there is none: `apt install g++`, "
                "or set CXX to the path of one."
            )
        return None

    def support(self, op: Op, fmt: Format) -> Support:
        """Return the kind of support; int8 and bfloat16 are native where the CPU has them."""
        if fmt.name == "fp32":
            return Support.NATIVE
        if fmt.name == "bf16":
            return Support.NATIVE if _has_bfloat16() else Support.EMULATED
        if op is not Op.LINEAR and op not in _CONVOLUTIONS:
            return Support.NONE
        if fmt.name == "w8a8":
            return Support.NATIVE
        # Narrower codes fit the int8 kernels, which return their results at int8's speed; weights
        # alone are multiplied in float32.
        return Support.EMULATED

    def compile(
        self,
        model: torch.nn.Module,
        example_inputs: Inputs,
        formats: Mapping[str, Format],
        calibration: Iterable[Inputs] = (),
        *,
        emulate: bool = False,
    ) -> Compiled:
        """Compile `model`; see `Runtime.compile`. The thread count in force is compiled in."""
        traced = trace(model, example_inputs)
        resolved = resolve(self, traced.graph, formats, emulate=emulate)
        module = pt2e.quantize(
            traced, example_inputs, resolved, calibration, reduce_range=not _has_vnni()
        )
        census = _Census()
        options = {"freezing": True, "post_grad_custom_post_pass": census}
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "To copy construct from a tensor")
                function = inductor_compile(module, list(example_inputs), options=options)
        except (CppCompileError, InvalidCxxCompiler) as error:
            raise RuntimeUnavailableError(
                f"The C++ compiler failed on Inductor's code ({str(error).splitlines()[0]}); "
                "install a recent g++ with the Python headers (`apt install g++ python3-dev`)."
            ) from error
        found = dict(
            zip(pt2e.assign(k.labels for k in census.kernels), census.kernels, strict=True)
        )
        return Compiled(
            runtime=self.name,
            asked={name: fmt.name for name, fmt in resolved.items()},
            realised={n: found[n].format if n in found else "unknown" for n in resolved},
            kernels={n: found[n].name if n in found else "unknown" for n in resolved},
            shapes=tuple(tuple(x.shape) for x in example_inputs),
            threads=torch.get_num_threads(),
            function=function,
        )


class _Kernel(NamedTuple):
    name: str
    format: str
    labels: tuple[str, ...]


class _Census(CustomGraphPass):
    """Notes the kernels of the final graph, after every fusion and before code generation."""

    def __init__(self) -> None:
        self.kernels: list[_Kernel] = []

    def __call__(self, graph: Graph) -> None:
        for node in graph.nodes:
            name = _kernel_name(node)
            constants = [_constant(n) for n in node.all_input_nodes if n.op == "get_attr"]
            weights = [c for c in constants if c.dim() >= 2]
            inputs = [n.meta["val"].dtype for n in node.all_input_nodes if n.op != "get_attr"]
            if _MULTIPLIES.search(name) and weights and inputs:
                labels = node.meta.get("custom", {}).get(pt2e.LABEL, ())
                self.kernels.append(_Kernel(name, _format(inputs[0], weights[0].dtype), labels))

    def uuid(self) -> None:
        """Return ``None``: a program from the cache would come without this pass."""


_MULTIPLIES = re.compile(r"conv|linear|(^|[._])(add|b)?mm|pack_mm|matmul")


def _kernel_name(node: Node) -> str:
    if node.op != "call_function":
        return ""
    if isinstance(node.target, partial):  # the lowering of a fused pattern, named by its nodes
        (match,) = node.target.args
        return "+".join(str(n.target) for n in match.nodes)
    return str(node.target)


def _constant(node: Node) -> torch.Tensor:
    value: torch.Tensor = attrgetter(str(node.target))(node.graph.owning_module)
    return value


def _format(activation: torch.dtype, weight: torch.dtype) -> str:
    if activation in {torch.uint8, torch.int8}:
        return "w8a8"
    if weight is torch.int8:
        return "w8"
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}.get(activation, str(activation))


def _has_vnni() -> bool:
    return bool(torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported())


def _has_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
