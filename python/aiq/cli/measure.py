"""``aiq measure`` and ``aiq compare``: the stopwatch, alone and beside predictions."""

import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from aiq import graph, machine, runtimes
from aiq.cli import tables
from aiq.cli.common import (
    BatchDimOption,
    HardwareOption,
    InputOption,
    JsonOption,
    ModelArgument,
    out,
    print_json,
    progress_bars,
)
from aiq.cli.spec import load_data, load_model
from aiq.comparison import compare as run_comparison
from aiq.data.reading import inputs_of, read
from aiq.errors import InputError
from aiq.formats import parse, parse_all
from aiq.graph.export import Inputs
from aiq.measure import compare_timing
from aiq.plan import Plan


def compare(
    plan: Annotated[Path, typer.Argument(help="A plan that `aiq search -o` wrote.")],
    model: ModelArgument,
    hw: HardwareOption = "xeon_2vcpu",
    shape: InputOption = None,
    runtime: Annotated[str, typer.Option(help="What executes the plan.")] = "inductor",
    seconds: Annotated[float, typer.Option(min=0, help="Length of the timing.")] = 5.0,
    layers: Annotated[bool, typer.Option(help="Layer by layer too.")] = False,
    json_: JsonOption = False,
) -> None:
    """Time a plan against float32 on this machine, and set the prediction beside."""
    loaded = load_model(model, shape)
    with progress_bars() as progress:
        result = run_comparison(
            Plan.load(plan),
            loaded.module,
            hw,
            example_inputs=loaded.example_inputs,
            calibration=[loaded.example_inputs],
            runtime=runtime,
            min_seconds=seconds,
            layers=layers,
            progress=progress,
        )
    if json_:
        print_json(result.to_dict())
    else:
        out.print(tables.throughput(result))


def measure(
    model: ModelArgument,
    formats: Annotated[
        str, typer.Option(help="Formats to time the whole model in; the first is the baseline.")
    ] = "fp32",
    plan: Annotated[
        list[Path] | None, typer.Option(help="Plans of `aiq search -o` to time; repeatable.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="What executes the model.")] = "inductor",
    shape: InputOption = None,
    batch_dim: BatchDimOption = 0,
    data: Annotated[
        str | None, typer.Option(help="Observe activations on this, as for `aiq search`.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Length of the timing.")] = 5.0,
    threads: Annotated[int | None, typer.Option(help="Threads; default: all processors.")] = None,
    memory: Annotated[
        bool, typer.Option(help="Compile each once more, in a process of its own: peak memory.")
    ] = True,
    json_: JsonOption = False,
) -> None:
    """Time a model in several formats and plans, in turns: throughput, latency, memory, noise."""
    loaded = load_model(model, shape)
    inputs = loaded.example_inputs
    calibration = _calibration(inputs, data)
    engine = runtimes.get(runtime)
    layers = graph.extract(loaded.module, inputs, batch_dim)
    names = [layer.name for layer in layers.quantizable]
    choices = {fmt.name: dict.fromkeys(names, fmt) for fmt in parse_all(formats)}
    choices |= {path.stem: Plan.load(path).formats for path in _distinct(plan or [], choices)}
    with progress_bars() as progress, machine.threads(threads) as used:
        programs = {}
        compiled = engine.compiler(loaded.module, inputs, calibration, batch_dim=batch_dim)
        for step, (name, chosen) in enumerate(choices.items()):
            progress("compile", step, len(choices))
            programs[name] = compiled(chosen)
        progress("compile", len(choices), len(choices))
        calls = {name: partial(program, inputs) for name, program in programs.items()}
        timing = compare_timing(
            calls, batch=layers.batch, min_seconds=seconds, threads=used, progress=progress
        )
        held: dict[str, int | None] = dict.fromkeys(choices)
        for step, (name, chosen) in enumerate(choices.items() if memory else ()):
            progress("peak memory", step, len(choices))
            planned = {layer: fmt.name for layer, fmt in chosen.items()}
            with _another_process() as process:
                held[name] = process.submit(
                    _peak, model, shape, data, runtime, planned, used, batch_dim
                ).result()
            progress("peak memory", step + 1, len(choices))
    mismatches = {name: program.mismatches for name, program in programs.items()}
    if json_:
        document = timing.to_dict()
        for entry in document["timings"]:
            entry["peak_bytes"] = held[entry["name"]]
            entry["mismatches"] = [m._asdict() for m in mismatches[entry["name"]]]
        print_json({"runtime": runtime, "version": engine.version, **document})
    else:
        out.print(tables.timings(runtime, timing, held, mismatches))


def _distinct(paths: Iterable[Path], taken: Iterable[str]) -> list[Path]:
    names = list(taken)
    for path in paths:
        if path.stem in names:
            raise InputError(f"Two candidates are called {path.stem}; rename {path}.")
        names.append(path.stem)
    return list(paths)


def _calibration(inputs: Inputs, data: str | None) -> list[Inputs]:
    return [inputs] if data is None else [inputs_of(batch) for batch in read(load_data(data))]


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


def _peak(
    model: str,
    shape: str | None,
    data: str | None,
    runtime: str,
    formats: Mapping[str, str],
    threads: int,
    batch_dim: int,
) -> int | None:
    """Return the most bytes that a process holds while it runs `model` in `formats`."""
    with machine.threads(threads):
        loaded = load_model(model, shape)
        inputs = loaded.example_inputs
        program = runtimes.get(runtime).compile(
            loaded.module,
            inputs,
            {layer: parse(name) for layer, name in formats.items()},
            _calibration(inputs, data),
            batch_dim=batch_dim,
        )
        del loaded
        return machine.peak_memory(partial(program, inputs))
