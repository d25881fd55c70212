"""The tables of `benches/equal_size.py` and `benches/search_cost.py`."""

import json
from collections.abc import Iterator
from pathlib import Path

HEADER = (
    *("network", "bits", "plan of", "divergence: nearest", "adaptive"),
    *("drop: nearest", "more than aiq's", "drop: adaptive", "more than aiq's", "CPU s"),
)
COST_HEADER = (
    *("network", "images", "sensitivity", "CPU s", "s", "GiB", "evaluations"),
    *("FLOP/byte", "drop", "divergence", "processor"),
)
TOLERANCE = 0.005
"""Bits above the mean that are no excess."""


def equal_size(results: Path) -> Iterator[list[str]]:
    """Yield for each network, size and tool what its plan loses; nothing before the benchmark."""
    path = results / "equal_size.json"
    networks = json.loads(path.read_text())["networks"] if path.exists() else {}
    for network, ways in networks.items():
        adaptive = {(row["mean"], row["tool"]): row for row in ways["adaptive"]}
        for row in ways["nearest"]:
            other = adaptive.get((row["mean"], row["tool"]))
            excess = row["mean_bits"] > row["mean"] + TOLERANCE
            yield [
                network,
                f"{row['mean']:g}" + (f" (has {row['mean_bits']:.2f})" if excess else ""),
                row["tool"],
                f"{row['kl']:.4f}",
                f"{other['kl']:.4f}" if other else "",
                f"{100 * row['drop']:.2f} pp",
                _difference(row),
                f"{100 * other['drop']:.2f} pp" if other else "",
                _difference(other) if other else "",
                f"{row['cpu_seconds']:.0f}"
                + (f" ({other['cpu_seconds']:.0f})" if other and row["tool"] == "aiq" else ""),
            ]


def _difference(row: dict[str, float]) -> str:
    if row["tool"] == "aiq":
        return ""
    return f"{100 * row['worse']:.2f} ± {100 * row['worse_error']:.2f} pp"


def search_cost(results: Path) -> Iterator[list[str]]:
    """Yield for each search what it cost and what its plan is worth."""
    path = results / "search_cost.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else {}
    for key, row in rows.items():
        judged = "drop" in row
        yield [
            *key.split("/"),
            f"{row['cpu_seconds']:.0f}",
            f"{row['seconds']:.0f}",
            f"{row['peak_gib']:.1f}",
            str(row["evaluations"]),
            f"{row['intensity']:.1f}",
            f"{100 * row['drop']:.2f} ± {100 * row['drop_error']:.2f} pp" if judged else "",
            f"{row['kl']:.4f}" if judged else "",
            row["cpu"],
        ]
