"""The interface of a runtime, which compiles a model and reports the formats that really run."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

import torch

from aiq.errors import InputError, RuntimeUnavailableError, printable
from aiq.files import check_target, is_file, write_atomic
from aiq.formats import Format
from aiq.graph import BatchDim, Layer, Op, Trace, trace
from aiq.graph.export import Inputs
from aiq.runtimes import placement
from aiq.runtimes.door import door
from aiq.runtimes.job import Job
from aiq.runtimes.kernels import RealisedKernel
from aiq.runtimes.program import Compiled
from aiq.runtimes.rewrite import Target
from aiq.runtimes.signature import Signature
from aiq.runtimes.support import Support, in_channels, resolve
from aiq.runtimes.times import KernelTimes, Part, layer_times

CompiledGraph = tuple[Callable[..., Iterable[torch.Tensor]], Mapping[str, RealisedKernel]]
"""A compiled function from tensors to tensors, and the kernel of each layer in it."""


class Runtime(ABC):
    """A runtime executes plans."""

    name: ClassVar[str]
    keeps_layout: ClassVar[bool] = False
    """Whether programs read channels-last images without a copy."""
    fuses: ClassVar[tuple[Op, ...]] = ()
    """Operators without weights that the runtime fuses with their neighbours."""
    integer_ops: ClassVar[tuple[Op, ...]] = ()
    """Operators without weights that it computes in integers between integer layers."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the runtime's software."""

    @property
    @abstractmethod
    def target(self) -> Target:
        """Description of the graphs that the runtime's kernels expect."""

    def support(self, layer: Layer | Op, fmt: Format) -> Support:
        """Return how a layer is executed in format `fmt` on this machine.

        Parameters
        ----------
        layer
            A layer of a network, or an operator, which stands for any layer in whose place the
            operator's kernels can run (see `aiq.runtimes.placement`).
        fmt
            The format.
        """
        if isinstance(layer, Op):
            return self._support(layer, fmt)
        found = self._support(layer.op, in_channels(fmt, layer))
        has_kernel = found in {Support.NATIVE, Support.DEQUANT}
        if has_kernel and placement.runs_as(self.name, layer, fmt) != fmt:
            return Support.EMULATED
        return found

    @abstractmethod
    def _support(self, op: Op, fmt: Format) -> Support:
        """Return how operator `op` is executed in format `fmt` on this machine."""

    @abstractmethod
    def _build(self, job: Job) -> CompiledGraph:
        """Return the compiled program."""

    def _write(self, job: Job, path: Path) -> None:
        """Write the program to a file in a new folder, with its signature under `METADATA`."""
        raise self._has_no_files()

    def _read(self, path: Path) -> tuple[Signature, CompiledGraph]:
        """Return the program and the signature that `_write` wrote."""
        raise self._has_no_files()

    def _opened(self, path: Path) -> Callable[..., Iterable[torch.Tensor]]:
        """Return the program in a file, opened without aiq as its users do; see `aiq.export`."""
        raise self._has_no_files()

    def _has_no_files(self) -> RuntimeUnavailableError:
        return RuntimeUnavailableError(
            f"Runtime {self.name} has no files; use onnxruntime, openvino or inductor."
        )

    def _profile(self, job: Job, runs: int) -> KernelTimes:
        """Run the program `runs` times under the runtime's profiler."""
        raise RuntimeUnavailableError(
            f"Runtime {self.name} has no profiler that names layers; use inductor, onnxruntime or "
            "openvino."
        )

    def layer_seconds(
        self,
        model: torch.nn.Module,
        example_inputs: Inputs,
        formats: Mapping[str, Format],
        calibration: Iterable[Inputs] = (),
        *,
        runs: int = 50,
        batch_dim: BatchDim = 0,
    ) -> dict[str, float]:
        """Return the median seconds of each layer, with the operators fused into its kernel.

        The runtime's own profiler measures them inside the whole network. A layer without its own
        kernel is left out. The other parameters are those of `compile`.

        Parameters
        ----------
        runs
            Number of runs of the network.

        Raises
        ------
        RuntimeUnavailableError
            If the runtime cannot time single layers.
        """
        job = self._prepare(
            model, example_inputs, formats, calibration, emulate=False, batch_dim=batch_dim
        )
        with door(self.name, "time the layers of this network"):
            return dict(layer_times(self._profile(job, runs)).layers)

    def compile(
        self,
        model: torch.nn.Module,
        example_inputs: Inputs,
        formats: Mapping[str, Format],
        calibration: Iterable[Inputs] = (),
        *,
        emulate: bool = False,
        batch_dim: BatchDim = 0,
    ) -> Compiled:
        """Compile `model` so that each layer runs in its format.

        Parameters
        ----------
        model
            Module in evaluation mode; it is not changed.
        example_inputs
            Arguments of one call. The program is compiled for their shapes, and for the current
            number of threads.
        formats
            Format by layer name, as in `aiq.graph.trace`; layers that are not named run in float32.
        calibration
            Batches of inputs that calibrate the ranges of quantised activations; read only if a
            format quantises.
        emulate
            Whether to allow formats that the runtime can only emulate. A layer that has no kernel
            only because of its place in the network is always allowed; it runs in float32 and is
            one of `Compiled.mismatches`.
        batch_dim
            Dimension of the inputs that counts samples, as in `aiq.graph.trace`.

        Raises
        ------
        RuntimeUnavailableError
            If the runtime is not installed, has no kernel for a format of the plan, or cannot
            compile the network.
        VerificationError
            If the program's outputs differ from those of the graph from which it was made; see
            `aiq.runtimes.verification`.
        InputError
            If `formats` names a layer that the model does not have, or no calibration batch is
            given for a format that needs one.
        """
        compiled = self.compiler(
            model, example_inputs, calibration, emulate=emulate, batch_dim=batch_dim
        )
        return compiled(formats)

    def compiler(
        self,
        model: torch.nn.Module,
        example_inputs: Inputs,
        calibration: Iterable[Inputs] = (),
        *,
        emulate: bool = False,
        batch_dim: BatchDim = 0,
        traced: Trace | None = None,
    ) -> Callable[[Mapping[str, Format]], Compiled]:
        """Return a function that compiles plans of one model, which is exported only once.

        The function takes the formats of `compile` and raises the same errors. It reads
        `calibration` for every plan that quantises, so several plans need a list. `traced` is the
        exported model, if the caller has it already.
        """
        exported = cache(lambda: traced or trace(model, example_inputs, batch_dim))

        def compiled(formats: Mapping[str, Format]) -> Compiled:
            return self._verified(
                self._job(model, exported(), example_inputs, formats, calibration, emulate=emulate)
            )

        return compiled

    def _verified(self, job: Job) -> Compiled:
        """Return the program of `job`, after a comparison with the graph it was made from."""
        program = self._compiled(job)
        with door(self.name, "run this network"):
            job.reference.check(program.function)
        return program

    def _compiled(self, job: Job) -> Compiled:
        with door(self.name, "compile this network"):
            function, kernels = self._build(job)
        return Compiled(self.name, job.signature, kernels, torch.get_num_threads(), function)

    def compile_many(
        self,
        models: Sequence[torch.nn.Module],
        inputs: Sequence[torch.Tensor],
        formats: Sequence[Mapping[str, Format]],
    ) -> list[Part]:
        """Compile small models, each for one tensor, which is its calibration too.

        Some runtimes compile them together, which is faster than `compile` for each.
        """
        jobs = [
            self._prepare(model, x, chosen, [x], emulate=False)
            for model, x, chosen in zip(models, inputs, formats, strict=True)
        ]
        return [Part(partial(self._compiled(job), job.inputs[0]), job.graph) for job in jobs]

    def export(
        self,
        model: torch.nn.Module,
        path: Path,
        example_inputs: Inputs,
        formats: Mapping[str, Format],
        calibration: Iterable[Inputs] = (),
        *,
        emulate: bool = False,
        batch_dim: BatchDim = 0,
        traced: Trace | None = None,
    ) -> None:
        """Write the program to a file that runs without aiq.

        The program is written to another file first, loaded both with and without aiq, and
        verified. Only then does it replace the file at `path`. The other parameters are those of
        `compile`.
        """
        for target in self._targets(path):
            check_target(target)
        job = self._prepare(
            model,
            example_inputs,
            formats,
            calibration,
            emulate=emulate,
            batch_dim=batch_dim,
            traced=traced,
        )
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / path.name
            with door(self.name, "write this network to a file"):
                self._write(job, draft)
            with door(self.name, "run this network from a file"):
                _, (function, _) = self._read(draft)
                job.reference.check(function, "The file")
                job.reference.check(self._opened(draft), "The file, opened without aiq,")
            self._install(draft, path)

    def _install(self, draft: Path, path: Path) -> None:
        """Move the file that `_write` wrote to `draft` to `path`."""
        write_atomic(path, draft.read_bytes())

    def _targets(self, path: Path) -> tuple[Path, ...]:
        """Return the files that `export` writes."""
        return (path,)

    def load(self, path: Path) -> Compiled:
        """Return the program that `export` wrote.

        Raises
        ------
        InputError
            If the file cannot be read, or was not written by `export`.
        RuntimeUnavailableError
            If the runtime fails on it.
        """
        if not is_file(path):
            raise InputError(
                f"There is no file {printable(str(path), 200)}; give one that aiq.export wrote."
            )
        advice = "give a file that aiq.export wrote here, or export the plan again"
        with door(self.name, f"read {printable(str(path), 200)}", advice):
            signature, (function, kernels) = self._read(path)
        return Compiled(self.name, signature, kernels, torch.get_num_threads(), function)

    def _prepare(
        self,
        model: torch.nn.Module,
        example_inputs: Inputs,
        formats: Mapping[str, Format],
        calibration: Iterable[Inputs],
        *,
        emulate: bool,
        batch_dim: BatchDim = 0,
        traced: Trace | None = None,
    ) -> Job:
        traced = traced or trace(model, example_inputs, batch_dim)
        return self._job(model, traced, example_inputs, formats, calibration, emulate=emulate)

    def _job(
        self,
        model: torch.nn.Module,
        traced: Trace,
        example_inputs: Inputs,
        formats: Mapping[str, Format],
        calibration: Iterable[Inputs],
        *,
        emulate: bool,
    ) -> Job:
        return Job.of(
            model,
            traced,
            example_inputs,
            resolve(self.name, self._support, traced.graph, formats, emulate=emulate),
            calibration,
            runtime=self.name,
            target=self.target,
            keep_layout=self.keeps_layout,
        )
