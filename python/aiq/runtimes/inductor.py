"""TorchInductor: int8 through torchao's x86 lowering, bfloat16 and float32 through oneDNN."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchao
from torch._inductor import aoti_compile_and_package, aoti_load_package
from torch._inductor import compile as inductor_compile
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler
from torchao.quantization.pt2e.quantizer import (
    x86_inductor_quantizer as _patterns,  # noqa: F401 - importing it registers the int8 lowering
)

from aiq.errors import InputError, RuntimeUnavailableError, reason
from aiq.exporting import exporting
from aiq.formats import BF16, REFERENCE, Format, parse
from aiq.graph import WEIGHTED, Op
from aiq.runtimes import instructions, package, placement, signature, weight_only
from aiq.runtimes.base import CompiledGraph, Runtime
from aiq.runtimes.inductor_census import Census, time_calls
from aiq.runtimes.inductor_edit import edit_graph
from aiq.runtimes.job import Job
from aiq.runtimes.kernels import RealisedKernel, assign
from aiq.runtimes.rewrite import Target
from aiq.runtimes.signature import Signature
from aiq.runtimes.support import Support
from aiq.runtimes.times import KernelTimes, LayerTimes, Part, layer_times

_CONVOLUTIONS = {Op.CONV, Op.POINTWISE, Op.DEPTHWISE, Op.GROUPED}


class Inductor(Runtime):
    """The compiler of ``torch.compile``, on the exported graph without guards, weights frozen."""

    name = "inductor"
    keeps_layout = True
    # Inductor generates the code of these operators.
    fuses = tuple(op for op in Op if op not in {*WEIGHTED, Op.MATMUL, Op.OTHER, Op.EMBEDDING})

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

    @property
    def target(self) -> Target:
        """Description of the graphs that its kernels expect."""
        return Target(weight_bits=instructions.weight_bits(), packed=weight_only.FORMATS)

    def _support(self, op: Op, fmt: Format) -> Support:
        """Return the kind of support; int8 and bfloat16 are native if the CPU supports them."""
        if fmt.name == "fp32":
            return Support.NATIVE
        if fmt.name == "fp16" or (op is not Op.LINEAR and op not in _CONVOLUTIONS):
            return Support.NONE
        if fmt.between == BF16 and not _has_bfloat16():
            return Support.EMULATED
        if fmt.kernel.name in {"bf16", "w8a8"}:
            return Support.NATIVE
        if fmt.name in weight_only.FORMATS and op is Op.LINEAR:
            return Support.DEQUANT
        # Fewer bits run in the int8 kernels at the speed of int8. Other weight-only formats are
        # multiplied in float32.
        return Support.EMULATED

    def _build(self, job: Job) -> CompiledGraph:
        program, census = _compile(job)
        return torch.no_grad()(program), _kernels(census, job)

    def compile_many(
        self,
        models: Sequence[torch.nn.Module],
        inputs: Sequence[torch.Tensor],
        formats: Sequence[Mapping[str, Format]],
    ) -> list[Part]:
        """Compile small models one by one, with a profiler each; see `Runtime.compile_many`."""
        found = []
        for model, x, chosen in zip(models, inputs, formats, strict=True):
            job = self._prepare(model, x, chosen, [x], emulate=False)
            program, census = _compile(job)
            run = torch.no_grad()(partial(program, *job.inputs))
            found.append(Part(run, job.graph, partial(_layer_times, program, census, job)))
        return found

    def _profile(self, job: Job, runs: int) -> KernelTimes:
        return _time(*_compile(job), job, runs)

    def _write(self, job: Job, path: Path) -> None:
        """Write an AOTInductor package, a library for this processor and number of threads."""
        edit_graph(job)
        census = Census()
        with _compiling(), tempfile.TemporaryDirectory() as folder:
            exported = torch.export.export(job.rewritten.module, job.inputs, strict=False)
            written = aoti_compile_and_package(
                exported,
                package_path=str(Path(folder) / "program.pt2"),
                inductor_configs=_options(census),
            )
            content = Path(written).read_bytes()
        kernels = _kernels(census, job)
        text = signature.write_document(
            job.signature, kernels=kernels, threads=torch.get_num_threads()
        )
        path.write_bytes(package.with_metadata(content, text))

    def _read(self, path: Path) -> tuple[Signature, CompiledGraph]:
        found, document = signature.read_document(package.metadata(path), path)
        if document.threads != torch.get_num_threads():
            raise InputError(
                f"{path} was compiled for {document.threads} threads and "
                f"{torch.get_num_threads()} are in force; call torch.set_num_threads first, or "
                "export the plan again."
            )
        try:
            program = aoti_load_package(str(path))
        except Exception as error:
            raise InputError(
                f"PyTorch cannot load {path} ({reason(error)}); export the plan again with "
                "this version of PyTorch, on this kind of processor."
            ) from error
        return found, (torch.no_grad()(program), document.kernels)

    def _opened(self, path: Path) -> Callable[..., Iterable[torch.Tensor]]:
        return aoti_load_package(str(path))


def _compile(job: Job) -> tuple[Callable[..., Any], Census]:
    edit_graph(job)
    census = Census()
    with _compiling():
        program = inductor_compile(job.rewritten.module, list(job.inputs), options=_options(census))
    return program, census


def _kernels(census: Census, job: Job) -> dict[str, RealisedKernel]:
    """Return the kernel of each layer; Inductor generates code for small products of one row."""
    found = assign(census.kernels)
    for layer in job.graph.quantizable:
        runs = placement.runs_as(Inductor.name, layer, parse("w8a8"))
        if layer.op is Op.LINEAR and runs == REFERENCE:
            found.setdefault(layer.name, RealisedKernel("generated code", runs.name, ()))
    return found


def _time(program: Callable[..., Any], census: Census, job: Job, runs: int) -> KernelTimes:
    return assign(census.kernels), time_calls(program, job.inputs, census, runs)


def _layer_times(program: Callable[..., Any], census: Census, job: Job, runs: int) -> LayerTimes:
    return layer_times(_time(program, census, job, runs))


def _options(census: Census) -> dict[str, Any]:
    # Inductor's own checks of shapes between kernels take microseconds each.
    return {"freezing": True, "post_grad_custom_post_pass": census, "size_asserts": False}


@contextmanager
def _compiling() -> Iterator[None]:
    try:
        with exporting():
            yield
    except (CppCompileError, InvalidCxxCompiler) as error:
        raise RuntimeUnavailableError(
            f"The C++ compiler failed on Inductor's code ({str(error).splitlines()[0]}); "
            "install a recent g++ with the Python headers (`apt install g++ python3-dev`)."
        ) from error


def _has_bfloat16() -> bool:
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(has) and instructions.may_multiply_bfloat16()
