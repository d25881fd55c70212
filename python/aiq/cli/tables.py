"""Tables for people: rich renderables, printed by the command line and by ``print(plan)``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from aiq.drops import DropTable
from aiq.graph import Layer, LayerGraph
from aiq.measure import Comparison
from aiq.plan.notes import not_counted, not_decided
from aiq.runtimes import Mismatch
from aiq.text import FittedTable, count, duration, table


def layers(graph: LayerGraph) -> RenderableType:
    """Return the layer graph, one row a layer."""
    columns = ("<layer", "<op", "FLOPs", "weights", "read", "written", "FLOP/byte", "<fused")
    rows = tuple(
        (
            layer.name,
            str(layer.op),
            count(layer.flops),
            count(layer.weight_elements),
            count(layer.input_elements + layer.fused_elements),
            count(layer.output_elements),
            f"{layer.flops / 4 / max(1, _elements(layer)):.2f}",
            " ".join(layer.fused),
        )
        for layer in graph.layers
    )
    title = f"{graph.model}, batch {graph.batch}"
    found = FittedTable(title, columns, rows, ("<op", "read", "written"))
    notes = not_decided(asdict(parameter) for parameter in graph.undecided) + not_counted(
        [layer.name for layer in graph.uncounted]
    )
    return Group(found, Text("\n".join(notes))) if notes else found


def drops(drops: DropTable) -> Table:
    """Return a drop table, one row a layer, in percentage points with standard errors."""
    rows = (
        (name, *(f"{100 * x:.3f} +-{100 * e:.3f}" for x, e in zip(drop, error, strict=True)))
        for name, drop, error in zip(drops.layers, drops.drop, drops.error, strict=True)
    )
    title = f"Accuracy drop in pp, each layer alone ({drops.method}, {drops.samples:,} samples)"
    return table(title, ["<layer", *(f.name for f in drops.formats)], rows)


def timings(
    subject: str,
    timing: Comparison,
    memory: Mapping[str, int | None],
    mismatches: Mapping[str, Sequence[Mismatch]],
) -> RenderableType:
    """Return programs timed in turns: throughput, latency, memory, and what may be said of them."""
    columns = [
        "<candidate",
        "/s",
        "median",
        f"{100 * timing.confidence:g} % interval",
        "95th",
        "99th",
        "peak memory",
        "speed-up",
        "<",
    ]
    rows = []
    for entry in timing.timings:
        name, ratio, held = entry.name, timing.speedup(entry.name), memory[entry.name]
        verdict = "baseline" if name == timing.baseline else str(timing.verdict(name))
        rows.append(
            (
                name,
                f"{entry.throughput:.1f}",
                duration(entry.seconds.value),
                f"{duration(entry.seconds.low)} - {duration(entry.seconds.high)}",
                duration(entry.latency(0.95)),
                duration(entry.latency(0.99)),
                "-" if held is None else f"{count(held)}B",
                f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
                verdict + ("" if entry.steady else ", not steady"),
            )
        )
    stolen = "" if timing.steal is None else f", {100 * timing.steal:.1f} % of time stolen"
    setting = f"{subject}, {timing.threads} threads, {len(timing.again)} rounds"
    noise = f"noise {100 * timing.noise:.1f} %{stolen}"
    notes = [f"{setting}, {noise}"]
    if timing.load.busy:
        notes.append(f"the machine was not quiet: {timing.load}")
    if any(memory.values()):
        notes.append("peak memory is that of a process that holds nothing else")
    for name, found in mismatches.items():
        notes += [f"{name}: {m.layer} runs as {m.realised}, not {m.asked}" for m in found]
    return Group(table("", columns, rows), Text("\n".join(notes)))


def _elements(layer: Layer) -> int:
    return layer.weight_elements + layer.input_elements + layer.output_elements
