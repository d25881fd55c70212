"""``aiq measure`` and ``aiq compare``: the stopwatch, alone and beside predictions."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from aiq import graph, machine, runtimes
from aiq.cli.common import (
    HardwareOption,
    InputOption,
    JsonOption,
    ModelArgument,
    out,
    print_json,
    progress_bars,
)
from aiq.deploy import compare as run_comparison
from aiq.errors import InputError
from aiq.formats import parse_all
from aiq.measure import compare_timing
from aiq.plan import Plan
from aiq.report import tables
from aiq.spec import load_data, load_model


def compare(
    plan: Annotated[Path, typer.Argument(help="A plan that `aiq search -o` wrote.")],
    model: ModelArgument,
    hw: HardwareOption = "xeon_2vcpu",
    shape: InputOption = None,
    runtime: Annotated[str, typer.Option(help="What executes the plan.")] = "inductor",
    seconds: Annotated[float, typer.Option(help="Length of the timing.")] = 5.0,
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
    data: Annotated[
        str | None, typer.Option(help="Observe activations on this, as for `aiq search`.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of the timing.")] = 5.0,
    threads: Annotated[int | None, typer.Option(help="Threads; default: all processors.")] = None,
    json_: JsonOption = False,
) -> None:
    """Time a model in several formats and plans, in turns: throughput, latency, memory, noise."""
    loaded = load_model(model, shape)
    inputs = loaded.example_inputs
    calibration = [inputs] if data is None else [x for x, _ in load_data(data)]
    layers = [layer.name for layer in graph.extract(loaded.module, inputs).quantizable]
    choices = {fmt.name: dict.fromkeys(layers, fmt) for fmt in parse_all(formats)}
    choices |= {path.stem: Plan.load(path).formats for path in _distinct(plan or [], choices)}
    engine = runtimes.get(runtime)
    with progress_bars() as progress, machine.threads(threads) as used:
        programs = {}
        for step, (name, chosen) in enumerate(choices.items()):
            progress("compile", step, len(choices))
            programs[name] = engine.compile(loaded.module, inputs, chosen, calibration)
        progress("compile", len(choices), len(choices))
        calls = {name: partial(program, inputs) for name, program in programs.items()}
        timing = compare_timing(
            calls, batch=len(inputs), min_seconds=seconds, threads=used, progress=progress
        )
        memory = {name: machine.peak_memory(call) for name, call in calls.items()}
    mismatches = {name: program.mismatches for name, program in programs.items()}
    if json_:
        document = timing.to_dict()
        for entry in document["timings"]:
            entry["peak_bytes"] = memory[entry["name"]]
            entry["mismatches"] = [m._asdict() for m in mismatches[entry["name"]]]
        print_json({"runtime": runtime, "version": engine.version, **document})
    else:
        out.print(tables.timings(runtime, timing, memory, mismatches))


def _distinct(paths: Iterable[Path], taken: Iterable[str]) -> list[Path]:
    names = list(taken)
    for path in paths:
        if path.stem in names:
            raise InputError(f"Two candidates are called {path.stem}; rename {path}.")
        names.append(path.stem)
    return list(paths)
