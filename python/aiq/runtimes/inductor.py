"""TorchInductor: int8 through torchao's x86 lowering, bfloat16 and float32 through oneDNN."""

import re
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any

import torch
import torchao
from torch import fx
from torch._inductor import compile as inductor_compile
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler
from torch.utils import _pytree as pytree
from torchao.quantization.pt2e.quantizer import (
    x86_inductor_quantizer as _patterns,  # noqa: F401 - importing it registers the int8 lowering
)

from aiq.errors import RuntimeUnavailableError
from aiq.formats import Format
from aiq.graph import Op, trace
from aiq.graph.export import Inputs
from aiq.runtimes import weight_only
from aiq.runtimes.base import Compiled, Support, compiled, leaves, resolve
from aiq.runtimes.kernels import LABEL, Kernel, assign, label
from aiq.runtimes.rewrite import rewrite

_CONVOLUTIONS = {Op.CONV, Op.POINTWISE, Op.DEPTHWISE, Op.GROUPED}


class Inductor:
    """``torch.compile``'s compiler, called on the exported graph: no guards, weights frozen."""

    name = "inductor"

    def __init__(self) -> None:
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise RuntimeUnavailableError(
                "Runtime inductor needs a C++ compiler, and there is none: `apt install g++`, "
                "or set CXX to the path of one."
            ) from None

    @property
    def version(self) -> str:
        """Versions of PyTorch and torchao."""
        return f"torch-{torch.__version__}+torchao-{torchao.__version__}"

    def support(self, op: Op, fmt: Format) -> Support:
        """Return the kind of support; int8 and bfloat16 are native where the CPU has them."""
        if fmt.name == "fp32":
            return Support.NATIVE
        if fmt.name == "bf16":
            return Support.NATIVE if _has_bfloat16() else Support.EMULATED
        if fmt.name == "fp16" or (op is not Op.LINEAR and op not in _CONVOLUTIONS):
            return Support.NONE
        if fmt.name == "w8a8":
            return Support.NATIVE
        if fmt.name in weight_only.FORMATS and op is Op.LINEAR:
            return Support.DEQUANT
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
        # Instructions older than VNNI add pairs of products in 16 bits, which saturates.
        bits = 8 if _has_vnni() else 7
        rewritten = rewrite(
            traced,
            example_inputs,
            resolved,
            calibration,
            activation_bits=bits,
            packed=weight_only.FORMATS,
        )
        label(rewritten.module.graph, rewritten.heads)
        weight_only.pack(rewritten)
        census = _Census()
        options = {"freezing": True, "post_grad_custom_post_pass": census}
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "To copy construct from a tensor")
                program = inductor_compile(
                    rewritten.module, list(leaves(example_inputs)), options=options
                )
        except (CppCompileError, InvalidCxxCompiler) as error:
            raise RuntimeUnavailableError(
                f"The C++ compiler failed on Inductor's code ({str(error).splitlines()[0]}); "
                "install a recent g++ with the Python headers (`apt install g++ python3-dev`)."
            ) from error

        def function(*inputs: torch.Tensor) -> Any:  # noqa: ANN401 - what the model returns
            return pytree.tree_unflatten(program(*inputs), rewritten.returns)

        return compiled(self, resolved, assign(census.kernels), example_inputs, function)


def _has_vnni() -> bool:
    return bool(torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported())


def _has_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class _Census(CustomGraphPass):
    """Notes the kernels of the final graph, after every fusion and before code generation."""

    def __init__(self) -> None:
        self.kernels: list[Kernel] = []

    def __call__(self, graph: fx.Graph) -> None:
        """Read the graph; called by Inductor."""
        for node in graph.nodes:
            name = _kernel_name(node)
            constants = [_constant(n) for n in node.all_input_nodes if n.op == "get_attr"]
            weights = [c for c in constants if c.dim() >= 2]
            values = [n.meta.get("val") for n in node.all_input_nodes if n.op != "get_attr"]
            inputs = [value.dtype for value in values if isinstance(value, torch.Tensor)]
            if _MULTIPLIES.search(name) and weights and inputs:
                labels = node.meta.get("custom", {}).get(LABEL, ())
                self.kernels.append(Kernel(name, _format(inputs[0], weights[0].dtype), labels))

    def uuid(self) -> None:
        """Return ``None``: a program from the cache would come without this pass."""


_MULTIPLIES = re.compile(r"conv|linear|(^|[._])(add|b)?mm|pack_mm|matmul")


def _kernel_name(node: fx.Node) -> str:
    if node.op != "call_function":
        return ""
    if isinstance(node.target, partial):  # the lowering of a fused pattern, named by its nodes
        (match,) = node.target.args
        return "+".join(str(n.target) for n in match.nodes)
    return str(node.target)


def _constant(node: fx.Node) -> torch.Tensor:
    value: torch.Tensor = attrgetter(str(node.target))(node.graph.owning_module)
    return value


def _format(activation: torch.dtype, weight: torch.dtype) -> str:
    if activation in {torch.uint8, torch.int8}:
        return "w8a8"
    if weight in {torch.int8, torch.uint8}:  # two four-bit codes to an unsigned byte
        return "w8" if weight is torch.int8 else "w4"
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}.get(activation, str(activation))
