"""The answer in one sentence, and whether it was predicted or measured."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiq.formats import REFERENCE, Format, Kind
from aiq.formats import parse as parse_format
from aiq.report.measured import MeasuredTimes
from aiq.report.scores import Words
from aiq.text import count, duration

if TYPE_CHECKING:  # a plan shows itself through this room
    from aiq.plan import Plan


@dataclass(frozen=True, slots=True)
class Gain:
    """What a plan buys.

    Attributes
    ----------
    figure, words
        ``3.2x`` and ``faster than float32``.
    how
        Origin of the figure, with its interval.
    measured
        Whether the figure was measured.
    """

    figure: str
    words: str
    how: str
    measured: bool


def gain(plan: "Plan", measured: MeasuredTimes | None) -> Gain:
    """Return what a plan buys: measured if it was measured, else predicted.

    Two lower bounds on time are never divided: then the gain is in bytes.
    """
    if measured is not None:
        ratio = measured["plan"].speedup
        how = f"measured, {ratio.low:.2f} to {ratio.high:.2f}"
        return _faster(ratio.value, f"{how} in {measured.runtime}", measured=True)
    timed = plan.shortlist
    if timed is not None and {"fp32", timed.chosen} <= {row.name for row in timed.plans}:
        ratio_ = timed["fp32"].seconds / timed[timed.chosen].seconds
        return _faster(ratio_, f"measured in {timed.runtime}", measured=True)
    now, before = plan.predicted, plan.baseline
    if all(layer.format == REFERENCE.name for layer in plan.layers):
        needed = None if plan.accuracy is None else plan.accuracy.samples_needed
        why = "no plan is cheaper" if plan.proof.cheapest else "no cheaper plan holds"
        if plan.objective == "accuracy":
            why = "it is within the budget and loses nothing"
        if needed is not None:
            why = f"about {needed:,} samples would show that a cheaper plan holds"
        return Gain("Stay", "with float32", f"predicted: {why}", measured=False)
    if plan.objective == "throughput" and now.level == "calibrated" and now.seconds > 0:
        how, tables = "predicted", plan.tables
        if tables is not None and tables.spread is not None and 0 not in tables.spread:
            low, high = sorted(before.seconds / now.seconds / s for s in tables.spread)
            how = f"predicted, {low:.1f} to {high:.1f}"
        return _faster(before.seconds / now.seconds, how, measured=False)
    if now.bytes <= 0:
        return Gain("1.0x", "fewer bytes moved than float32", "predicted", measured=False)
    return Gain(
        f"{before.bytes / now.bytes:.1f}x",
        "fewer bytes moved than float32",
        "counted, no time is claimed",
        measured=False,
    )


def _faster(ratio: float, how: str, *, measured: bool) -> Gain:
    if ratio < 0.995:
        return Gain(f"{ratio:.2f}x", "the speed of float32", how, measured)
    if ratio < 1.005:
        return Gain("As fast", "as float32", how, measured)
    return Gain(
        f"{ratio:.1f}x" if ratio >= 1.95 else f"{ratio:.2f}x", "faster than float32", how, measured
    )


def one_run(plan: "Plan") -> str:
    """Return what takes the predicted seconds of a plan."""
    return "a batch" if plan.predicted.token_seconds is None else "a text"


def decoding(plan: "Plan") -> str:
    """Return how fast a decoder is predicted to write, in words; nothing for other models."""
    before, now = plan.baseline, plan.predicted
    if not now.token_seconds or not before.token_seconds:
        return ""
    first = f"{duration(before.first_seconds or 0)} -> {duration(now.first_seconds or 0)}"
    rate = f"{_rate(before.token_seconds)} -> {_rate(now.token_seconds)} tokens/s"
    return f"{rate}, first token after {first}"


def _rate(seconds: float) -> str:
    return f"{1 / seconds:.3g}" if seconds > 1e-3 else count(1 / seconds)


def drop(plan: "Plan") -> str:
    """Return what a plan loses, in words."""
    scores, words = plan.accuracy, Words.of(plan.provenance)
    if scores is None and plan.learned is not None:
        return f"{words.dropped} not measured after training"
    if scores is None:
        return f"estimated {words.dropped} {words.drop(plan.predicted_drop)}, not measured"
    limit = f"at most {words.drop(scores.drop_limit)} with {100 * scores.confidence:g} %"
    return f"{words.dropped} {words.drop(scores.drop)} ({limit}, {scores.samples:,} samples)"


def mix(names: list[str]) -> str:
    """Return how many layers have which format, most first: ``19 w8a8, 2 fp32``."""
    return ", ".join(f"{n} {name}" for name, n in Counter(names).most_common())


def described(name: str) -> str:
    """Return what the field calls a format: ``w8a8`` is ``int8``, ``w4`` is ``int4 weights``."""
    found: Format = parse_format(name)
    if found.weight.kind is Kind.FLOAT:
        return {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[found.name]
    weights, group = found.weight.name, found.weight_granularity.group
    if not found.quantizes_activations:
        zero = ", with zero points" if found.weight_granularity.zero_point else ""
        return f"{weights} weights" + (f" in groups of {group}" if group else "") + zero
    activations = found.activation.name
    both = weights if weights == activations else f"{weights} weights, {activations} activations"
    return both + (f", {described(found.between.name)} between" if name.endswith("bf16") else "")
