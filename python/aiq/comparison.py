"""Prediction beside measurement: a plan and float32, timed in turns."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from aiq import cost, graph, machine, measure, runtimes
from aiq.formats import REFERENCE
from aiq.graph.export import Inputs, call_arguments
from aiq.hardware import Hardware
from aiq.measure import Comparison, Interval, Verdict
from aiq.plan import Plan
from aiq.progress import Progress
from aiq.runtimes import Compiled, Mismatch

FLOAT, PLAN = "fp32", "plan"


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer of the plan in the whole network, with what is fused into it.

    Attributes
    ----------
    layer, format
        Its name, and the format planned.
    predicted
        Seconds, without the conversions on its edges.
    measured
        Seconds of its kernel by the runtime's profiler, median of all runs; ``None`` if it has no
        kernel of its own.
    """

    layer: str
    format: str
    predicted: float
    measured: float | None


@dataclass(frozen=True, slots=True)
class PredictedMeasured:
    """Prediction beside measurement, for the float32 network and for the plan.

    Attributes
    ----------
    runtime, hardware
        What ran, and the profile that predicted.
    level
        The cost model behind the prediction.
    predicted
        Candidate -> predicted seconds of one batch.
    timing
        The measurement.
    mismatches
        Layers that run in another format than planned.
    layers
        Layer by layer, if asked for.
    differences
        What is different here from where the profile was measured, for which it predicts: some of
        ``cpu``, ``isa``, ``limits``, ``threads``. Empty for a profile that nobody measured.
    """

    runtime: str
    hardware: str
    level: str
    predicted: Mapping[str, float]
    timing: Comparison
    mismatches: tuple[Mismatch, ...]
    layers: tuple[LayerTime, ...] = ()
    differences: tuple[str, ...] = ()

    @property
    def predicted_speedup(self) -> float:
        """Float32 time over plan time, as predicted."""
        return self.predicted[FLOAT] / self.predicted[PLAN]

    @property
    def measured_speedup(self) -> Interval:
        """Float32 time over plan time, as measured."""
        return self.timing.speedup(PLAN)

    @property
    def verdict(self) -> Verdict:
        """Whether the plan is faster than float32: yes, no, or within the noise."""
        return self.timing.verdict(PLAN)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        return {
            "runtime": self.runtime,
            "hardware": self.hardware,
            "level": self.level,
            "predicted_seconds": dict(self.predicted),
            "predicted_speedup": self.predicted_speedup,
            "mismatches": [mismatch._asdict() for mismatch in self.mismatches],
            "timing": self.timing.to_dict(),
            "layers": [asdict(layer) for layer in self.layers],
            "differences": list(self.differences),
        }


def compare(
    plan: Plan,
    model: torch.nn.Module,
    hw: str | Hardware,
    *,
    example_inputs: Inputs,
    calibration: Iterable[Inputs] = (),
    runtime: str = "inductor",
    min_seconds: float = 5.0,
    layers: bool = False,
    progress: Progress | None = None,
) -> PredictedMeasured:
    """Compile the float32 network and the plan, time them in turns, and set the prediction beside.

    Parameters
    ----------
    plan, model, example_inputs, calibration, runtime
        As for `deploy`.
    hw
        Hardware profile that predicts; the measurement is of the machine this runs on.
    min_seconds
        Length of the timing.
    layers
        Compare layer by layer too; only runtimes whose profiler names layers can.
    progress
        Called with what is going on, steps done, and steps in all.
    """
    report = progress or (lambda stage, done, total: None)
    hardware = Hardware.load(hw)
    engine = runtimes.get(runtime)
    planned = plan.formats
    programs: dict[str, Compiled] = {}
    compiled = engine.compiler(model, example_inputs, calibration, batch_dim=plan.batch_dim)
    for step, (name, formats) in enumerate({FLOAT: {}, PLAN: planned}.items()):
        report("compile", step, 2)
        programs[name] = compiled(formats)
    report("compile", 2, 2)
    layer_graph = graph.extract(model, example_inputs, plan.batch_dim)
    args, keywords = call_arguments(example_inputs)
    table = cost.time_table(
        layer_graph,
        tuple(dict.fromkeys([REFERENCE, *planned.values()])),
        hardware,
        runtime,
    )
    timing = measure.compare_timing(
        {name: partial(program, *args, **keywords) for name, program in programs.items()},
        batch=layer_graph.batch,
        min_seconds=min_seconds,
        progress=report,
    )
    measured: Mapping[str, float] = {}
    if layers:
        report("profile", 0, 1)
        measured = engine.layer_seconds(
            model, example_inputs, planned, calibration, batch_dim=plan.batch_dim
        )
        report("profile", 1, 1)
    return PredictedMeasured(
        runtime=runtime,
        hardware=hardware.name,
        level=str(table.level),
        predicted={FLOAT: table.total({}), PLAN: table.total(planned)},
        timing=timing,
        mismatches=programs[PLAN].mismatches,
        layers=tuple(
            LayerTime(name, planned.get(name, REFERENCE).name, seconds, measured.get(name))
            for name, seconds in table.layer_seconds(planned).items()
        )
        if layers
        else (),
        differences=_differences(hardware, timing.threads),
    )


def _differences(hardware: Hardware, threads: int) -> tuple[str, ...]:
    if not hardware.measured_on:
        return ()
    differ = machine.differences(hardware.measured_on)
    return tuple([*differ, "threads"] if hardware.threads != threads else differ)
