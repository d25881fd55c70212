"""Make a plan of the outcome of a search: predictions, proof, and a reason for each layer."""

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from aiq import solver
from aiq.calibrate import Choice
from aiq.cost import CostTable
from aiq.drops import DropTable
from aiq.formats import REFERENCE, Format, WeightRounding
from aiq.graph import LayerGraph, Trace
from aiq.machine import describe
from aiq.plan import (
    Accuracy,
    InputSpec,
    Plan,
    PlanCertificate,
    PlannedLayer,
    Prediction,
    Shortlist,
    SolveSummary,
    Workload,
)
from aiq.plan.certificate import certificate_of
from aiq.plan.workload import operators
from aiq.planning import kept
from aiq.planning.accuracy import AccuracyMeter, HeldBack
from aiq.planning.objective import Objective
from aiq.planning.options import SearchOptions
from aiq.planning.price import per_tenth
from aiq.planning.reasons import finer, reasons
from aiq.planning.stages import Choices, Source
from aiq.planning.tables import Tables
from aiq.planning.task import Outcome, Task
from aiq.planning.weights import fixed
from aiq.report.scores import Words


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The findings of a search.

    Attributes
    ----------
    task
        Task of the search, with the drops of the layers if they were needed.
    meter
        Meter that measured accuracy, or ``None``.
    outcome
        The best plan; ``None`` while there is none.
    drops
        The drops of the layers, or ``None`` if the search did without.
    timed
        The plans that were timed, or ``None``.
    stopped
        Whether Ctrl-C came before the end.
    """

    task: Task
    meter: AccuracyMeter | None
    outcome: Outcome | None = None
    drops: DropTable | None = None
    timed: Shortlist | None = None
    stopped: bool = False


def assemble(
    trace: Trace,
    machine: Choice,
    source: Source,
    choices: Choices,
    seconds: CostTable,
    options: SearchOptions,
    found: Found,
    started: float,
) -> Plan:
    """Return the plan that a search found; `started` is when it began, by ``perf_counter``."""
    hardware, tables = machine.hardware, found.task.tables
    meter, outcome = found.meter, found.outcome
    assert outcome is not None
    held_back = None if meter is None else meter.held_back(found.task, outcome.formats)
    walked = options.measures_candidates(has_data=meter is not None)
    runtime = options.section if options.prices_time else None
    float32 = dict.fromkeys(tables.cost.layers, REFERENCE)
    return Plan(
        model=trace.graph.model,
        hardware=hardware.name,
        objective=str(options.objective),
        method=f"{options.method}, measuring every candidate" if walked else str(options.method),
        layers=planned_layers(
            trace.graph,
            tables,
            outcome.formats,
            runtime,
            held_back,
            Words.of({"metric": options.metric_name}),
            measured=found.drops is not None,
            walked=walked,
            least_drop=found.task.least_drop,
        ),
        predicted=prediction(outcome.formats, tables, seconds),
        baseline=prediction(float32, tables, seconds),
        predicted_drop=outcome.predicted_drop,
        accuracy=accuracy(outcome, held_back),
        proof=replace(
            proof(outcome, options.goal.unit, tables),
            per_tenth=None if found.drops is None else per_tenth(found.task, outcome),
        ),
        evaluations=0 if meter is None else meter.evaluator.evaluations,
        seconds=time.perf_counter() - started,
        provenance=_provenance(trace, source, choices, options, found.drops)
        | {"calibrated": [*hardware.runtimes]}
        | ({"profile": machine.reason} if machine.reason else {}),
        shortlist=found.timed,
        tables=kept.keep(
            trace.graph,
            hardware,
            found.task,
            seconds,
            outcome,
            known=None if meter is None else meter.known,
            solve=found.drops is not None,
        ),
        workload=Workload(
            inputs=InputSpec.of(source.inputs),
            batch=trace.graph.batch,
            runtime=options.runtime_name,
            threads=hardware.threads,
            operators=operators(trace.graph),
            torch=torch.__version__,
        ),
        certificate=certificate(outcome, tables),
    )


def _provenance(
    trace: Trace,
    source: Source,
    choices: Choices,
    options: SearchOptions,
    drops: DropTable | None,
) -> dict[str, Any]:
    """Return what is needed to repeat the search."""
    return {
        "machine": describe(),
        "formats": [f.name for f in choices.formats],
        "max_drop": None if options.goal is Objective.ACCURACY else options.max_drop,
        "confidence": options.confidence,
        "lam": options.lam if options.goal is Objective.WEIGHTED else None,
        "max_size": options.max_size,
        "max_seconds": options.max_seconds,
        "min_intensity": options.min_intensity,
        "pin": options.pins,
        "batch": trace.graph.batch,
        "batch_dim": source.batch_dim,
        "runtime": options.runtime_name,
        "sensitivity": None if drops is None else drops.method,
        "measure_top": options.measure_top,
        "frontier": options.frontier,
        "decode": None if options.decode is None else asdict(options.decode),
        "metric": options.metric_name,
        "rounding": str(options.rounding),
        "rounded_on_data": options.rounding != WeightRounding.NEAREST
        and source.calibration is None,
        "seed": options.seed,
        "undecided": [asdict(x) for x in fixed(trace.graph, options.section)],
        "uncounted": [layer.name for layer in trace.graph.uncounted],
    }


def prediction(formats: Mapping[str, Format], tables: Tables, seconds: CostTable) -> Prediction:
    """Return what a choice is predicted to need."""
    runs = [table.total(formats) for _, table in seconds.runs]
    return Prediction(
        intensity=tables.intensity.intensity(formats),
        bytes=tables.intensity.total(formats),
        seconds=seconds.total(formats),
        level=seconds.level.value,
        weight_bytes=tables.size(formats),
        first_seconds=runs[0] if runs else None,
        token_seconds=runs[-1] if runs else None,
    )


def proof(outcome: Outcome, unit: str, tables: Tables) -> SolveSummary:
    """Return what the solver proved about an outcome whose value has this unit."""
    match outcome.solution:
        case None:
            return SolveSummary("heuristic", outcome.value, None, None, unit, 0, 0.0, None, 1.0)
        case solver.WeightedSolution() as found:
            gap = (found.value - found.bound) / max(abs(found.value), 1e-300)
            return SolveSummary(
                status=found.status,
                value=found.value,
                bound=found.bound,
                gap=0.0 if found.status == "optimal" else gap,
                unit=unit,
                nodes=found.steps,
                seconds=found.seconds,
                drop_budget=None,
                drop_factor=outcome.drop_factor,
            )
        case found:
            if found.certificate.minimize == "drop":
                return _least_drop(outcome, found, unit, tables)
            assert found.cost is not None
            per_unit = tables.cost.per_unit
            value = (found.cost + tables.cost.fixed) / per_unit
            bound = None if found.bound is None else (found.bound + tables.cost.fixed) / per_unit
            status, gap = found.status, found.gap
            if outcome.formats != tables.formats(found.choices):  # the stopwatch preferred another
                status, value = "measured", outcome.value
                gap = math.inf if bound is None else max(0.0, (value - bound) / value)
            return SolveSummary(
                status=status,
                value=value,
                bound=bound,
                gap=gap if math.isfinite(gap) else None,
                unit=unit,
                nodes=found.nodes,
                seconds=found.seconds,
                drop_budget=outcome.drop_budget,
                drop_factor=outcome.drop_factor,
                cheapest=status == "optimal" and outcome.drop_budget is None,
                closed=dict(Counter(step.closed for step in found.certificate.proof)),
            )


def _least_drop(
    outcome: Outcome, found: solver.Solution, unit: str, tables: Tables
) -> SolveSummary:
    """Return what was proved about the least sum of drops; values are those of the tables."""
    chosen = outcome.formats == tables.formats(found.choices)
    value = tables.predicted_drop(outcome.formats)
    gap = 0.0 if chosen and found.status == "optimal" else math.inf
    if found.bound is not None and value > 0 and gap:
        gap = max(0.0, (value - float(found.bound)) / value)
    return SolveSummary(
        status=found.status if chosen else "measured",
        value=value,
        bound=None if found.bound is None else float(found.bound),
        gap=gap if math.isfinite(gap) else None,
        unit=unit,
        nodes=found.nodes,
        seconds=found.seconds,
        drop_budget=None,
        drop_factor=1.0,
        closed=dict(Counter(step.closed for step in found.certificate.proof)),
    )


def certificate(outcome: Outcome, tables: Tables) -> PlanCertificate | None:
    """Return the certificate of an exact solution within a budget, if it is small."""
    if not isinstance(outcome.solution, solver.Solution):
        return None
    position = {owner: i for i, owner in enumerate(sorted(set(tables.owners)))}
    return certificate_of(outcome.solution, [position[owner] for owner in tables.owners])


def accuracy(outcome: Outcome, held_back: HeldBack | None) -> Accuracy | None:
    """Return the measured accuracy, and what would let a cheaper plan be chosen."""
    if outcome.accuracy is None or held_back is None:
        return outcome.accuracy
    return replace(outcome.accuracy, samples_needed=held_back.samples)


def planned_layers(
    layers: LayerGraph,
    tables: Tables,
    formats: Mapping[str, Format],
    runtime: str | None,
    held_back: HeldBack | None,
    words: Words,
    *,
    measured: bool,
    walked: bool,
    least_drop: bool,
) -> tuple[PlannedLayer, ...]:
    """Return what each layer saves and loses, and why nothing cheaper or finer was chosen.

    `runtime` will run the plan, and may have only float32 kernels for some layers. `held_back` is a
    cheaper plan that too few samples were evaluated for. Drops are in `words`. `measured` says
    whether the drops in the tables are known, and `walked` whether every candidate was measured
    instead. With `least_drop`, the drop was minimised and not the cost.
    """
    cost, names = tables.cost.cost, [f.name for f in tables.cost.formats]
    reference = names.index(REFERENCE.name)
    total = float(cost[:, reference].sum()) + tables.cost.fixed
    if least_drop:
        why = finer(tables, formats, words)
    else:
        why = reasons(
            layers, tables, formats, runtime, held_back, words, measured=measured, walked=walked
        )
    found = []
    for i, (layer, k) in enumerate(zip(layers.quantizable, tables.columns(formats), strict=True)):
        found.append(
            PlannedLayer(
                name=layer.name,
                op=str(layer.op),
                format=names[k],
                flops=layer.flops,
                weight_elements=layer.weight_elements - layer.repeated_elements,
                share=float(cost[i, reference]) / total,
                saving=1 - float(cost[i, k]) / max(1.0, float(cost[i, reference])),
                drop=float(tables.drop[i, k]) if measured else 0.0,
                why=why[i],
            )
        )
    return tuple(found)
