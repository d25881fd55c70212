"""Timing synthetic programs in a runtime, and what each of them is made of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch

from aiq import measure
from aiq.calibrate import chains
from aiq.calibrate.samples import Sample
from aiq.cost.pieces import FUNCTIONS, Piece, pieces
from aiq.formats import Format
from aiq.formats import parse as parse_format
from aiq.graph import WEIGHTED, LayerGraph, Op
from aiq.hardware.runtime_profile import Realisation
from aiq.measure import Call
from aiq.runtimes import Runtime, Support
from aiq.runtimes.base import Part

FUSES: Mapping[str, tuple[str, ...]] = {
    "inductor": tuple(
        str(op) for op in Op if op not in {*WEIGHTED, Op.MATMUL, Op.OTHER, Op.EMBEDDING}
    ),
}
"""Operator classes for which a runtime generates code, and so fuses them with their neighbours."""

INTEGER_KERNELS: Mapping[str, tuple[Op, ...]] = {
    "onnxruntime": (Op.POOL, Op.CONCAT),
    "openvino": (Op.POOL, Op.CONCAT),
}
"""Operator classes without weights that a runtime computes in integers between integer layers."""

BUNDLE = 12
"""Programs that are exported together: an export costs more than twelve of these programs."""

_ANCHOR = "anchor"
_ROUNDS = 12
_LEAST_SECONDS = 1.5
_MOST_SECONDS = 12.0  # after which six rounds are enough
_WARM_UP_SECONDS = 0.2
_PROFILED_SECONDS = 0.03
_PROFILED_RUNS = (5, 50)  # fewest and most
_LEAST_LAYER = 15e-6  # seconds of a layer worth a sample: profilers count microseconds
_LEAST_SHARE = 0.05  # of its program: less is mostly the waking of threads
_LEAST_REST = 5e-6  # seconds; what takes less is still known to be short

REST = "rest"
"""Name of the sample of all that a profiler times beside the layers with weights."""


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


def kernels(runtime: Runtime) -> dict[str, tuple[str, ...]]:
    """Return the dtypes in which `runtime` computes each operator class, and reorders inputs."""
    formats, integers = native(runtime), INTEGER_KERNELS.get(runtime.name, ())
    floats = tuple(f.name for f in formats if f.name in {"fp32", "bf16"})
    every = tuple(dict.fromkeys(f.compute.name for f in formats))
    by_op = {str(op): every if op in {*WEIGHTED, *integers} else floats for op in Op}
    return {**by_op, "reorder": every}


def needed(runtime: Runtime) -> set[str]:
    """Return the kernels that networks may need (`Piece.kernel`), whatever a calibration drew."""
    by_op = dict(kernels(runtime))
    by_op |= dict.fromkeys({*FUNCTIONS.values(), "residual"}, by_op[Op.CONV])
    by_op |= dict.fromkeys(("mean", "average"), by_op[Op.POOL])
    computed = {f"{op}.{dtype}" for op, dtypes in by_op.items() for dtype in dtypes}
    return computed | {f"{a}_to_{b}" for a, b in permutations(by_op[Op.CONV], 2)}


def compile_programs(runtime: Runtime, programs: Sequence[chains.TimedNetwork]) -> list[Part]:
    """Compile `programs` together."""
    return runtime.compile_many(
        [program.module for program in programs],
        [program.inputs for program in programs],
        [{n: parse_format(f) for n, f in program.formats.items()} for program in programs],
    )


@dataclass(frozen=True, slots=True)
class Cut:
    """The pieces of work of which a program is made, and those of layers that are one piece.

    Attributes
    ----------
    pieces
        All of them.
    layers
        By name, the kernel of each layer with weights into which nothing is fused but a clamp: all
        that a profiler can mean by it.
    rest
        All that is no layer with weights, if `layers` are all that are: what a profiler times
        beside them.
    """

    pieces: tuple[Piece, ...]
    layers: Mapping[str, Piece]
    rest: tuple[Piece, ...]


def cut(runtime: Runtime, graph: LayerGraph, formats: Mapping[str, str]) -> Cut:
    """Return the pieces of work of which a program is made.

    Parameters
    ----------
    runtime
        What runs it.
    graph
        Its layers.
    formats
        Format name by layer name.
    """
    # By name: layers do not always run in the order in which a module lists them.
    ordered = [parse_format(formats[layer.name]) for layer in graph.quantizable]
    distinct = list(dict.fromkeys(ordered))
    choices = [distinct.index(fmt) for fmt in ordered]
    mine = tuple(
        piece
        for piece in pieces(graph, distinct, kernels(runtime), FUSES.get(runtime.name, ()))
        if all(choices[i] == k for i, k in zip(piece.layers, piece.formats, strict=True))
    )
    own = {piece.layers[0]: piece for piece in mine if piece.shape}
    layers = {
        layer.name: own[index]
        for index, layer in enumerate(graph.quantizable)
        if not layer.fused_elements and not any(name in FUNCTIONS for name in layer.fused)
    }
    rest = [piece for piece in mine if not piece.shape] if len(layers) == len(own) else []
    return Cut(mine, layers, tuple(rest))


def samples(runtime: Runtime, names: Sequence[str], anchor: Call) -> tuple[list[Sample], float]:
    """Compile the programs called `names` together, time them in turns, and cut them up.

    Parameters
    ----------
    runtime
        What runs them.
    names
        Which programs (`chains.program`).
    anchor
        Takes turns with them: on a shared machine times change from minute to minute, ratios to
        the anchor's time hardly.

    Returns
    -------
    list of Sample, float
        Programs and layers, and the noise: the relative difference that is none.
    """
    drawn = [chains.program(name) for name in names]
    parts, found = compile_programs(runtime, drawn), []
    timed = measure.compare_timing(
        {_ANCHOR: anchor, **{name: part.run for name, part in zip(names, parts, strict=True)}},
        min_seconds=_LEAST_SECONDS,
        min_rounds=_ROUNDS,
        max_seconds=_MOST_SECONDS,
        warmup_seconds=_WARM_UP_SECONDS,
        threads=torch.get_num_threads(),
    )
    times = timed.levelled()
    for program, part in zip(drawn, parts, strict=True):
        made_of = cut(runtime, part.graph, program.formats)
        whole = Sample(program.name, times[program.name], made_of.pieces, times[_ANCHOR])
        found += [whole, *_profiled(whole, part, made_of)]
    return found, timed.noise


def _profiled(whole: Sample, part: Part, made_of: Cut) -> Iterator[Sample]:
    """Yield the layers that the runtime's profiler times, and all else, if it has one."""
    if part.profile is None:
        return
    fewest, most = _PROFILED_RUNS
    times = part.profile(min(max(round(_PROFILED_SECONDS / whole.seconds), fewest), most))
    # Profiling slows a program down; what it adds is no part of a layer.
    share = min(1.0, whole.seconds / times.total)

    def sample(name: str, seconds: float, pieces: tuple[Piece, ...]) -> Sample:
        name = f"{whole.name}#{name}"
        return Sample(name, share * seconds, pieces, whole.anchor, is_whole=False)

    for name, piece in made_of.layers.items():
        seconds = times.layers.get(name, 0.0)
        if seconds > max(_LEAST_LAYER, _LEAST_SHARE * times.total):
            yield sample(name, seconds, (piece,))
    rest = times.total - sum(times.layers.values())
    if made_of.rest and made_of.layers.keys() <= times.layers.keys() and rest > 0:
        yield sample(REST, max(rest, _LEAST_REST), made_of.rest)
