"""The table of deployments, and when a deployment is good.

A deployment is good if the formats that run are those of the plan, and if the error of its output
is at most `FACTOR` times the error that the simulation of the same plan has, plus `FLOOR`. An error
is the norm of the difference from the float32 output, over the norm of that output less its mean.
"""

from collections.abc import Mapping
from typing import Any

FACTOR, FLOOR = 1.5, 0.02
RUNTIMES = ("inductor", "onnxruntime", "openvino")


def fault(found: Mapping[str, Any]) -> str:
    """Return what is wrong with a deployment, or an empty text if it is good."""
    if "failure" in found:
        return str(found["failure"])
    if found["mismatches"]:
        return f"{len(found['mismatches'])} mismatches, {found['mismatches'][0]}"
    limit = FACTOR * found["simulated"] + FLOOR
    return "" if found["error"] <= limit else f"error {found['error']:.3f}, limit {limit:.3f}"


def markdown(rows: Mapping[str, Any]) -> str:
    """Return the table in Markdown: layers in int8, error and simulated error of each runtime."""
    lines = [
        "| network | layers | " + " | ".join(RUNTIMES) + " |",
        "| --- " * (2 + len(RUNTIMES)) + "|",
    ]
    for name, found in rows.items():
        cells = [entry(found["runtimes"].get(runtime)) for runtime in RUNTIMES]
        lines.append(f"| {name} | {found.get('layers', '')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def entry(found: Mapping[str, Any] | None) -> str:
    """Return a cell of the table."""
    if found is None:
        return ""
    if fault(found):
        return f"**{fault(found)}**".replace("|", "/")
    return f"{found['int8']} int8, {found['error']:.3f} ({found['simulated']:.3f})"


def summary(rows: Mapping[str, Any]) -> str:
    """Return how many deployments are good, in one line."""
    cells = [found for row_ in rows.values() for found in row_["runtimes"].values()]
    good = sum(not fault(found) for found in cells)
    return f"{good} of {len(cells)} deployments of {len(rows)} networks are good."
