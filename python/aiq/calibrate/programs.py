"""Time synthetic programs in a runtime, and cut them into pieces of work."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch

from aiq import measure, quiet
from aiq.calibrate import chains
from aiq.calibrate.samples import Sample
from aiq.cost.pieces import FUNCTIONS, Piece, pieces
from aiq.formats import Format
from aiq.formats import parse as parse_format
from aiq.graph import WEIGHTED, LayerGraph, Op
from aiq.hardware.runtime_profile import Realisation
from aiq.measure import Call
from aiq.progress import Progress, silent
from aiq.runtimes import Runtime, Support
from aiq.runtimes.times import Part

BUNDLE = 12
"""Programs that are exported together, since an export takes longer than twelve programs run."""

_ANCHOR = "anchor"
_ROUNDS = 12
_TRIES = 3  # of timing while others may use the processors
_LEAST_SECONDS = 1.5
_MOST_SECONDS = 12.0  # after this long, fewer rounds are enough
_WARM_UP_SECONDS = 0.2
_PROFILED_SECONDS = 0.03
_PROFILED_RUNS = (5, 50)  # fewest and most runs under the profiler
# Profilers count in microseconds, and the time of a very short layer is mostly that of waking the
# threads, so shorter layers are no samples.
_LEAST_LAYER = 15e-6  # seconds
_LEAST_SHARE = 0.05  # share of the time of the program
_LEAST_REST = 5e-6  # seconds; a shorter rest counts as this long

REST = "rest"
"""Name of the sample of all operators without weights in a program, timed by the profiler."""


def realisations(runtime: Runtime) -> dict[str, Realisation]:
    """Return for each format what `runtime` does when it is asked for the format.

    Runtimes store the weights of linear layers as integers, and no others, so they are asked about
    linear layers for formats of weights only, and about convolutions otherwise.
    """
    found = {}
    for name, example in (
        ("fp32", "fp32"),
        ("bf16", "bf16"),
        ("w8a8", "w8a8"),
        ("wN", "w4"),
        ("wNaM", "w4a4"),
    ):
        fmt = parse_format(example)
        is_weight_only = fmt.quantizes_weights and not fmt.quantizes_activations
        support = runtime.support(Op.LINEAR if is_weight_only else Op.CONV, fmt)
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
    """Return the dtypes in which `runtime` computes each operator class and reorders inputs."""
    formats, integers = native(runtime), runtime.integer_ops
    floats = tuple(f.name for f in formats if f.name in {"fp32", "bf16"})
    every = tuple(dict.fromkeys(f.compute.name for f in formats))
    by_op = {str(op): every if op in {*WEIGHTED, *integers} else floats for op in Op}
    return {**by_op, "reorder": every}


def needed(runtime: Runtime) -> set[str]:
    """Return all kernels that networks may need (`Piece.kernel`), in the samples or not."""
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
    """The pieces of work of a program, and those that a profiler can time separately.

    Attributes
    ----------
    pieces
        All pieces of the program.
    layers
        Layer name -> piece, for each layer with weights that is a single piece. A layer into which
        more than a clamp is fused is several pieces, and a profiler gives only their sum.
    rest
        The pieces that belong to no layer with weights, if `layers` has all layers with weights;
        otherwise empty, because their time cannot be separated from that of the missing layers.
    """

    pieces: tuple[Piece, ...]
    layers: Mapping[str, Piece]
    rest: tuple[Piece, ...]


def cut(runtime: Runtime, graph: LayerGraph, formats: Mapping[str, str]) -> Cut:
    """Return the pieces of work of a program.

    Parameters
    ----------
    runtime
        The runtime that executes the program.
    graph
        The layers of the program.
    formats
        Format name by layer name.
    """
    # Match layers by name, because a module may run them in another order than it lists them.
    ordered = [parse_format(formats[layer.name]) for layer in graph.quantizable]
    distinct = list(dict.fromkeys(ordered))
    choices = [distinct.index(fmt) for fmt in ordered]
    mine = tuple(
        piece
        for piece in pieces(graph, distinct, kernels(runtime), runtime.fuses)
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


def samples(
    runtime: Runtime,
    names: Sequence[str],
    anchor: Call,
    *,
    force: bool = True,
    progress: Progress = silent,
) -> tuple[list[Sample], float]:
    """Compile the programs called `names` together, time them in turns, and cut them into pieces.

    Parameters
    ----------
    runtime
        The runtime that executes the programs.
    names
        Names of the programs (`chains.program`).
    anchor
        A program that is timed in turns with the others. On a shared machine times change from
        minute to minute, but their ratios to the time of the anchor hardly change.
    force
        Whether times count that were taken while other processes used the processors.
    progress
        Called while the machine is busy, as by `aiq.quiet.wait`.

    Returns
    -------
    list of Sample, float
        The programs and their layers, and the noise: the relative difference between two times of
        the same program.

    Raises
    ------
    BusyMachineError
        If other processes use the processors again and again, and nothing is to be forced.
    """
    drawn = [chains.program(name) for name in names]
    parts, found = compile_programs(runtime, drawn), []
    calls = {_ANCHOR: anchor, **{name: part.run for name, part in zip(names, parts, strict=True)}}
    timed = _timed(calls, force, progress)
    times = timed.levelled()
    for program, part in zip(drawn, parts, strict=True):
        made_of = cut(runtime, part.graph, program.formats)
        whole = Sample(program.name, times[program.name], made_of.pieces, times[_ANCHOR])
        found += [whole, *_profiled(whole, part, made_of)]
    return found, timed.noise


def _timed(calls: Mapping[str, Call], force: bool, progress: Progress) -> measure.Comparison:
    """Time programs in turns; again, up to `_TRIES` times, if others used the processors."""
    for left in reversed(range(_TRIES)):
        quiet.require(force=force, progress=progress)
        timed = measure.compare_timing(
            calls,
            min_seconds=_LEAST_SECONDS,
            min_rounds=_ROUNDS,
            max_seconds=_MOST_SECONDS,
            warmup_seconds=_WARM_UP_SECONDS,
            threads=torch.get_num_threads(),
        )
        if force or not timed.load.busy:
            break
        if not left:
            quiet.refuse(timed.load)
    return timed


def _profiled(whole: Sample, part: Part, made_of: Cut) -> Iterator[Sample]:
    """Yield a sample of each layer and of the rest, if the runtime has a profiler."""
    if part.profile is None:
        return
    fewest, most = _PROFILED_RUNS
    times = part.profile(min(max(round(_PROFILED_SECONDS / whole.seconds), fewest), most))
    # Profiling slows a program down, so its times are scaled to the time without the profiler.
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
