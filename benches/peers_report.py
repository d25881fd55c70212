"""The table of `benches/peers.py`."""

from collections.abc import Collection, Mapping
from typing import Any

HEADER = (
    *("profile", "network, batch", "runtime", "candidate", "time / aiq's", "noise", "ms"),
    *("accuracy", "aiq is worse by", "s to produce"),
)


COMPARED = ("nncf", "nncf, accuracy control", "quantize_static", "pt2e", "aiq plan")
"""Candidates that the runtimes' own tools make, and the plan of a search."""


def markdown(profiles: Mapping[str, Mapping[str, Any]], only: Collection[str] | None = None) -> str:
    """Return the rows of all profiles as a table with a line for each candidate.

    With `only`, other candidates have no line.
    """
    lines = [HEADER, ("---",) * len(HEADER)]
    for profile, rows in profiles.items():
        for key, found in rows.items():
            name, batch, runtime = key.split("/")
            start = profile, f"{name}, {batch}", runtime
            shown = {c: x for c, x in found["candidates"].items() if only is None or c in only}
            lines += [(*start, *cells(c, x, found)) for c, x in shown.items()]
            lines += [(*start, c, f"failed: {text}", *[""] * 5) for c, text in failed(found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def failed(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return candidates without a program, and why, with no character that ends a cell."""
    return [(c, text.replace("|", "/")[:80]) for c, text in found["failures"].items()]


def cells(candidate: str, found: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """Return the cells of one candidate."""
    ratio = "{value:.3f} ({low:.3f} - {high:.3f})".format(**found["ratio"])
    accuracy = worse = ""
    if "accuracy" in found:
        accuracy = f"{100 * found['accuracy']:.2f} %"
    if "accuracy" in found and candidate != "aiq":
        by, error = found["aiq_is_worse_by"], found["aiq_is_worse_by_error"]
        worse = f"{100 * by:.2f} ± {100 * error:.2f} pp"
    return [
        candidate,
        "1" if candidate == "aiq" else ratio,
        f"{100 * row['noise']:.1f} %",
        f"{1000 * found['seconds']['value']:.3f}",
        accuracy,
        worse,
        f"{found['produced_s']:.0f}",
    ]
