"""Tables for people: rich renderables, printed by the command line and by ``print(plan)``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from aiq.deploy import PLAN, PredictedMeasured
from aiq.graph import Layer, LayerGraph
from aiq.losses import LossTable
from aiq.measure import Comparison
from aiq.plan import Plan, Shortlist
from aiq.runtimes import Mismatch

SHOWN = 5
"""Layers that a line names one by one."""


def points(fraction: float) -> str:
    """Return a fraction in percentage points, ``0.0123`` -> ``1.23 pp``."""
    return f"{100 * fraction:.2f} pp"


def count(number: float) -> str:
    """Return a number with a decimal prefix, ``81626368`` -> ``81.6 M``."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return f"{number / factor:.3g} {prefix}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Return a time with the unit that suits it, ``0.00123`` -> ``1.23 ms``."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Return a plain table; columns whose heading starts with ``<`` are aligned left."""
    result = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for heading in columns:
        left = heading.startswith("<")
        result.add_column(heading.removeprefix("<"), justify="left" if left else "right")
    for row in rows:
        result.add_row(*map(Text, row))  # names are text, not markup
    return result


def layers(graph: LayerGraph) -> RenderableType:
    """Return the layer graph, one row a layer."""
    columns = ["<layer", "<op", "FLOPs", "weights", "read", "written", "FLOP/byte", "<fused"]
    rows = (
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
    found = table(f"{graph.model}, batch {graph.batch}", columns, rows)
    notes = not_decided(asdict(parameter) for parameter in graph.undecided) + not_counted(
        [layer.name for layer in graph.uncounted]
    )
    return Group(found, Text("\n".join(notes))) if notes else found


def not_decided(undecided: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line that says which parameters have no choice of formats, largest first."""
    sizes: dict[tuple[str, str, str], int] = {}
    for entry in undecided:
        key = (entry["layer"], entry["op"], entry["dtype"])
        sizes[key] = sizes.get(key, 0) + entry["bytes"]
    largest = sorted(sizes.items(), key=lambda item: -item[1])
    named = [
        f"{layer}{'' if op in {'other', layer} else f' ({op})'} {count(size)}B {dtype}"
        for (layer, op, dtype), size in largest[:SHOWN]
    ]
    if len(largest) > SHOWN:
        rest = sum(size for _, size in largest[SHOWN:])
        named.append(f"{len(largest) - SHOWN} more with {count(rest)}B")
    return ["not decided: " + ", ".join(named)] if named else []


def not_counted(names: Sequence[str]) -> list[str]:
    """Return a line that says of which layers the work is not known."""
    return [f"work not known, and counted as none: {', '.join(names)}"] if names else []


def losses(losses: LossTable) -> Table:
    """Return a loss table, one row a layer, in percentage points with standard errors."""
    rows = (
        (name, *(f"{100 * x:.3f} +-{100 * e:.3f}" for x, e in zip(loss, error, strict=True)))
        for name, loss, error in zip(losses.layers, losses.loss, losses.error, strict=True)
    )
    title = f"Accuracy loss in pp, each layer alone ({losses.method}, {losses.samples:,} samples)"
    return table(title, ["<layer", *(f.name for f in losses.formats)], rows)


def plan(plan: Plan) -> RenderableType:
    """Return a plan: what it is predicted to buy, how sure that is, and every layer's format."""
    columns = ["<layer", "<format", "share of cost", "saves", "loss", "<why not cheaper"]
    rows = (
        (
            layer.name,
            layer.format,
            f"{100 * layer.share:.1f} %",
            f"{100 * layer.saving:.0f} %",
            points(layer.loss),
            layer.why,
        )
        for layer in plan.layers
    )
    parts: list[RenderableType] = [Text(summary(plan))]
    if plan.shortlist is not None:
        parts.append(shortlist(plan.shortlist))
    return Group(*parts, table("", columns, rows))


def shortlist(found: Shortlist) -> RenderableType:
    """Return the plans that were timed, the chosen one marked."""
    columns = ["", "<plan", "<layers", "predicted", "measured", "<against", "speed-up", "<"]
    rows = (
        (
            "*" if row.name == found.chosen else "",
            row.name,
            ", ".join(f"{count} {name}" for name, count in row.layers.items()),
            duration(row.predicted),
            duration(row.seconds),
            row.against,
            f"{row.speedup:.3f} [{row.low:.3f}, {row.high:.3f}]",
            row.verdict + (f", {row.mismatches} layers not as planned" if row.mismatches else ""),
        )
        for row in found.plans
    )
    notes = [
        f"{found.runtime}, batch {found.batch}, {found.threads} threads",
        f"noise {100 * found.noise:.1f} %",
    ]
    if found.steal is not None:
        notes.append(f"{100 * found.steal:.1f} % of time stolen")
    if found.interrupted:
        notes.append("interrupted")
    left_out = [Text(f"left out: {name}. {reason}") for name, reason in found.left_out.items()]
    return Group(table("\nTimed in turns", columns, rows), Text(", ".join(notes)), *left_out)


def summary(plan: Plan) -> str:
    """Return a plan in a few lines of prose."""
    now, before, proof = plan.predicted, plan.baseline, plan.proof
    intensity = now.intensity / before.intensity if before.intensity else 1.0
    bound = ">= " if now.level == "roofline" else ""
    lines = [
        f"{plan.model} on {plan.hardware}: {plan.objective}, {plan.method}",
        f"  intensity   {before.intensity:.2f} -> {now.intensity:.2f} FLOP/byte, {intensity:.2f}x",
        f"  traffic     {count(before.bytes)}B -> {count(now.bytes)}B",
        f"  weights     {count(before.weight_bytes)}B -> {count(now.weight_bytes)}B",
        f"  time        {bound}{duration(before.seconds)} -> {bound}{duration(now.seconds)} "
        + f"a batch ({now.level})",
    ]
    lines += [
        f"              {line}"
        for line in (
            *not_decided(plan.provenance.get("undecided", ())),
            *not_counted(plan.provenance.get("uncounted", ())),
        )
    ]
    if plan.accuracy is None:
        lines.append(
            f"  accuracy    not measured (no data); estimated loss {points(plan.predicted_loss)}"
        )
    else:
        scores = plan.accuracy
        change = f"{100 * scores.baseline:.2f} % -> {100 * scores.plan:.2f} %"
        limit = f"at most {points(scores.drop_limit)} with {100 * scores.confidence:g} %"
        loss = f"{points(scores.drop)} measured ({limit}), {points(plan.predicted_loss)} predicted"
        lines.append(f"  accuracy    {change} on {scores.samples:,} samples")
        lines.append(f"  loss        {loss}")
        if scores.samples_needed is not None:
            lines.append(
                f"  samples     With about {scores.samples_needed:,} samples instead of "
                f"{scores.samples:,}, a cheaper plan could be shown to hold."
            )
    if proof.bound is None or proof.gap is None:
        lines.append(f"  proof       none: {proof.status}")
    else:
        effort = f"{proof.nodes} nodes, {duration(proof.seconds)}"
        answer = f"{proof.status}: {proof.value:.6g} {proof.unit}, gap {100 * proof.gap:.3g} %"
        lines.append(f"  proof       {answer}, {effort}")
    lines.append(f"  search      {plan.evaluations} evaluations, {duration(plan.seconds)}")
    return "\n".join(lines)


def throughput(result: PredictedMeasured) -> RenderableType:
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
    verdict = (
        f"speed-up predicted {result.predicted_speedup:.2f}x, measured "
        f"{result.measured_speedup} (95 %): the plan is {result.verdict}, "
        f"noise {100 * result.timing.noise:.1f} %"
    )
    setting = (
        f"{result.runtime}, {result.timing.threads} threads, predicted by {result.level} of "
        f"{result.hardware}" + ("" if steal is None else f", {100 * steal:.1f} % of time stolen")
    )
    mismatches = (f"{m.layer} runs as {m.realised}, not {m.asked}" for m in result.mismatches)
    notes = [verdict, setting]
    if result.differences:
        notes.append(
            f"{result.hardware} was measured where {' and '.join(result.differences)} differed "
            "from here, and predicts for there"
        )
    notes += mismatches
    parts: list[RenderableType] = [table("", columns, rows), Text("\n".join(notes))]
    if result.layers:
        parts.append(layer_times(result))
    return Group(*parts)


def layer_times(result: PredictedMeasured) -> Table:
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


def timings(
    runtime: str,
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
    setting = f"{runtime}, {timing.threads} threads, {len(timing.again)} rounds"
    noise = f"noise {100 * timing.noise:.1f} %{stolen}"
    notes = [f"{setting}, {noise}"]
    if any(memory.values()):
        notes.append("peak memory is that of a process that holds nothing else")
    for name, found in mismatches.items():
        notes += [f"{name}: {m.layer} runs as {m.realised}, not {m.asked}" for m in found]
    return Group(table("", columns, rows), Text("\n".join(notes)))


def _elements(layer: Layer) -> int:
    return layer.weight_elements + layer.input_elements + layer.output_elements
