"""Timing synthetic programs in a runtime, and what each of them is made of."""

import time
from collections.abc import Callable, Collection, Mapping

import numpy as np

from aiq.calibrate import chains
from aiq.calibrate.samples import Sample
from aiq.cost.pieces import pieces
from aiq.formats import Format
from aiq.formats import parse as parse_format
from aiq.graph import WEIGHTED, Op, trace
from aiq.hardware.runtime_profile import Realisation
from aiq.runtimes import Compiled, Runtime, Support

Clock = Callable[[], float]

FUSES: Mapping[str, tuple[str, ...]] = {
    "inductor": tuple(
        str(op) for op in Op if op not in {*WEIGHTED, Op.MATMUL, Op.OTHER, Op.EMBEDDING}
    ),
}
"""Operator classes for which a runtime generates code, and so fuses them with their neighbours."""

QUANTILE = 0.25
_TURN_SECONDS = 1e-3
_LEAST_TURNS = 15
_LEAST_SECONDS = 0.2


def realisations(runtime: Runtime) -> dict[str, Realisation]:
    """Return what `runtime` does when asked for each format."""
    found = {}
    for name, example in (
        ("fp32", "fp32"),
        ("bf16", "bf16"),
        ("w8a8", "w8a8"),
        ("wN", "w4"),
        ("wNaM", "w4a4"),
    ):
        fmt = parse_format(example)
        support = runtime.support(Op.CONV, fmt)
        runs_as = example
        if support is not Support.NATIVE:
            runs_as = "w8a8" if fmt.quantizes_activations else "fp32"
        found[name] = Realisation(str(support), runs_as)
    return found


def native(runtime: Runtime) -> tuple[Format, ...]:
    """Return the formats for which `runtime` has kernels, float32 first."""
    return tuple(
        parse_format(name)
        for name, entry in realisations(runtime).items()
        if entry.support == Support.NATIVE
    )


def kernels(formats: Collection[Format]) -> dict[str, tuple[str, ...]]:
    """Return the dtypes in which each operator class is computed, given the native formats."""
    floats = tuple(f.name for f in formats if f.name in {"fp32", "bf16"})
    every = tuple(dict.fromkeys(f.compute.name for f in formats))
    return {str(op): every if op in WEIGHTED else floats for op in Op}


def compile_program(runtime: Runtime, program: chains.Program) -> Compiled:
    """Return `program`, compiled in its formats."""
    formats = {name: parse_format(fmt) for name, fmt in program.formats.items()}
    return runtime.compile(program.module, program.inputs, formats, [program.inputs])


def sample(runtime: Runtime, name: str, clock: Clock = time.perf_counter) -> Sample:
    """Time the program called `name`, and cut it into pieces."""
    program = chains.program(name)
    compiled = compile_program(runtime, program)
    seconds = seconds_per_run(lambda: compiled(program.inputs), clock)
    graph = trace(program.module, program.inputs).graph
    planned = [parse_format(program.formats[layer.name]) for layer in graph.quantizable]
    distinct = list(dict.fromkeys(planned))
    choices = [distinct.index(fmt) for fmt in planned]
    parts = pieces(graph, distinct, kernels(native(runtime)), FUSES.get(runtime.name, ()))
    return Sample(
        name,
        seconds,
        tuple(
            part
            for part in parts
            if all(choices[i] == k for i, k in zip(part.layers, part.formats, strict=True))
        ),
    )


def seconds_per_run(call: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Return the typical time of a run when nothing else disturbs the machine.

    The first quartile over short turns: what a busy machine adds to less than three quarters of
    them is left out.
    """
    call()
    start = clock()
    call()
    runs = max(1, round(_TURN_SECONDS / max(clock() - start, 1e-6)))
    times: list[float] = []
    began = clock()
    while len(times) < _LEAST_TURNS or clock() - began < _LEAST_SECONDS:
        start = clock()
        for _ in range(runs):
            call()
        times.append((clock() - start) / runs)
    return float(np.quantile(times, QUANTILE))
