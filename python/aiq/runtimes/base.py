"""What a runtime is: it compiles a model in the formats asked for and says what really runs."""

import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, NamedTuple

import torch

from aiq import placement
from aiq.errors import GraphError, InputError, RuntimeUnavailableError, printable
from aiq.files import check_target, is_file, write_atomic
from aiq.formats import REFERENCE, Format, parse
from aiq.graph import BatchDim, Layer, LayerGraph, Op, Trace, trace
from aiq.graph.export import Inputs
from aiq.runtimes.arguments import Arguments, leaves
from aiq.runtimes.door import door
from aiq.runtimes.explicit import write_out
from aiq.runtimes.kernels import RealisedKernel, label
from aiq.runtimes.program import Compiled
from aiq.runtimes.rewrite import Rewritten, Target, rewrite
from aiq.runtimes.signature import Signature
from aiq.runtimes.verification import Reference, snapshot

CompiledGraph = tuple[Callable[..., Iterable[torch.Tensor]], Mapping[str, RealisedKernel]]
"""What runs, from tensors to tensors, and the kernel of each layer in it."""

KernelTimes = tuple[Mapping[str, RealisedKernel], Mapping[str, Sequence[float]]]
"""The kernel of each layer, and the seconds of each run by the node that a kernel is."""


class LayerTimes(NamedTuple):
    """What a runtime's profiler says of a network.

    Attributes
    ----------
    layers
        Median seconds of each layer that has a kernel of its own, with what is fused into it.
    total
        Median seconds of all nodes, added up.
    """

    layers: Mapping[str, float]
    total: float


class Part(NamedTuple):
    """One of several small models that were compiled together.

    Attributes
    ----------
    run
        Runs it once on its input.
    graph
        Its layers.
    profile
        From a number of runs to its `LayerTimes`; ``None`` where the runtime has no profiler.
    """

    run: Callable[[], Any]
    graph: LayerGraph
    profile: Callable[[int], LayerTimes] | None = None


class Support(StrEnum):
    """How a runtime executes an operator in a format.

    ``native`` computes in the format's own arithmetic; ``dequant`` stores the weights small and
    computes wide; ``emulated`` gives the format's results at the speed of another format;
    ``none`` cannot run it.
    """

    NATIVE = "native"
    DEQUANT = "dequant"
    EMULATED = "emulated"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Job:
    """A model, ready for a compiler.

    Attributes
    ----------
    model
        As given.
    example_inputs
        As given.
    inputs
        Their tensors, as the program reads them.
    graph
        The model's layers.
    formats
        Format of every layer.
    rewritten
        The model's graph with the formats written into it.
    signature
        What the program takes and returns.
    writes_inputs
        Whether `model` writes into its inputs, as no program does.
    reference
        What the program has to compute.
    """

    model: torch.nn.Module
    example_inputs: Inputs
    inputs: tuple[torch.Tensor, ...]
    graph: LayerGraph
    formats: Mapping[str, Format]
    rewritten: Rewritten
    signature: Signature
    writes_inputs: bool
    reference: Reference


class Runtime(ABC):
    """What executes a plan."""

    name: ClassVar[str]
    keeps_layout: ClassVar[bool] = False
    """Whether its programs read images that are channels-last in memory without a copy."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the software behind it."""

    @property
    @abstractmethod
    def target(self) -> Target:
        """What its kernels expect of a graph."""

    def support(self, layer: Layer | Op, fmt: Format) -> Support:
        """Return how a layer is executed in format `fmt` on this machine.

        Parameters
        ----------
        layer
            A layer of a network, or an operator class: any layer of that class that stands where
            its kernels can work (`aiq.placement` knows the others).
        fmt
            What it is asked to run in.
        """
        if isinstance(layer, Op):
            return self._support(layer, fmt)
        found = self._support(layer.op, _in_channels(fmt, layer))
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
        """Write the program, and its signature under `METADATA`, to a file in a new folder."""
        raise self._has_no_files()

    def _read(self, path: Path) -> tuple[Signature, CompiledGraph]:
        """Return what `_write` wrote."""
        raise self._has_no_files()

    def _opened(self, path: Path) -> Callable[..., Iterable[torch.Tensor]]:
        """Return the program in a file as a user opens it without aiq; see `aiq.export`."""
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
        emulate: bool = False,
        batch_dim: BatchDim = 0,
    ) -> dict[str, float]:
        """Return the median seconds of each layer, with what is fused into its kernel.

        By the runtime's own profiler, inside the whole network; a layer that has no kernel of its
        own is left out. Arguments as for `compile`.

        Raises
        ------
        RuntimeUnavailableError
            If the runtime cannot time single layers.
        """
        job = self._prepare(
            model, example_inputs, formats, calibration, emulate=emulate, batch_dim=batch_dim
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
            Module in evaluation mode; it is not modified.
        example_inputs
            Arguments of one call; the program is compiled for their shapes, and for the number of
            threads in force.
        formats
            Format by layer name (names of `aiq.graph.trace`); layers not named run in float32.
        calibration
            Batches on which the ranges of quantised activations are observed. Only read where a
            format quantises.
        emulate
            Allow formats that the runtime can only emulate. A layer that has no kernel only because
            of where it stands runs in float32 without it, and is one of `Compiled.mismatches`.
        batch_dim
            The dimension of the inputs that counts samples, as for `aiq.graph.trace`.

        Raises
        ------
        RuntimeUnavailableError
            If the runtime is not installed, has no kernel for a format of the plan, or cannot
            compile the network.
        VerificationError
            If the program does not compute what the graph computes that it was made from; see
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
    ) -> Callable[[Mapping[str, Format]], Compiled]:
        """Return what compiles plan after plan of one model, which is exported with the first.

        It takes the formats of `compile`, and raises what that raises. `calibration` is read for
        every plan that quantises: a list, not a generator, if there are several.
        """
        exported = cache(partial(trace, model, example_inputs, batch_dim))

        def compiled(formats: Mapping[str, Format]) -> Compiled:
            return self._verified(
                self._job(model, exported(), example_inputs, formats, calibration, emulate=emulate)
            )

        return compiled

    def _verified(self, job: Job) -> Compiled:
        """Return the program of `job`, which was compared with the graph that it is made from."""
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
        """Compile small models, each for one tensor.

        As `compile` does, with the tensor as calibration too; faster where a runtime can.
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
    ) -> None:
        """Write the program to a file that runs without aiq; see `compile` and `load`.

        What was written is loaded and verified, as aiq loads it and as others do, before it
        replaces the file.
        """
        for target in self._targets(path):
            check_target(target)
        job = self._prepare(
            model, example_inputs, formats, calibration, emulate=emulate, batch_dim=batch_dim
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
        """Put what `_write` wrote to `draft` in the place of what is at `path`."""
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
    ) -> Job:
        traced = trace(model, example_inputs, batch_dim)
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
        if traced.random:
            raise GraphError(
                f"The results of {traced.graph.model} are random in evaluation mode, so that no "
                "program can be compared with it; leave its random part out, or draw the numbers "
                "outside and pass them in as an input."
            )
        arguments = Arguments.of(example_inputs, keep_layout=self.keeps_layout)
        resolved = self._resolve(traced.graph, formats, emulate=emulate)
        quantizes = any(fmt.quantizes_weights for fmt in resolved.values())
        batches = _batches(calibration) if quantizes else []
        rewritten = rewrite(traced, example_inputs, resolved, batches, self.target)
        write_out(rewritten.module)
        label(rewritten.module.graph, rewritten.heads)
        signature = Signature(
            asked={name: fmt.name for name, fmt in resolved.items()},
            arguments=arguments,
            returns=rewritten.returns,
        )
        inputs = arguments.fit(leaves(example_inputs))
        alike = filter(partial(_alike, inputs), map(leaves, batches))
        reference = Reference(
            self.name,
            resolved,
            frozenset(self.target.packed),
            arguments.fit(next(alike, inputs)),
            snapshot(rewritten.module),
            traced.module,
        )
        return Job(
            model,
            example_inputs,
            inputs,
            traced.graph,
            resolved,
            rewritten,
            signature,
            traced.writes_inputs,
            reference,
        )

    def _resolve(
        self, graph: LayerGraph, formats: Mapping[str, Format], *, emulate: bool
    ) -> dict[str, Format]:
        """Return the format of every quantizable layer of `graph`, checked against `support`."""
        layers = {layer.name: layer for layer in graph.quantizable}
        for name in formats:
            if name not in layers:
                close = get_close_matches(name, layers, n=1)
                hint = f"did you mean {close[0]!r}?" if close else "see `aiq graph` for its layers."
                raise InputError(f"The model has no quantizable layer {name!r}; {hint}")
        resolved = {
            name: _in_channels(formats.get(name, REFERENCE), layer)
            for name, layer in layers.items()
        }
        for name, fmt in resolved.items():
            op = layers[name].op
            support = self._support(op, fmt)
            if support is Support.NONE:
                raise RuntimeUnavailableError(
                    f"Runtime {self.name} cannot run {op} layer {name!r} in {fmt}; choose another "
                    "format for it or another runtime."
                )
            if support is Support.EMULATED and not emulate:
                raise RuntimeUnavailableError(
                    f"Runtime {self.name} has no {fmt} kernel for {op} layer {name!r} on this "
                    "machine and can only emulate it; choose another format, or allow emulation."
                )
        return resolved


def _batches(calibration: Iterable[Inputs]) -> list[Inputs]:
    if isinstance(calibration, torch.Tensor) or not isinstance(calibration, Iterable):
        raise InputError(
            f"The calibration data is a {type(calibration).__name__}; pass a list of batches of "
            "inputs, each like the example inputs."
        )
    return list(calibration)


def _alike(inputs: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> bool:
    """Whether a program for `inputs` takes `others` too."""
    return [(x.shape, x.dtype) for x in inputs] == [(x.shape, x.dtype) for x in others]


def layer_times(profile: KernelTimes) -> LayerTimes:
    """Return what a profile says of layers."""
    kernels, seconds = profile
    timed = {name: seconds.get(kernel.node) for name, kernel in kernels.items()}
    return LayerTimes(
        {name: median(values) for name, values in timed.items() if values},
        sum(map(median, seconds.values())),
    )


def _in_channels(fmt: Format, layer: Layer) -> Format:
    """Return `fmt` without its groups where a channel of the layer is no longer than a group."""
    group, shape = fmt.weight_granularity.group, layer.weight_shape
    if group is None or shape is None or math.prod(shape[1:]) > group:
        return fmt
    return parse(f"w{fmt.weight.bits}")
