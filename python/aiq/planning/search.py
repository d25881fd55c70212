"""The front door: model, machine and data in, a plan out.

The stages in order: graph -> cost tables -> drop table -> search on the tables -> measure the plan
as a whole -> correct the prediction and search again, until the measured accuracy holds.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aiq import cost, graph, machine, runtimes
from aiq import sensitivity as sensitivity_stage
from aiq.drops import DropTable
from aiq.errors import InputError
from aiq.evaluate import Evaluator, journal
from aiq.evaluate.metrics import Metric
from aiq.formats import REFERENCE, Format, parse_all
from aiq.graph import BatchDim, Trace
from aiq.graph.export import Inputs
from aiq.hardware import Hardware
from aiq.plan import Plan, Shortlist
from aiq.planning import arguments, build_plan, interrupt, kept, loop, stopwatch, walk, weights
from aiq.planning.accuracy import AccuracyMeter
from aiq.planning.allowed import allowed_formats, with_kernels
from aiq.planning.objective import Method, Objective, default_formats
from aiq.planning.tables import Tables, drop_matrix
from aiq.planning.task import Outcome, SearchStoppedError, Task
from aiq.progress import Progress
from aiq.runtimes import Runtime, instructions
from aiq.sensitivity import CustomDrop


@interrupt.tells_what_is_kept
def search(
    model: torch.nn.Module,
    hw: str | Path | Hardware,
    data: Iterable[Any] | None = None,
    *,
    example_inputs: Inputs | None = None,
    batch_dim: BatchDim = 0,
    objective: str = Objective.THROUGHPUT,
    max_drop: float = 0.01,
    confidence: float = 0.95,
    lam: float = 0.9,
    formats: str | Iterable[str | Format] | None = None,
    runtime: str | Runtime | None = "inductor",
    method: str = Method.EXACT,
    sensitivity: str | CustomDrop | DropTable = "measured",
    calibration: Iterable[Any] | None = None,
    pin: Mapping[str, str] | None = None,
    max_size: int | None = None,
    time_limit: float | None = None,
    measure_top: int = 0,
    metric: str | Metric = "top1",
    cache_dir: str | Path | None = None,
    seed: int = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Choose a number format for every convolution and linear layer of `model`.

    Parameters
    ----------
    model
        Any module that ``torch.export`` accepts.
    hw
        Name of a hardware profile, path of one, or a `Hardware`.
    data
        Iterable of ``(inputs, targets)`` batches, targets being class indices. Without it drops
        are estimated from signal-to-noise ratios and the plan says that nothing was measured.
    example_inputs
        Arguments of one forward call; costs are for their batch size. Default: the inputs of the
        first batch of `data`.
    batch_dim
        The dimension of the inputs that counts samples: 1 for sequence-first models, such as
        ``nn.LSTM`` by default. A tuple or dict like the inputs gives it for each tensor, ``None``
        for one that all samples share. ``None`` alone: each batch of `data` is one sample and is
        evaluated whole, for inputs without a batch and for models whose outputs compare the samples
        of a batch. Targets have their batch in the same dimension, or first.
    objective
        ``throughput`` (least predicted time), ``intensity`` (most FLOPs per byte), both with an
        accuracy drop of at most `max_drop`; or ``weighted``, the paper's: minimise
        ``-lam AI / AI_fp32 + (1 - lam) drop`` with the drop in percentage points.
    max_drop
        Largest accuracy drop, as a fraction: 0.01 is one percentage point.
    confidence
        With which the plan, measured on the samples in `data`, must keep to `max_drop`: 0.5 takes
        the measured drop at its word, 0.95 leaves room for the luck of the sample.
    lam
        Weight of the intensity in ``weighted``, 0..1.
    formats
        Formats to choose from. Default: for throughput those of ``fp32,bf16,w8a8,w8a8bf16`` for
        whose arithmetic the profile has a peak, and which `runtime` can run as far as it knows;
        every ``wNaM`` and ``fp32`` for intensity, ``fp32,w8,w4`` for weighted.
    runtime
        What will execute the plan: its name, or an object like those of `aiq.runtimes`. If the
        profile is calibrated for it, times are those of its kernels, with the conversions between
        layers; otherwise (or with ``None``) the roofline. If the profile was measured on this
        machine, or `measure_top` asks for it, accuracy is that of the bits which integer kernels
        have here.
    method
        ``exact``, ``greedy``, ``coordinate`` or ``exhaustive``. With data and
        ``sensitivity="measured"``, ``greedy`` and ``coordinate`` run the paper's way: they
        measure the accuracy of every candidate. Otherwise they run on the tables.
    sensitivity
        ``measured`` (each layer alone, on `data`); ``sqnr``, ``mse``, ``kl``, ``fisher`` or
        ``hessian`` (estimates, see `aiq.sensitivity.estimate`); a function of a layer's name and a
        format that returns a drop; or a `DropTable` from earlier.
    calibration
        Batches on which the ranges of quantised activations are observed. Default: `data`.
    pin
        Pattern of layer names -> format name: layers that are no decision. The last match wins.
    max_size
        Largest size of all weights in bytes.
    time_limit
        Seconds that one solve may take; the best plan so far is returned, with its gap.
    measure_top
        Plans that are compiled in `runtime` on this machine and timed in turns with the uniform
        ones, some seconds each; the fastest within the budgets is returned, a uniform one if none
        is faster beyond the noise. Formats that the runtime has no kernels for are left out, and so
        are plans that it cannot compile, which the report names. 0:
        the plan is chosen by prediction. Only for ``throughput``.
    metric
        What accuracy is: ``top1``, ``perplexity``, ``cosine``, or a function of what the model
        returns and the targets that returns a score per sample, more being better. Drops, and
        `max_drop`, are differences of its mean.
    cache_dir
        Folder of a journal of all evaluations: what is in it is not run again, so that a search
        that was interrupted goes on where it was.
    seed
        Of all random draws.
    executor
        A ``concurrent.futures`` executor that runs the evaluations; ``None``: this process does.
    progress
        Called with what is going on, steps done, and steps in all.

    Returns
    -------
    Plan
        The choice, what it is predicted to buy, its measured accuracy, and the solver's proof.

    Raises
    ------
    InputError, FormatError, HardwareError, GraphError, DataError
        If an argument is not what it should be; the message says what to do.
    InfeasibleError
        If no plan meets the budgets; the message names the nearest feasible value.
    NoPlanError
        If `time_limit` came before any plan was found.
    Interrupted
        On Ctrl-C, a KeyboardInterrupt: its `plan` is the best so far, or ``None``. What was
        evaluated is kept in `cache_dir`.
    """
    started = time.perf_counter()
    goal = arguments.one_of(Objective, "objective", objective)
    how = arguments.one_of(Method, "method", method)
    arguments.check(
        max_drop=max_drop,
        lam=lam,
        confidence=confidence,
        time_limit=time_limit,
        seed=seed,
        measure_top=measure_top,
        max_size=max_size,
        cache_dir=cache_dir,
        sensitivity=sensitivity,
        metric=metric,
    )
    name = arguments.runtime_name(runtime)
    if goal is Objective.WEIGHTED and how is Method.EXHAUSTIVE:
        raise InputError("The weighted objective is not enumerated; use method exact, it is exact.")
    if measure_top and (goal is not Objective.THROUGHPUT or name is None):
        raise InputError(
            f"measure_top is {measure_top!r} for objective {goal} and runtime {name}; the "
            "stopwatch needs objective throughput, a runtime, and at least 1 plan."
        )
    engine = None
    if measure_top and runtime is not None:
        engine = runtimes.get(runtime) if isinstance(runtime, str) else runtime
    if cache_dir is not None:
        journal.check_folder(cache_dir)
    pins = arguments.pins(pin)
    hardware = Hardware.load(hw)
    if isinstance(runtime, str):
        arguments.check_name("runtime", runtime, [*runtimes.names(), *hardware.runtimes])
    batches = None if data is None else arguments.reiterable(data)
    calibration = None if calibration is None else arguments.reiterable(calibration, "calibration")
    examples = arguments.example_inputs(batches) if example_inputs is None else example_inputs
    report = progress or (lambda stage, done, total: None)

    trace = _export(model, examples, batch_dim, report)
    choices = (
        default_formats(goal, hardware, name, trace.graph)
        if formats is None
        else parse_all(formats)
    )
    columns = parse_all([REFERENCE, *choices, *pins.values()])
    runs_in = name if goal is Objective.THROUGHPUT else None
    allowed = allowed_formats(trace.graph, columns, choices, pins, runs_in)
    if engine is not None:
        allowed = with_kernels(trace.graph, columns, allowed, engine)
    intensity = cost.intensity_table(trace.graph, columns)
    seconds = cost.time_table(trace.graph, columns, hardware, name)
    evaluator = (
        None
        if batches is None
        else Evaluator(
            trace,
            batches,
            calibration=calibration,
            metric=metric,
            weight_bits=_kernel_bits(hardware, name, on_this_machine=engine is not None),
            cache=cache_dir,
            executor=executor,
            progress=report,
        )
    )
    in_loop = (
        evaluator is not None
        and sensitivity == "measured"
        and how in {Method.GREEDY, Method.COORDINATE}
    )
    drops = (
        None
        if in_loop
        else _drop_table(trace, evaluator, examples, sensitivity, columns, seed, report)
    )
    tables = Tables(
        cost=seconds if goal is Objective.THROUGHPUT else intensity,
        intensity=intensity,
        drop=(
            np.zeros(intensity.cost.shape)
            if drops is None
            else drop_matrix(drops, intensity.layers, columns)
        ),
        sizes=weights.bits(trace.graph, columns),
        allowed=allowed,
        shared=weights.shared(trace.graph),
        fixed_bytes=sum(parameter.bytes for parameter in trace.graph.undecided),
        drop_per_nat=None if drops is None else drops.drop_per_nat,
        measured_plans=() if drops is None else drops.measured_plans,
    )
    task = Task(
        tables=tables,
        weighted_by=lam if goal is Objective.WEIGHTED else None,
        max_drop=max_drop,
        confidence=confidence,
        max_size=max_size,
        method=how.value,
        time_limit=time_limit,
    )
    meter = None if evaluator is None else AccuracyMeter(evaluator, confidence)

    def plan_of(outcome: Outcome, timed: Shortlist | None) -> Plan:
        held_back = None if meter is None else meter.held_back(task, outcome.formats)
        return Plan(
            model=trace.graph.model,
            hardware=hardware.name,
            objective=goal.value,
            method=f"{how.value}, measuring every candidate" if in_loop else how.value,
            layers=build_plan.rows(
                trace.graph, tables, outcome.formats, runs_in, held_back, measured=not in_loop
            ),
            predicted=build_plan.prediction(outcome.formats, tables, seconds),
            baseline=build_plan.prediction(
                dict.fromkeys(intensity.layers, REFERENCE), tables, seconds
            ),
            predicted_drop=outcome.predicted_drop,
            accuracy=build_plan.accuracy(outcome, held_back),
            proof=build_plan.proof(outcome, goal.unit, tables),
            evaluations=0 if evaluator is None else evaluator.evaluations,
            seconds=time.perf_counter() - started,
            provenance={
                "machine": machine.describe(),
                "formats": [f.name for f in choices],
                "max_drop": max_drop,
                "confidence": confidence,
                "lam": lam if goal is Objective.WEIGHTED else None,
                "max_size": max_size,
                "pin": pins,
                "batch": trace.graph.batch,
                "batch_dim": batch_dim,
                "runtime": name,
                "sensitivity": None if drops is None else drops.method,
                "measure_top": measure_top,
                "metric": metric if isinstance(metric, str) else getattr(metric, "__name__", "own"),
                "seed": seed,
                "undecided": [asdict(parameter) for parameter in trace.graph.undecided],
                "uncounted": [layer.name for layer in trace.graph.uncounted],
            },
            shortlist=timed,
            tables=kept.keep(
                trace.graph,
                hardware,
                task,
                seconds,
                outcome,
                known=None if meter is None else meter.known,
                solve=not in_loop,
            ),
        )

    def bench() -> stopwatch.TimingBench:
        assert engine is not None
        seen = arguments.observed(batches, calibration, examples, batch_dim)
        return stopwatch.TimingBench(
            runtime=engine.name,
            compile=engine.compiler(model, examples, seen, batch_dim=batch_dim),
            inputs=examples,
            batch=trace.graph.batch,
            kinds=tuple(str(layer.op) for layer in trace.graph.quantizable),
        )

    timing = None if engine is None else (bench, measure_top)
    outcome, timed, stopped = _find(task, meter, in_loop, timing, report)
    plan = plan_of(outcome, timed)
    if stopped:
        raise interrupt.with_plan(plan, evaluator, cache_dir)
    return plan


def _find(
    task: Task,
    meter: AccuracyMeter | None,
    in_loop: bool,
    timing: tuple[Callable[[], stopwatch.TimingBench], int] | None,
    report: Progress,
) -> tuple[Outcome, Shortlist | None, bool]:
    """Return the best plan, what was timed, and whether Ctrl-C came before the end."""
    outcome, timed, stopped = None, None, False
    try:
        if meter is None:
            outcome = loop.search_tables(task)
        elif in_loop:
            outcome = walk.search_measured(task, meter, report)
        else:
            outcome = loop.search_verified(task, meter, report)
        if timing is not None:
            bench, top = timing
            outcome, timed = stopwatch.measured(
                task, outcome, bench(), meter, top=top, progress=report
            )
            stopped = timed is None or timed.interrupted
    except KeyboardInterrupt as stop:
        stopped = True
        if isinstance(stop, SearchStoppedError):
            outcome = stop.outcome
        if outcome is None:
            raise
    return outcome, timed, stopped


def _kernel_bits(hardware: Hardware, runtime: str | None, *, on_this_machine: bool) -> int:
    """Return the bits of a weight in integer kernels, as far as the machine of the plan is known.

    It is this one if plans are timed here or the profile was measured here.
    """
    measured_here = not machine.differences(hardware.measured_on)
    here = runtime is not None and (on_this_machine or measured_here)
    return instructions.weight_bits() if here else 8


def _drop_table(
    trace: Trace,
    evaluator: Evaluator | None,
    examples: Inputs,
    source: str | CustomDrop | DropTable,
    columns: Sequence[Format],
    seed: int,
    report: Progress,
) -> DropTable:
    """Return the drops of every layer in every column, from where the caller wants them."""
    if isinstance(source, DropTable):
        return source
    if source == "measured" and evaluator is not None:
        return sensitivity_stage.measure(evaluator, columns, seed=seed, progress=report)
    return sensitivity_stage.estimate(
        trace if evaluator is None else evaluator,
        columns,
        "sqnr" if source == "measured" else source,  # without data: the weakest, but honest
        examples,
        seed=seed,
        progress=report,
    )


def _export(
    model: torch.nn.Module, examples: Inputs, batch_dim: BatchDim, report: Progress
) -> Trace:
    report("export the model", 0, 1)
    trace = graph.trace(model, examples, batch_dim)
    report("export the model", 1, 1)
    return trace
