"""What went wrong in a search, in one line each, with the cure."""

from typing import TYPE_CHECKING

from aiq.formats import Kind
from aiq.formats import parse as parse_format
from aiq.report.scores import Words

if TYPE_CHECKING:  # a plan shows itself through this room
    from aiq.plan import Plan

COLLAPSED = 0.5
"""A plan has collapsed if it loses this part of the float32 network's accuracy, or more."""

FEWER_BYTES, HARDLY_FASTER = 1.5, 1.15
"""A plan is held back by arithmetic if it moves so many times fewer bytes, and is hardly faster."""

OPEN_GAP = 0.05
"""Largest gap of a search that counts as converged."""


def diagnose(plan: "Plan") -> list[str]:
    """Return a line for each thing that went wrong; nothing for a plan as it should be."""
    return [*_collapse(plan), *_arithmetic(plan), *_open(plan)]


def _collapse(plan: "Plan") -> list[str]:
    """Return that integers ruin the network: in the plan, or in every uniform plan of integers."""
    scores, tables = plan.accuracy, plan.tables
    if scores is None or tables is None or Words.of(plan.provenance).metric != "top1":
        return []
    most = COLLAPSED * scores.baseline
    if scores.drop >= most > 0:
        lost, who = scores.drop, "this plan"
    else:
        drops = {}
        for point in tables.frontier:
            drop = point.drop if point.measured_drop is None else point.measured_drop
            integers = point.name in tables.formats and (
                parse_format(point.name).weight.kind is Kind.INT
            )
            if integers and drop is not None:
                drops[point.name] = drop
        if not drops or min(drops.values()) < most or not most:
            return []
        who = min(drops, key=lambda name: drops[name])
        lost, who = drops[who], f"{who} everywhere"
    cure = (
        "calibrate on data like that in use, pin the layers with the largest drops to fp32, round "
        "weights by data (rounding=adaptive), or allow more bits"
    )
    loses = f"{who} loses {100 * lost:.0f} pp of {100 * scores.baseline:.0f} %"
    return [f"accuracy collapse: {loses}; {cure}"]


def _arithmetic(plan: "Plan") -> list[str]:
    """Return that bytes were saved, and that time is spent on arithmetic."""
    now, before = plan.predicted, plan.baseline
    if plan.objective == "accuracy" or not (now.bytes > 0 and now.seconds > 0):
        return []  # who asks for accuracy within a size does not ask for speed
    fewer, faster = before.bytes / now.bytes, before.seconds / now.seconds
    if fewer < FEWER_BYTES or faster >= HARDLY_FASTER:
        return []
    speed = f"{faster:.2f}x the speed by prediction"
    if now.level == "roofline":  # two lower bounds are not divided
        speed = "hardly less time by the roofline"
    cure = "formats with faster arithmetic on this machine would save time, or smaller batches"
    return [f"bound by arithmetic: {fewer:.1f}x fewer bytes, and {speed}; {cure}"]


def _open(plan: "Plan") -> list[str]:
    """Return that the search ended before the best plan was found."""
    proof = plan.proof
    if proof.status in {"optimal", "measured"} or proof.gap is None or proof.gap <= OPEN_GAP:
        return []
    why, gap = proof.status.replace("_", " "), f"{100 * proof.gap:.0f} %"
    ended = f"not converged: the search ended ({why}) while a plan up to {gap} better was possible"
    return [f"{ended}; give it more time (time_limit), or fewer formats"]
