"""The front door: model, machine and data in, a plan out.

The stages in order: read the inputs, export the model, find the formats that each layer may have,
price them, measure what they lose, search on these tables, and measure the plan as a whole.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from aiq import bars, calibrate
from aiq.decoders import check_positions
from aiq.drops import DropTable
from aiq.evaluate.executor import Executor, opened
from aiq.evaluate.metrics import Metric
from aiq.formats import Format
from aiq.graph import BatchDim, Decode
from aiq.graph.export import Inputs
from aiq.hardware import Hardware
from aiq.plan import Plan
from aiq.planning import build_plan, interrupt, least_drop, loop, stages, stopwatch, walk
from aiq.planning.accuracy import AccuracyMeter
from aiq.planning.allowed import check_pins
from aiq.planning.build_plan import Found
from aiq.planning.options import SearchOptions
from aiq.planning.task import SearchStoppedError, Task
from aiq.progress import Progress, silent
from aiq.runtimes import Runtime
from aiq.sensitivity import CustomDrop


@bars.shows_progress
@interrupt.tells_what_is_kept
def search(
    model: torch.nn.Module,
    hw: str | Path | Hardware = "auto",
    data: Iterable[Any] | None = None,
    *,
    example_inputs: Inputs | None = None,
    batch_dim: BatchDim = 0,
    objective: str = "throughput",
    max_drop: float = 0.01,
    confidence: float = 0.95,
    lam: float = 0.9,
    formats: str | Iterable[str | Format] | None = None,
    runtime: str | Runtime | None = "inductor",
    method: str = "exact",
    sensitivity: str | CustomDrop | DropTable = "auto",
    calibration: Iterable[Any] | None = None,
    pin: Mapping[str, str] | None = None,
    max_size: int | None = None,
    max_seconds: float | None = None,
    min_intensity: float | None = None,
    time_limit: float | None = None,
    measure_top: int = 0,
    metric: str | Metric = "top1",
    max_perplexity_ratio: float | None = None,
    workload: Decode | str | None = None,
    rounding: str = "nearest",
    frontier: bool = False,
    cache: bool | str | Path = True,
    seed: int = 0,
    executor: Executor | int | None = None,
    progress: bars.Shown = "bar",
) -> Plan:
    """Choose a number format for every convolution and linear layer of `model`.

    Parameters
    ----------
    model
        Any module that ``torch.export`` accepts.
    hw
        Name of a hardware profile, path of one, or a `Hardware`; ``auto``: a profile that was
        measured on a machine like this one. If there is none, this machine and the runtime are
        calibrated briefly, once, in a minute or two, and the profile is kept; the plan says which
        profile it is.
    data
        Iterable of ``(inputs, targets)`` batches, targets being class indices; inputs are a
        tensor, or a tuple or dict of tensors. Inputs alone will do if the metric is ``cosine``.
        Without data, drops are estimated from signal-to-noise ratios and the plan says that
        nothing was measured.
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
        accuracy drop of at most `max_drop`; ``weighted``, the paper's: minimise
        ``-lam AI / AI_fp32 + (1 - lam) drop`` with the drop in percentage points; or ``accuracy``:
        the least drop within `max_size`, `max_seconds` or `min_intensity`, without `max_drop`. On
        the data, the divergence from the float32 network decides, because a few hundred samples
        cannot tell plans apart by counting right answers.
    max_drop
        Largest accuracy drop, as a fraction: 0.01 is one percentage point.
    confidence
        Confidence with which the plan, measured on the samples in `data`, must keep to `max_drop`:
        0.5 takes the measured drop at its word, 0.95 leaves room for the luck of the sample.
    lam
        Weight of the intensity in ``weighted``, 0..1.
    formats
        Formats to choose from. Default: for throughput those of ``fp32,bf16,w8a8,w8a8bf16`` for
        whose arithmetic the profile has a peak, and which `runtime` can run as far as it knows;
        every ``wNaM`` and ``fp32`` for intensity, and for accuracy without `max_seconds`;
        ``fp32,w8,w4`` for weighted.
    runtime
        Runtime that will execute the plan: its name, or an object like those of `aiq.runtimes`. If
        the profile is calibrated for it, times are those of its kernels, with the conversions
        between layers; otherwise, or with ``None``, they are those of the roofline. If the profile
        was measured on this machine, or `measure_top` asks for it, accuracy is that of the bits
        which integer kernels have here.
    method
        ``exact``, ``greedy``, ``coordinate`` or ``exhaustive``. With data and the sensitivities
        ``auto`` or ``measured``, ``greedy`` and ``coordinate`` run the paper's way: they measure
        the accuracy of every candidate. Otherwise they run on the tables.
    sensitivity
        ``auto``: estimates from derivatives, and measurements of the layers that decide (see
        `aiq.sensitivity.estimate_and_measure`); ``measured`` (each layer alone, on `data`);
        ``sqnr``, ``mse``, ``kl``, ``fisher``, ``curvature`` or ``hessian`` (estimates, see
        `aiq.sensitivity.estimate`); a function of a layer's name and a format that returns a drop;
        or a `DropTable` from earlier.
    calibration
        Batches of inputs, or of ``(inputs, targets)``, on which the ranges of quantised activations
        are observed, and by which weights are rounded. Default: `data`, which flatters weights
        that are rounded by few samples.
    pin
        Pattern of layer names -> format name: layers that are no decision. The last match wins.
    max_size
        Largest size of all weights in bytes.
    max_seconds, min_intensity
        Most predicted seconds of a batch, least FLOPs per byte: budgets of ``accuracy``, of which
        one may be given.
    time_limit
        Seconds that one solve may take; the best plan so far is returned, with its gap.
    measure_top
        Plans that are compiled in `runtime` on this machine and timed in turns with the uniform
        ones, some seconds each; the fastest within the budgets is returned, a uniform one if none
        is faster beyond the noise. Formats that the runtime has no kernels for are left out, and so
        are plans that it cannot compile, which the report names. 0:
        the plan is chosen by prediction. Only for ``throughput``.
    metric
        Measure of accuracy: ``top1``, ``perplexity``, ``cosine``, or a function of the model's
        output and the targets that returns a score for each sample, greater being better. Drops,
        and `max_drop`, are differences of its mean; with ``perplexity`` they are differences of its
        logarithm, and 0.05 is a ratio of 1.05.
    max_perplexity_ratio
        Largest perplexity over that of float32: 1.05 is 5 % more. It takes the place of
        `metric` and `max_drop`.
    workload
        Work of a language model, for example ``aiq.Decode(prompt=512, tokens=128)``. The predicted
        time is then that of reading the prompt and of writing the tokens one by one. The inputs are
        numbers of tokens, (batch, length). Default: one batch of the inputs.
    frontier
        Whether every layer alone and all uniform plans are evaluated even if the answer needs
        neither, for example if the cheapest plan of all is within the budget. The plan then keeps a
        whole frontier and all sensitivities; otherwise it may know only the times of other plans.
    rounding
        How weights are rounded to integers: ``nearest``; ``gptq`` (Frantar et al. 2023) and
        ``adaptive`` (the objective of Nagel et al. 2020) round them so that errors of a layer's
        output, on the calibration data, are small. The whole search then measures weights that are
        rounded so, and `aiq.deploy` rounds them again in that way.
    cache
        Whether evaluations are kept, in the user's cache folder or in one that is named: what is
        there is not run again, so that a search with another budget takes seconds and one that was
        interrupted goes on. With a metric of your own, name a folder to keep them.
    seed
        Seed of all random draws.
    executor
        What runs the evaluations, with equal results: a number of processes that are started here,
        an executor of ``concurrent.futures``, or a ``distributed.Client`` of Dask for several
        machines; ``None``: this process. Each worker computes with as many threads as this process.
    progress
        Called with the name of the stage, the steps done, and the number of steps. ``"bar"`` shows
        them on stderr: as bars, or without a terminal as a line every ten seconds. ``None`` shows
        nothing.

    Returns
    -------
    Plan
        The format of every layer, predictions, measured accuracy, and the solver's proof.

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
        evaluated is kept in `cache`.
    """
    started = time.perf_counter()
    options = SearchOptions(
        objective=objective,
        max_drop=max_drop,
        confidence=confidence,
        lam=lam,
        formats=formats,
        runtime=runtime,
        method=method,
        sensitivity=sensitivity,
        pin=pin,
        max_size=max_size,
        max_seconds=max_seconds,
        min_intensity=min_intensity,
        time_limit=time_limit,
        measure_top=measure_top,
        metric=metric,
        max_perplexity_ratio=max_perplexity_ratio,
        workload=workload,
        rounding=rounding,
        frontier=frontier,
        cache=cache,
        seed=seed,
    )
    report = progress if callable(progress) else silent
    options.validate(None if hw == calibrate.AUTO else Hardware.load(hw))
    workers = opened(executor)
    check_pins(model, options.pins)
    if options.decode is not None:
        check_positions(model, options.decode.prompt + options.decode.tokens)
    source = stages.read_data(data, calibration, example_inputs, batch_dim)
    trace = stages.trace_model(model, source, options.rounding, report)
    machine = calibrate.choose(hw, options.section, report, times=options.prices_time)
    hardware = machine.hardware
    choices = stages.choices(trace.graph, hardware, options)
    seconds = stages.workload_seconds(trace.graph, source, choices.columns, hardware, options)
    task = stages.task(stages.tables(trace.graph, choices, seconds, options), options)
    with workers as running:
        evaluator = stages.evaluator(trace, source, hardware, options, running, report)
        meter = AccuracyMeter(evaluator, options.confidence, options.seed) if evaluator else None
        drops = partial(stages.drop_table, trace, evaluator, source, choices.columns, options)
        bench = partial(stages.bench, model, trace, source, options)
        found = _find(task, meter, options, drops=drops, bench=bench, progress=report)
    plan = build_plan.assemble(trace, machine, source, choices, seconds, options, found, started)
    if found.stopped:
        raise interrupt.with_plan(plan, evaluator)
    return plan


def _find(
    task: Task,
    meter: AccuracyMeter | None,
    options: SearchOptions,
    *,
    drops: Callable[[Progress], DropTable],
    bench: Callable[[], stopwatch.TimingBench],
    progress: Progress,
) -> Found:
    """Return the best plan by the tables and the data, and by the stopwatch if that is asked."""
    walks = options.measures_candidates(has_data=meter is not None)
    found = Found(task, meter)
    try:
        outcome = None
        if meter is not None and not (walks or task.least_drop):
            outcome = loop.search_cheapest(task, meter, progress)
            found = replace(found, outcome=outcome)
        needed = options.frontier or outcome is None
        if isinstance(options.sensitivity, DropTable) or (needed and not walks):
            table = drops(progress)
            task = replace(task, tables=stages.with_drops(task.tables, table))
            found = replace(found, task=task, drops=table)
        if task.least_drop:
            outcome = least_drop.search_least_drop(task, meter, progress)
        elif meter is None:
            outcome = loop.search_tables(task)
        elif walks:
            outcome = walk.search_measured(task, meter, progress)
        elif outcome is None:
            outcome = loop.search_verified(task, meter, progress)
        if options.frontier and meter is not None:
            outcome = loop.measure_uniform(task, meter, outcome, progress)
        found = replace(found, outcome=outcome)
        if options.times_plans:
            outcome, timed = stopwatch.fastest(
                task,
                outcome,
                bench(),
                meter,
                top=options.measure_top,
                seed=options.seed,
                progress=progress,
            )
            stopped = timed is None or timed.interrupted
            found = replace(found, outcome=outcome, timed=timed, stopped=stopped)
    except KeyboardInterrupt as stop:
        if isinstance(stop, SearchStoppedError):
            found = replace(found, outcome=stop.outcome)
        if found.outcome is None:
            raise
        return replace(found, stopped=True)
    return found
