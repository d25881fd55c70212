"""A plan as text."""

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from aiq import quiet
from aiq.hardware.sections import calibration_command, section
from aiq.plan.certificate import TENTH, SolveSummary
from aiq.plan.notes import not_counted, not_decided, same_samples
from aiq.report import drawing
from aiq.report.diagnosis import diagnose
from aiq.report.scores import Words
from aiq.report.sentence import decoding, described, gain, one_run
from aiq.text import FittedTable, count, duration, table

if TYPE_CHECKING:  # a plan prints itself through this module
    from aiq.plan.plan import Plan
    from aiq.plan.timed import Shortlist


LEAST_FOLDED = 3
"""Rows in succession that say the same become one row if they are so many."""


def plan_table(plan: "Plan", *, every: bool = False) -> RenderableType:
    """Return a plan: what it is predicted to buy, how sure that is, and every layer's format.

    Layers in succession with one format and one reason share a row, unless `every` layer is to have
    its own.
    """
    parts: list[RenderableType] = [Text(summary(plan))]
    if plan.shortlist is not None:
        parts.append(shortlist(plan.shortlist))
    return Group(*parts, _layers(plan, every=every))


def _layers(plan: "Plan", *, every: bool) -> FittedTable:
    """Return the layers; names lack the parts that all of them begin with."""
    drops_known = plan.provenance.get("sensitivity", "") is not None
    words = Words.of(plan.provenance)
    short = dict(zip((layer.name for layer in plan.layers), _short(plan), strict=True))
    rows = []
    for _, alike in groupby(plan.layers, key=lambda layer: (layer.format, layer.why)):
        group = list(alike)
        folded = not every and len(group) >= LEAST_FOLDED
        for layers in [group] if folded else [[layer] for layer in group]:
            first, share = layers[0], sum(layer.share for layer in layers)
            name = short[first.name]
            if len(layers) > 1:
                name = f"{name} to {short[layers[-1].name]} ({len(layers)})"
            saved = sum(layer.share * layer.saving for layer in layers)
            rows.append(
                (
                    name,
                    first.format,
                    f"{100 * share:.1f}",
                    f"{100 * saved / share:.0f}" if share else "0",
                    words.number(sum(x.drop for x in layers)) if drops_known else "-",
                    first.why,
                )
            )
    why = "<why not finer" if plan.objective == "accuracy" else "<why not cheaper"
    numbers = ("cost, %", "saves, %", words.column)
    return FittedTable("", ("<layer", "<format", *numbers, why), tuple(rows), numbers)


def _short(plan: "Plan") -> list[str]:
    return drawing.short([layer.name for layer in plan.layers])


def shortlist(found: "Shortlist") -> RenderableType:
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
    if found.others is not None and found.others > quiet.MOST:
        notes.append(f"the machine was not quiet: others took {100 * found.others:.0f} % of it")
    if found.interrupted:
        notes.append("interrupted")
    left_out = [Text(f"left out: {name}. {reason}") for name, reason in found.left_out.items()]
    return Group(table("\nTimed in turns", columns, rows), Text(", ".join(notes)), *left_out)


def sentence(plan: "Plan") -> str:
    """Return a plan in one sentence: what it gains, what it loses, its formats, and what runs.

    Only calibrated times are divided. A roofline gives lower bounds on time, whose ratio says
    nothing about a speed-up.
    """
    gained = gain(plan, None)
    parts = [f"{gained.figure} {gained.words} ({gained.how})"]
    work = plan.workload
    runtime = plan.provenance.get("runtime") if work is None else work.runtime
    if (
        plan.objective == "throughput"
        and not gained.measured
        and plan.predicted.level == "roofline"
    ):
        parts.append(f"time not predicted: {_missing(plan, runtime)}")
    scores, words = plan.accuracy, Words.of(plan.provenance)
    if scores is None and plan.learned is not None:
        parts.append(f"{words.name} not measured after training")
    elif scores is None:
        estimated = words.change(plan.predicted_drop)
        parts.append(f"{words.name} {estimated} (estimated, not measured)")
    else:
        worst = words.change(scores.drop_limit)
        limit = f"at worst {worst} with {100 * scores.confidence:g} %"
        parts.append(f"{words.name} {words.change(scores.drop)} ({limit})")
    parts.append(_formats(plan))
    return f"{', '.join(parts)}; {(runtime or 'no runtime') if work is None else work}"


def _missing(plan: "Plan", runtime: str | None) -> str:
    """Return what the prediction of times lacks, and the command that adds it."""
    if runtime is None:
        return "no runtime"
    decodes = plan.provenance.get("decode") is not None
    kind = f"decoders in {runtime}" if decodes else runtime
    said = f"{plan.hardware} is not calibrated for {kind}"
    if not plan.provenance.get("calibrated"):  # it may be a machine that aiq cannot run on
        return said
    command = calibration_command(section(runtime, decodes=decodes), plan.hardware)
    return f"{said} (run `{command}` on that machine)"


def _formats(plan: "Plan") -> str:
    """Return how many layers have which format, the most frequent first."""
    counts = Counter(layer.format for layer in plan.layers).most_common()
    (first, number), *others = counts
    usual = described(first)
    name = first if usual == first else f"{usual} ({first})"
    total = len(plan.layers)
    how_many = f"all {total} layers" if number == total else f"{number} of {total} layers"
    how_many = "the only layer" if total == 1 else how_many
    return ", ".join([f"{how_many} {name}", *(f"{n} {other}" for other, n in others)])


def _cheapest(plan: "Plan") -> str:
    """Return why a plan needs no proof over the drops of its layers."""
    names = {layer.format for layer in plan.layers}
    what = f"{names.pop()} everywhere" if len(names) == 1 else "this plan"
    if plan.accuracy is None:
        drop = ""
    elif plan.accuracy.drop > 0:
        drop = f" and it drops {Words.of(plan.provenance).drop(plan.accuracy.drop)}"
    else:
        drop = " and no accuracy is lost"
    return f"{what} is optimal: nothing cheaper exists{drop}"


def price(proof: SolveSummary, words: Words, run: str) -> str:
    """Return the shadow price of accuracy in words."""
    saved, step = proof.per_tenth or 0.0, "0.1 pp more accuracy drop"
    if words.metric != "top1":
        step = f"{words.drop(TENTH)} more {words.dropped}"
    if not saved:
        return f"{step} would save nothing"
    amount = f"{count(saved)}B" if proof.unit == "bytes" else f"{duration(saved)} {run}"
    share = f"{100 * saved / proof.value:.2g} %" if proof.value > 0 else ""
    return f"{step} would save {amount}" + (f", {share}" if share else "")


def summary(plan: "Plan") -> str:
    """Return a plan in a few lines of prose."""
    now, before, proof = plan.predicted, plan.baseline, plan.proof
    intensity = now.intensity / before.intensity if before.intensity else 1.0
    bound = ">= " if now.level == "roofline" else ""
    lines = [
        sentence(plan),
        *(f"Warning: {line}." for line in diagnose(plan)),
        f"{plan.model} on {plan.hardware}: {plan.objective}, {plan.method}",
        *([f"  machine     {reason}"] if (reason := plan.provenance.get("profile")) else []),
        *([f"  trained     {how}"] if (how := plan.provenance.get("training")) else []),
        f"  intensity   {before.intensity:.2f} -> {now.intensity:.2f} FLOP/byte, {intensity:.2f}x",
        f"  traffic     {count(before.bytes)}B -> {count(now.bytes)}B",
        f"  weights     {count(before.weight_bytes)}B -> {count(now.weight_bytes)}B",
        f"  time        {bound}{duration(before.seconds)} -> {bound}{duration(now.seconds)} "
        + f"{one_run(plan)} ({now.level})",
    ]
    if written := decoding(plan):
        lines.append(f"  decoding    {written} ({now.level}{', bounds' if bound else ''})")
    lines += [
        f"              {line}"
        for line in (
            *not_decided(plan.provenance.get("undecided", ())),
            *not_counted(plan.provenance.get("uncounted", ())),
        )
    ]
    words = Words.of(plan.provenance)
    if plan.accuracy is None and plan.learned is not None:
        lines.append("  accuracy    not measured after training; give validation data to it")
    elif plan.accuracy is None:
        estimated = words.drop(plan.predicted_drop)
        lines.append(f"  accuracy    not measured (no data); estimated drop {estimated}")
    else:
        scores = plan.accuracy
        most, predicted = (words.drop(x) for x in (scores.drop_limit, plan.predicted_drop))
        limit = f"at most {most} with {100 * scores.confidence:g} %"
        drop = f"{words.drop(scores.drop)} measured ({limit}), {predicted} predicted"
        before_after = f"{words.score(scores.baseline)} -> {words.score(scores.plan)}"
        lines.append(f"  {words.name:<11} {before_after} on {scores.samples:,} samples")
        lines.append(f"  drop        {drop}")
        lines += [f"              {line}" for line in same_samples(plan.provenance)]
        if scores.samples_needed is not None:
            lines.append(
                f"  samples     With about {scores.samples_needed:,} samples instead of "
                f"{scores.samples:,}, a cheaper plan could be shown to hold."
            )
    if proof.cheapest:
        lines.append(f"  proof       {_cheapest(plan)}")
    elif proof.bound is None or proof.gap is None:
        lines.append(f"  proof       none: {proof.status}")
    else:
        effort = f"{proof.nodes} nodes, {duration(proof.seconds)}"
        answer = f"{proof.status}: {proof.value:.6g} {proof.unit}, gap {100 * proof.gap:.3g} %"
        lines.append(f"  proof       {answer}, {effort}")
    if proof.per_tenth is not None:
        lines.append(f"  price       {price(proof, words, one_run(plan))}")
    lines.append(f"  search      {plan.evaluations} evaluations, {duration(plan.seconds)}")
    return "\n".join(lines)
