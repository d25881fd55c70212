"""The stages of a search before anything is searched: each a function from what is known so far."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from aiq import cache, cost, graph, machine
from aiq import sensitivity as sensitivity_stage
from aiq.cost import CostTable
from aiq.cost.several import several
from aiq.data.reading import first_inputs, observed, reiterable
from aiq.decoders import token_input
from aiq.drops import DropTable
from aiq.errors import InputError
from aiq.evaluate import Evaluator
from aiq.evaluate.executor import Executor
from aiq.fingerprint import Fingerprint
from aiq.formats import REFERENCE, Format, WeightRounding, parse_all
from aiq.graph import BatchDim, LayerGraph, Trace
from aiq.graph.export import Inputs
from aiq.hardware import Hardware
from aiq.planning import stopwatch, weights
from aiq.planning.allowed import allowed_formats, with_kernels
from aiq.planning.files_bench import decoder_bench
from aiq.planning.objective import Objective, default_formats
from aiq.planning.options import SearchOptions
from aiq.planning.tables import Tables, drop_matrix
from aiq.planning.task import Task
from aiq.progress import Progress
from aiq.runtimes import Runtime, instructions, placement
from aiq.runtimes.absorbed import absorbs


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What a search reads.

    Attributes
    ----------
    batches
        Batches that can be read again; ``None``: there is no data to measure accuracy on.
    calibration
        Batches on which activations are observed, or ``None`` for `batches`.
    inputs
        Arguments of one call.
    batch_dim
        The dimension of the inputs that counts samples.
    """

    batches: Iterable[Any] | None
    calibration: Iterable[Any] | None
    inputs: Inputs
    batch_dim: BatchDim

    def observed(self) -> list[Inputs]:
        """Return the inputs on which programs observe their activations."""
        if self.batches is None and self.calibration is None:
            return [self.inputs]
        return observed(self.inputs, self.batch_dim, self.batches, self.calibration)


@dataclass(frozen=True, slots=True)
class Choices:
    """Which formats there are, and which each layer may have.

    Attributes
    ----------
    formats
        The formats to choose from.
    columns
        The formats of all tables: float32, those to choose from, and those of pinned layers.
    allowed
        For each layer, the columns that it may have.
    """

    formats: tuple[Format, ...]
    columns: tuple[Format, ...]
    allowed: tuple[tuple[int, ...], ...]


def read_data(
    data: Iterable[Any] | None,
    calibration: Iterable[Any] | None,
    example_inputs: Inputs | None,
    batch_dim: BatchDim,
) -> Source:
    """Return what the search reads; the example inputs default to those of the first batch."""
    batches = None if data is None else reiterable(data)
    if calibration is not None:
        calibration = reiterable(calibration, "calibration")
    if example_inputs is None and batches is None:
        raise InputError(
            "Neither data nor example_inputs were given; give one batch of inputs as "
            "example_inputs, and data to measure accuracy."
        )
    if example_inputs is None and batches is not None:
        example_inputs = first_inputs(batches)
    assert example_inputs is not None
    return Source(batches, calibration, example_inputs, batch_dim)


def trace_model(model: torch.nn.Module, source: Source, rounding: str, progress: Progress) -> Trace:
    """Return the exported model, whose weights are to be rounded in a way, and its layer graph."""
    progress("export the model", 0, 1)
    trace = graph.trace(model, source.inputs, source.batch_dim)
    trace = replace(trace, rounding=WeightRounding(rounding))
    progress("export the model", 1, 1)
    return trace


def choices(layers: LayerGraph, hardware: Hardware, options: SearchOptions) -> Choices:
    """Return the formats to choose from, for each layer those that the runtime can run there."""
    runtime = options.runtime_name
    formats = (
        default_formats(
            options.goal,
            hardware,
            runtime,
            layers,
            timed=options.prices_time,
            decodes=options.decode is not None,
        )
        if options.formats is None
        else parse_all(options.formats)
    )
    columns = parse_all([REFERENCE, *formats, *options.pins.values()])
    runs_in = options.section if options.prices_time or runtime == placement.GGUF else None
    allowed = allowed_formats(layers, columns, formats, options.pins, runs_in)
    # A runtime that is given as an object is asked itself; of a name only the profile is known.
    given = options.runtime if options.formats is None and runs_in is not None else None
    engine = options.engine or (given if isinstance(given, Runtime) else None)
    if engine is not None:
        allowed = with_kernels(layers, columns, allowed, engine)
    return Choices(formats, columns, allowed)


def workload_seconds(
    layers: LayerGraph,
    source: Source,
    columns: Sequence[Format],
    hardware: Hardware,
    options: SearchOptions,
) -> CostTable:
    """Return the predicted time of the workload: of one batch, or of a prompt and its answer."""
    section, decode = options.section, options.decode
    if decode is None:
        return cost.time_table(layers, columns, hardware, section)
    length, last_logits = token_input(source.inputs).shape[1], section in placement.LAST_LOGITS
    reading = decode.reading(layers, length, last_logits=last_logits)
    writing = decode.writing(layers, length)
    return several(
        [
            (1, cost.time_table(reading, columns, hardware, section)),
            (decode.tokens, cost.time_table(writing, columns, hardware, section)),
        ]
    )


def tables(
    layers: LayerGraph, choices: Choices, seconds: CostTable, options: SearchOptions
) -> Tables:
    """Return what every layer costs in every format; what it loses is not known yet.

    Raises
    ------
    InfeasibleError, InputError
        If no search on these tables can succeed.
    """
    intensity = cost.intensity_table(layers, choices.columns)
    found = Tables(
        cost=seconds if options.prices_time else intensity,
        intensity=intensity,
        drop=np.zeros(intensity.cost.shape),
        sizes=weights.size_table(layers, choices.columns, options.section),
        allowed=choices.allowed,
        shared=weights.shared(layers),
        fixed_bytes=weights.fixed_bytes(layers, options.section),
    )
    found.check(options.max_size, str(options.method))
    return found


def task(tables: Tables, options: SearchOptions) -> Task:
    """Return what is to be searched for."""
    max_cost = options.max_seconds
    if options.min_intensity is not None:
        max_cost = tables.intensity.flops / options.min_intensity
    return Task(
        tables=tables,
        weighted_by=options.lam if options.goal is Objective.WEIGHTED else None,
        max_drop=math.inf if options.goal is Objective.ACCURACY else options.max_drop,
        confidence=options.confidence,
        least_drop=options.goal is Objective.ACCURACY,
        max_cost=max_cost,
        max_size=options.max_size,
        method=str(options.method),
        time_limit=options.time_limit,
    )


def evaluator(
    trace: Trace,
    source: Source,
    hardware: Hardware,
    options: SearchOptions,
    executor: Executor | None,
    progress: Progress,
) -> Evaluator | None:
    """Return what measures the accuracy of plans on the data, or ``None`` without data."""
    if source.batches is None:
        return None
    folder = options.folder
    if options.cache is True and folder is not None:
        cache.trim()
    return Evaluator(
        trace,
        source.batches,
        calibration=_observed(source, options),
        metric=options.metric,
        weight_bits=_kernel_bits(hardware, options),
        absorbs=absorbs(options.runtime_name),
        gguf=options.runtime_name == placement.GGUF,
        cache=folder,
        lenient=options.cache is True,
        executor=executor,
        seed=options.seed,
        progress=progress,
    )


def _observed(source: Source, options: SearchOptions) -> Iterable[Any] | None:
    """Return the batches on which activations are observed; a decoder needs only their means."""
    if source.calibration is None and options.decode is not None:
        return [source.inputs]
    return source.calibration


def drop_table(
    trace: Trace,
    evaluator: Evaluator | None,
    source: Source,
    columns: tuple[Format, ...],
    options: SearchOptions,
    progress: Progress,
) -> DropTable:
    """Return the drops of every layer in every column, measured or estimated."""
    method = options.sensitivity
    if isinstance(method, DropTable):
        return method
    if method == "measured" and evaluator is not None:
        return sensitivity_stage.measure(evaluator, columns, seed=options.seed, progress=progress)
    if method == "auto" and evaluator is not None:
        quick = partial(sensitivity_stage.estimate_quickly, evaluator, columns)
        table = _kept(
            evaluator, columns, options, partial(quick, seed=options.seed, progress=progress)
        )
        most = math.inf if options.goal is Objective.ACCURACY else options.max_drop
        return sensitivity_stage.measure_what_decides(evaluator, table, most, progress=progress)
    estimate = partial(
        sensitivity_stage.estimate,
        trace if evaluator is None else evaluator,
        columns,
        "sqnr" if method in {"auto", "measured"} else method,  # the weakest, but honest
        source.inputs,
        seed=options.seed,
        progress=progress,
    )
    return estimate() if evaluator is None else _kept(evaluator, columns, options, estimate)


def _kept(
    evaluator: Evaluator,
    columns: tuple[Format, ...],
    options: SearchOptions,
    estimate: Callable[[], DropTable],
) -> DropTable:
    """Return the drops that an earlier search has estimated, or estimate and keep them."""
    if evaluator.folder is None or callable(options.sensitivity):
        return estimate()
    hashed = Fingerprint()
    for name, value in (
        ("evaluations", evaluator.fingerprint),
        ("formats", [fmt.name for fmt in columns]),
        ("method", options.sensitivity),
        ("seed", options.seed),
    ):
        hashed.add(name, value)
    path = evaluator.folder / f"drops-{hashed.hexdigest()[:24]}.json"
    if path.exists():
        with suppress(InputError):  # it is damaged, and is written again
            cache.touch(path)
            return DropTable.load(path)
    drops = estimate()
    with suppress(InputError):  # a full disk ends no search
        drops.save(path)
    return drops


def with_drops(tables: Tables, drops: DropTable) -> Tables:
    """Return the tables with what every layer loses in every format."""
    return replace(
        tables,
        drop=drop_matrix(drops, tables.cost.layers, tables.cost.formats),
        measured_plans=drops.measured_plans,
    )


def bench(
    model: torch.nn.Module, trace: Trace, source: Source, options: SearchOptions
) -> stopwatch.TimingBench:
    """Return what plans are compiled and timed on."""
    engine, runtime = options.engine, options.runtime_name
    if engine is None:
        assert options.decode is not None, "options were validated"
        assert runtime is not None, "options were validated"
        return decoder_bench(model, trace, source.inputs, options.decode, runtime)
    compiler = engine.compiler(
        model, source.inputs, source.observed(), batch_dim=source.batch_dim, traced=trace
    )
    return stopwatch.TimingBench(
        runtime=engine.name,
        compile=compiler,
        inputs=source.inputs,
        batch=trace.graph.batch,
        kinds=tuple(str(layer.op) for layer in trace.graph.quantizable),
    )


def _kernel_bits(hardware: Hardware, options: SearchOptions) -> int:
    """Return the bits of a weight in integer kernels, as far as the machine of the plan is known.

    It is this machine if plans are timed here or the profile was measured here.
    """
    measured_here = not machine.differences(hardware.measured_on)
    here = options.runtime_name is not None and (options.measure_top or measured_here)
    return instructions.weight_bits() if here else 8
