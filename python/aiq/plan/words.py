"""Accuracy drops of a plan in the words of its metric, and the times of a decoder."""

import math
from typing import TYPE_CHECKING

from aiq.text import duration, points

if TYPE_CHECKING:
    from aiq.plan.plan import Plan

PERPLEXITY = "perplexity"


def drop(plan: "Plan", value: float) -> str:
    """Return a drop: percentage points, or a ratio of perplexities, ``0.05`` -> ``x1.051``."""
    return f"x{math.exp(value):.3f}" if _is_perplexity(plan) else points(value)


def change(plan: "Plan", value: float) -> str:
    """Return a drop as a change of accuracy, ``-0.12 pp``, or as a ratio of perplexities."""
    return drop(plan, value) if _is_perplexity(plan) else f"{round(-100 * value, 2) + 0.0:+.2f} pp"


def metric(plan: "Plan") -> str:
    """Return the name of what changes."""
    return PERPLEXITY if _is_perplexity(plan) else "accuracy"


def scores(plan: "Plan") -> str:
    """Return the measured scores of float32 and the plan: accuracies, or perplexities."""
    found = plan.accuracy
    assert found is not None
    if _is_perplexity(plan):
        return f"{math.exp(-found.baseline):.2f} -> {math.exp(-found.plan):.2f}"
    return f"{100 * found.baseline:.2f} % -> {100 * found.plan:.2f} %"


def decoding(plan: "Plan") -> list[str]:
    """Return the predicted times of a decoder, in a line; nothing for other models."""
    now, before = plan.predicted, plan.baseline
    if not now.token_seconds or not before.token_seconds:
        return []
    first = f"{duration(before.first_seconds or 0)} -> {duration(now.first_seconds or 0)}"
    rate = f"{1 / before.token_seconds:.3g} -> {1 / now.token_seconds:.3g} tokens/s"
    bound = ", bounds" if now.level == "roofline" else ""
    return [f"  decoding    {rate}, first token after {first} ({now.level}{bound})"]


def _is_perplexity(plan: "Plan") -> bool:
    return plan.provenance.get("metric") == PERPLEXITY
