"""Prediction beside measurement as tables: what ``print(aiq.compare(...))`` shows."""

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from aiq.text import duration, table

if TYPE_CHECKING:  # a comparison prints itself through this module
    from aiq.comparison import PredictedMeasured

PLAN = "plan"


def throughput(result: "PredictedMeasured") -> RenderableType:
    """Return prediction beside measurement, and what may be said of it."""
    columns = ["<candidate", "predicted", "measured", "95 % interval", "/s", "speed-up"]
    bound = ">= " if result.level == "roofline" else ""
    rows = []
    for timing in result.timing.timings:
        seconds = timing.seconds
        speedup = result.timing.speedup(timing.name)
        rows.append(
            (
                timing.name,
                bound + duration(result.predicted[timing.name]),
                duration(seconds.value),
                f"{duration(seconds.low)} - {duration(seconds.high)}",
                f"{timing.throughput:.0f}",
                f"{speedup.value:.2f}x",
            )
        )
    steal = result.timing.steal
    predicted = (
        "not predicted, since the profile is not calibrated for this runtime"
        if result.predicted_speedup is None
        else f"predicted {result.predicted_speedup:.2f}x"
    )
    verdict = (
        f"speed-up {predicted}; measured {result.measured_speedup} (95 %): the plan is "
        f"{result.verdict}, noise {100 * result.timing.noise:.1f} %"
    )
    setting = (
        f"{result.model}, {result.inputs}, {result.runtime}, {result.timing.threads} threads, "
        f"predicted by {result.level} of {result.hardware}"
        + ("" if steal is None else f", {100 * steal:.1f} % of time stolen")
    )
    mismatches = (f"{m.layer} runs as {m.realised}, not {m.asked}" for m in result.mismatches)
    notes = [verdict, setting]
    if result.timed_on:
        notes.append(f"timed on {result.timed_on}")
    if result.timing.load.busy:
        notes.append(f"the machine was not quiet: {result.timing.load}")
    if result.differences:
        notes.append(
            f"{result.hardware} was measured where {' and '.join(result.differences)} differed "
            "from here, and predicts for there"
        )
    notes += mismatches
    parts: list[RenderableType] = [table("", columns, rows), Text("\n".join(notes))]
    if result.layers:
        parts.append(layer_table(result))
    return Group(*parts)


def layer_table(result: "PredictedMeasured") -> Table:
    """Return the plan layer by layer: predicted, and what the runtime's profiler saw."""
    rows: list[tuple[str, ...]] = [
        (
            time.layer,
            time.format,
            duration(time.predicted),
            "-" if time.measured is None else duration(time.measured),
            "-" if not time.measured else f"{time.predicted / time.measured:.2f}",
        )
        for time in result.layers
    ]
    predicted = sum(time.predicted for time in result.layers)
    measured = sum(time.measured or 0.0 for time in result.layers)
    whole = next(t.seconds.value for t in result.timing.timings if t.name == PLAN)
    rest = max(0.0, result.predicted[PLAN] - predicted), max(0.0, whole - measured)
    rows.append(("everything else", "", *map(duration, rest), ""))
    columns = ["<layer", "<format", "predicted", "measured", "predicted / measured"]
    return table("\nLayer by layer", columns, rows)
