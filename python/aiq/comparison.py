"""Prediction beside measurement: a plan and float32, timed in turns."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from aiq import bars, calibrate, comparison_table, cost, decoding, machine, measure, runtimes
from aiq.cost import CostTable
from aiq.decoding import DecoderComparison
from aiq.deployment import prepare, runtime_of
from aiq.formats import REFERENCE, Format
from aiq.graph.export import Inputs, call_arguments
from aiq.hardware import Hardware
from aiq.hardware.sections import DECODERS
from aiq.measure import Comparison, Interval, Verdict
from aiq.plan import InputSpec, Plan
from aiq.progress import silent
from aiq.runtimes import Compiled, Mismatch, placement
from aiq.text import plain

FLOAT, PLAN = "fp32", "plan"

DATA, GIVEN = "the first batch of the data", "the inputs that were given"
RANDOM = "random numbers, as no data was given; activations were observed on them, too"


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer of the plan in the whole network, with what is fused into it.

    Attributes
    ----------
    layer, format
        Name of the layer, and its format in the plan.
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
    model, inputs
        Class of the model, and shapes of the inputs of one call.
    runtime, hardware
        Names of the runtime that executed it, and of the profile that predicted its time.
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
    timed_on
        What the inputs were, in words.
    differences
        Properties in which this machine differs from the one that the profile describes: some of
        ``cpu``, ``isa``, ``limits``, ``threads``. Empty if the profile was not measured.
    """

    model: str
    inputs: str
    runtime: str
    hardware: str
    level: str
    predicted: Mapping[str, float]
    timing: Comparison
    mismatches: tuple[Mismatch, ...]
    layers: tuple[LayerTime, ...] = ()
    differences: tuple[str, ...] = ()
    timed_on: str = ""

    @property
    def predicted_speedup(self) -> float | None:
        """Float32 time over plan time, as predicted; ``None`` if both are only lower bounds."""
        if self.level == "roofline":
            return None
        return self.predicted[FLOAT] / self.predicted[PLAN]

    @property
    def measured_speedup(self) -> Interval:
        """Float32 time over plan time, as measured."""
        return self.timing.speedup(PLAN)

    @property
    def verdict(self) -> Verdict:
        """Whether the plan is faster than float32: yes, no, or within the noise."""
        return self.timing.verdict(PLAN)

    def __str__(self) -> str:
        return plain(comparison_table.throughput(self))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        return {
            "model": self.model,
            "inputs": self.inputs,
            "batch": self.timing.timings[0].batch,
            "threads": self.timing.threads,
            "runtime": self.runtime,
            "hardware": self.hardware,
            "level": self.level,
            "predicted_seconds": dict(self.predicted),
            "predicted_speedup": self.predicted_speedup,
            "mismatches": [mismatch._asdict() for mismatch in self.mismatches],
            "timing": self.timing.to_dict(),
            "layers": [asdict(layer) for layer in self.layers],
            "differences": list(self.differences),
            "timed_on": self.timed_on,
        }


@bars.shows_progress
def compare(
    plan: Plan,
    model: torch.nn.Module,
    hw: str | Path | Hardware | None = None,
    *,
    data: Iterable[Any] | None = None,
    example_inputs: Inputs | None = None,
    calibration: Iterable[Any] | None = None,
    runtime: str | None = None,
    min_seconds: float = 5.0,
    layers: bool = False,
    tokenizer: Any = None,  # noqa: ANN401
    progress: bars.Shown = "bar",
) -> PredictedMeasured | DecoderComparison:
    """Compile the float32 network and the plan, time them in turns, and set the prediction beside.

    Parameters
    ----------
    plan, model, data, example_inputs, calibration, runtime
        These are the parameters of `deploy`. Without data, activations are observed on the example
        inputs, which suffices to measure times.
    hw
        Hardware profile that predicts, or ``auto`` for that of this machine; the measurement is of
        the machine this runs on. Default: the profile that the plan was searched for.
    min_seconds
        Length of the timing.
    layers
        Compare layer by layer too; only runtimes whose profiler names layers can.
    tokenizer
        Tokenizer of a decoder. Its times do not depend on it.
    progress
        Called with the stage, the steps done and the steps in all.

    Returns
    -------
    PredictedMeasured or DecoderComparison
        The latter for a decoder that was searched for llama.cpp or with a workload: the plan beside
        files or folders of one format each, with tokens a second at two lengths of the prompt.

    Raises
    ------
    InputError
        If the plan is for another model or other inputs.
    HardwareError
        If there is no such profile.
    RuntimeUnavailableError
        If the runtime is not installed, or cannot run the plan.
    """
    report = progress if callable(progress) else silent
    where = runtime_of(plan, runtime)
    if where == placement.GGUF or (where in DECODERS and plan.provenance.get("decode")):
        return decoding.compare_files(plan, model, tokenizer, hw, runtime=where, progress=report)
    engine = runtimes.get(where)
    profile = plan.hardware if hw is None else hw
    hardware = calibrate.choose(profile, engine.name, report).hardware
    timed_on = GIVEN if example_inputs is not None else RANDOM if data is None else DATA
    report("export the model", 0, 1)
    ready = prepare(plan, model, data, example_inputs, calibration)
    report("export the model", 1, 1)
    seen = ready.calibration or [ready.inputs]
    compiled = engine.compiler(
        model, ready.inputs, seen, batch_dim=plan.batch_dim, traced=ready.traced
    )
    programs: dict[str, Compiled] = {}
    for step, (name, formats) in enumerate({FLOAT: {}, PLAN: plan.formats}.items()):
        report("compile", step, 2)
        programs[name] = compiled(formats)
    report("compile", 2, 2)
    args, keywords = call_arguments(ready.inputs)
    timing = measure.compare_timing(
        {name: partial(program, *args, **keywords) for name, program in programs.items()},
        batch=ready.traced.graph.batch,
        min_seconds=min_seconds,
        progress=report,
    )
    columns = tuple(dict.fromkeys([REFERENCE, *plan.formats.values()]))
    table = cost.time_table(ready.traced.graph, columns, hardware, engine.name)
    by_layer: tuple[LayerTime, ...] = ()
    if layers:
        report("profile", 0, 1)
        measured = engine.layer_seconds(
            model, ready.inputs, plan.formats, seen, batch_dim=plan.batch_dim
        )
        report("profile", 1, 1)
        by_layer = _by_layer(table, plan.formats, measured)
    return PredictedMeasured(
        model=ready.traced.graph.model,
        inputs=str(InputSpec.of(ready.inputs)),
        runtime=engine.name,
        hardware=hardware.name,
        level=str(table.level),
        predicted={FLOAT: table.total({}), PLAN: table.total(plan.formats)},
        timing=timing,
        mismatches=programs[PLAN].mismatches,
        layers=by_layer,
        differences=_differences(hardware, timing.threads),
        timed_on=timed_on,
    )


def _by_layer(
    table: CostTable, formats: Mapping[str, Format], measured: Mapping[str, float]
) -> tuple[LayerTime, ...]:
    return tuple(
        LayerTime(name, formats.get(name, REFERENCE).name, seconds, measured.get(name))
        for name, seconds in table.layer_seconds(formats).items()
    )


def _differences(hardware: Hardware, threads: int) -> tuple[str, ...]:
    if not hardware.measured_on:
        return ()
    differ = machine.differences(hardware.measured_on)
    return tuple([*differ, "threads"] if hardware.threads != threads else differ)
