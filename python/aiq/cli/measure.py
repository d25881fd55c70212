"""``aiq measure`` and ``aiq compare``: the stopwatch, alone and beside predictions."""

import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from aiq import comparison_table, graph, machine, runtimes
from aiq.calibrate import AUTO
from aiq.cli import tables
from aiq.cli.common import (
    LOADING,
    BatchDimOption,
    InputOption,
    JsonOption,
    ModelArgument,
    completions,
    out,
    print_json,
    profile_names,
    progress_bars,
)
from aiq.cli.spec import load_model
from aiq.comparison import RANDOM, PredictedMeasured
from aiq.comparison import compare as run_comparison
from aiq.data.reading import observed
from aiq.decoding import DecoderComparison
from aiq.deployment import DEFAULT_RUNTIME, runtime_of
from aiq.errors import InputError
from aiq.formats import parse, parse_all
from aiq.graph.export import Inputs, call_arguments
from aiq.hardware import Hardware
from aiq.measure import compare_timing
from aiq.plan import InputSpec, Plan
from aiq.runtimes import placement

RuntimeOption = Annotated[
    str | None,
    typer.Option(
        help="What executes the model; default: the runtime of the plan.",
        autocompletion=completions(runtimes.names),
    ),
]
DataOption = Annotated[
    str | None, typer.Option(help="Observe activations on this, as for `aiq search`.")
]


def compare(
    plan: Annotated[Path, typer.Argument(help="A plan that `aiq search -o` wrote.")],
    model: ModelArgument,
    hw: Annotated[
        str | None,
        typer.Option(
            help="Profile that predicts; default: that of the plan.",
            autocompletion=completions(profile_names),
        ),
    ] = None,
    data: DataOption = None,
    shape: InputOption = None,
    runtime: RuntimeOption = None,
    seconds: Annotated[float, typer.Option(min=0, help="Length of the timing.")] = 5.0,
    layers: Annotated[bool, typer.Option(help="Layer by layer too.")] = False,
    json_: JsonOption = False,
) -> None:
    """Time a plan against float32 on this machine, and set the prediction beside."""
    found = Plan.load(plan)
    if runtime_of(found, runtime) != placement.GGUF:
        runtimes.get(runtime_of(found, runtime))
    if hw != AUTO:
        Hardware.load(hw or found.hardware)
    with progress_bars() as progress:
        progress(LOADING, 0, 1)
        loaded = load_model(model, shape, data, needs_inputs=found.workload is None)
        progress(LOADING, 1, 1)
        result = run_comparison(
            found,
            loaded.module,
            hw,
            data=loaded.data,
            example_inputs=loaded.example_inputs,
            runtime=runtime,
            min_seconds=seconds,
            layers=layers,
            progress=progress,
        )
    if loaded.is_random and isinstance(result, PredictedMeasured):
        result = replace(result, timed_on=RANDOM)
    if json_:
        print_json(result.to_dict())
    elif isinstance(result, DecoderComparison):
        out.print(result.table())
    else:
        out.print(comparison_table.throughput(result))


def measure(
    model: ModelArgument,
    formats: Annotated[
        str, typer.Option(help="Formats to time the whole model in; the first is the baseline.")
    ] = "fp32",
    plan: Annotated[
        list[Path] | None, typer.Option(help="Plans of `aiq search -o` to time; repeatable.")
    ] = None,
    runtime: RuntimeOption = None,
    shape: InputOption = None,
    batch_dim: BatchDimOption = 0,
    data: DataOption = None,
    seconds: Annotated[float, typer.Option(min=0, help="Length of the timing.")] = 5.0,
    threads: Annotated[int | None, typer.Option(help="Threads; default: all processors.")] = None,
    memory: Annotated[
        bool, typer.Option(help="Compile each once more, in a process of its own: peak memory.")
    ] = True,
    json_: JsonOption = False,
) -> None:
    """Time a model in several formats and plans, in turns: throughput, latency, memory, noise."""
    uniform = parse_all(formats)
    names = [fmt.name for fmt in uniform]
    plans = {path.stem: Plan.load(path) for path in _distinct(plan or [], names)}
    planned = next((p.workload for p in plans.values() if p.workload is not None), None)
    runtime = runtime or (planned and planned.runtime) or DEFAULT_RUNTIME
    engine = runtimes.get(runtime)
    own = None if shape or data or planned is None else planned.inputs
    subject = _Subject(model, shape, data, own, batch_dim)
    with progress_bars() as progress, machine.threads(threads) as used:
        progress(LOADING, 0, 1)
        loaded, inputs, calibration = subject.load()
        progress(LOADING, 1, 1)
        progress("export the model", 0, 1)
        traced = graph.trace(loaded, inputs, batch_dim)
        progress("export the model", 1, 1)
        for found in plans.values():
            if found.workload is not None:
                found.workload.check_model(traced.graph, inputs)
        layers = [layer.name for layer in traced.graph.quantizable]
        choices = {fmt.name: dict.fromkeys(layers, fmt) for fmt in uniform}
        choices |= {name: found.formats for name, found in plans.items()}
        args, keywords = call_arguments(inputs)
        programs = {}
        for step, (name, chosen) in enumerate(choices.items()):
            progress("compile", step, len(choices))
            one = plans.get(name)
            rounds = replace(traced, rounding=one.rounding, learned=one.learned) if one else traced
            compiled = engine.compiler(
                loaded, inputs, calibration, batch_dim=batch_dim, traced=rounds
            )
            programs[name] = compiled(chosen)
        progress("compile", len(choices), len(choices))
        calls = {name: partial(program, *args, **keywords) for name, program in programs.items()}
        timing = compare_timing(
            calls, batch=traced.graph.batch, min_seconds=seconds, threads=used, progress=progress
        )
        held: dict[str, int | None] = dict.fromkeys(choices)
        for step, (name, chosen) in enumerate(choices.items() if memory else ()):
            progress("peak memory", step, len(choices))
            asked = {layer: fmt.name for layer, fmt in chosen.items()}
            with _another_process() as process:
                held[name] = process.submit(_peak, subject, runtime, asked, used).result()
            progress("peak memory", step + 1, len(choices))
    mismatches = {name: program.mismatches for name, program in programs.items()}
    setting = {"model": traced.graph.model, "inputs": str(InputSpec.of(inputs))}
    if json_:
        document = timing.to_dict()
        for entry in document["timings"]:
            entry["peak_bytes"] = held[entry["name"]]
            entry["mismatches"] = [m._asdict() for m in mismatches[entry["name"]]]
        setting |= {"runtime": runtime, "version": engine.version}
        print_json(setting | {"batch": traced.graph.batch} | document)
    else:
        kind = "" if data else " (random numbers)"
        title = f"{setting['model']}, {setting['inputs']}{kind}, {runtime}"
        out.print(tables.timings(title, timing, held, mismatches))


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is measured, by name: another process can load it, too.

    Attributes
    ----------
    model, shape, data
        Arguments of the command line.
    inputs
        Structure of the inputs if neither shape nor data say it, or ``None``.
    batch_dim
        The dimension of the inputs that counts samples.
    """

    model: str
    shape: str | None
    data: str | None
    inputs: InputSpec | None
    batch_dim: int | None

    def load(self) -> tuple[torch.nn.Module, Inputs, list[Inputs]]:
        """Return the model, the arguments of one call, and what activations are observed on."""
        loaded = load_model(self.model, self.shape, self.data, needs_inputs=self.inputs is None)
        inputs = loaded.inputs if self.inputs is None else self.inputs.example()
        seen = observed(inputs, self.batch_dim, loaded.data)
        return loaded.module, inputs, seen or [inputs]


def _distinct(paths: Iterable[Path], taken: Iterable[str]) -> list[Path]:
    names = list(taken)
    for path in paths:
        if path.stem in names:
            raise InputError(f"Two candidates are called {path.stem}; rename {path}.")
        names.append(path.stem)
    return list(paths)


@contextmanager
def _another_process() -> Iterator[ProcessPoolExecutor]:
    """Give a process that holds nothing yet; a fork would hold what this one does.

    Ctrl-C, which a terminal sends to both, ends this one, and this one ends the other.
    """
    context = multiprocessing.get_context("spawn")
    ignored = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(
        1, mp_context=context, initializer=signal.signal, initargs=ignored
    ) as process:
        try:
            yield process
        except BaseException:
            for child in multiprocessing.active_children():
                child.kill()
            raise


def _peak(subject: _Subject, runtime: str, formats: Mapping[str, str], threads: int) -> int | None:
    """Return the most bytes that a process holds while it runs a model in `formats`."""
    with machine.threads(threads):
        model, inputs, calibration = subject.load()
        program = runtimes.get(runtime).compile(
            model,
            inputs,
            {layer: parse(name) for layer, name in formats.items()},
            calibration,
            batch_dim=subject.batch_dim,
        )
        del model, calibration
        args, keywords = call_arguments(inputs)
        return machine.peak_memory(partial(program, *args, **keywords))
