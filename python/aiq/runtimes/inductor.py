"""TorchInductor: int8 through torchao's x86 lowering, bfloat16 and float32 through oneDNN."""

import warnings
from collections.abc import Iterable, Mapping

import torch
import torchao
from torch._inductor import compile as inductor_compile
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler
from torchao.quantization.pt2e.quantizer import (
    x86_inductor_quantizer as _patterns,  # noqa: F401 - importing it registers the int8 lowering
)

from aiq.errors import RuntimeUnavailableError
from aiq.formats import Format
from aiq.graph import Op, trace
from aiq.runtimes.base import Compiled, Inputs, Support, resolve
from aiq.runtimes.census import Census, assign, label
from aiq.runtimes.rewrite import rewrite

_CONVOLUTIONS = {Op.CONV, Op.POINTWISE, Op.DEPTHWISE, Op.GROUPED}


class Inductor:
    """``torch.compile``'s compiler, called on the exported graph: no guards, weights frozen."""

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
        # Instructions older than VNNI add pairs of products in 16 bits, which saturates.
        bits = 8 if _has_vnni() else 7
        graph = rewrite(traced, example_inputs, resolved, calibration, activation_bits=bits)
        heads = {layer.nodes[0]: layer.name for layer in graph.graph.quantizable}
        label(graph.module.graph, heads)
        census = Census()
        options = {"freezing": True, "post_grad_custom_post_pass": census}
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "To copy construct from a tensor")
                function = inductor_compile(graph.module, list(example_inputs), options=options)
        except (CppCompileError, InvalidCxxCompiler) as error:
            raise RuntimeUnavailableError(
                f"The C++ compiler failed on Inductor's code ({str(error).splitlines()[0]}); "
                "install a recent g++ with the Python headers (`apt install g++ python3-dev`)."
            ) from error
        kernels = assign(census.kernels)
        return Compiled(
            runtime=self.name,
            asked={name: fmt.name for name, fmt in resolved.items()},
            realised={n: kernels[n].format if n in kernels else "unknown" for n in resolved},
            kernels={n: kernels[n].name if n in kernels else "unknown" for n in resolved},
            shapes=tuple(tuple(x.shape) for x in example_inputs),
            threads=torch.get_num_threads(),
            function=function,
        )


def _has_vnni() -> bool:
    return bool(torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported())


def _has_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
