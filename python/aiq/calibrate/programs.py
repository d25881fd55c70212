"""Timing synthetic programs in a runtime, and what each of them is made of."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from aiq.calibrate import chains
from aiq.calibrate.samples import Sample
from aiq.cost.pieces import Piece, pieces
from aiq.formats import Format
from aiq.formats import parse as parse_format
from aiq.graph import WEIGHTED, Edge, LayerGraph, Op, trace
from aiq.hardware.runtime_profile import Realisation
from aiq.runtimes import Runtime, Support
from aiq.runtimes.bundle import Bundle

Clock = Callable[[], float]
Call = Callable[[], object]

FUSES: Mapping[str, tuple[str, ...]] = {
    "inductor": tuple(
        str(op) for op in Op if op not in {*WEIGHTED, Op.MATMUL, Op.OTHER, Op.EMBEDDING}
    ),
}
"""Operator classes for which a runtime generates code, and so fuses them with their neighbours."""

BUNDLE = 12
"""Programs that are exported together: an export costs more than twelve of these programs."""

QUANTILE = 0.25
_TURN_SECONDS = 1e-3
_LEAST_TURNS = 15
_LEAST_SECONDS = 0.12


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


def compile_programs(runtime: Runtime, programs: Sequence[chains.Program]) -> list[Call]:
    """Return what runs each of `programs` once."""
    return runtime.compile_many(
        [program.module for program in programs],
        [program.inputs for program in programs],
        [{n: parse_format(f) for n, f in program.formats.items()} for program in programs],
    )


def cut(runtime: Runtime, programs: Sequence[chains.Program]) -> list[tuple[Piece, ...]]:
    """Return the pieces of work of which each of `programs` is made."""
    bundle = Bundle([program.module for program in programs]).eval()
    graph = trace(bundle, tuple(program.inputs for program in programs)).graph
    known, fuses = kernels(native(runtime)), FUSES.get(runtime.name, ())
    return [
        _pieces(part, [parse_format(f) for f in program.formats.values()], known, fuses)
        for part, program in zip(_split(graph, len(programs)), programs, strict=True)
    ]


def _split(graph: LayerGraph, count: int) -> Iterator[LayerGraph]:
    """Cut the graph of a bundle into those of its parts, whose layers stand together."""
    owners: list[int] = []
    for layer in graph.layers:
        prefix, _, rest = layer.name.partition(".")
        owners.append(int(rest.partition(".")[0]) if prefix == "parts" else owners[-1])
    for part in range(count):
        mine = [index for index, owner in enumerate(owners) if owner == part]
        position = {index: place for place, index in enumerate(mine)}
        yield LayerGraph(
            graph.model,
            graph.batch,
            tuple(graph.layers[index] for index in mine),
            tuple(
                Edge(position[edge.source], position[edge.target], edge.elements, edge.fused)
                for edge in graph.edges
                if edge.source in position
            ),
        )


def _pieces(
    graph: LayerGraph,
    planned: Sequence[Format],
    known: Mapping[str, tuple[str, ...]],
    fuses: Collection[str],
) -> tuple[Piece, ...]:
    """Return the pieces of work of `graph` when its layers have the formats `planned`."""
    distinct = list(dict.fromkeys(planned))
    choices = [distinct.index(fmt) for fmt in planned]
    return tuple(
        part
        for part in pieces(graph, distinct, known, fuses)
        if all(choices[i] == k for i, k in zip(part.layers, part.formats, strict=True))
    )


def samples(
    runtime: Runtime, names: Sequence[str], clock: Clock = time.perf_counter
) -> list[Sample]:
    """Compile the programs called `names` together, time them one by one, and cut them up."""
    drawn = [chains.program(name) for name in names]
    parts, calls = cut(runtime, drawn), compile_programs(runtime, drawn)
    return [
        Sample(name, seconds_per_run(call, clock), pieces_)
        for name, call, pieces_ in zip(names, calls, parts, strict=True)
    ]


def seconds_per_run(call: Call, clock: Clock = time.perf_counter) -> float:
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
