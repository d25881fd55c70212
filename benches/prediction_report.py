"""What is said of predictions: statistics, tables, and a scatter plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import kendalltau, spearmanr

LEVELS = ("level 0", "level 1", "level 2")
Row = dict[str, Any]
Statistics = dict[str, float | None]


def errors(predicted: Sequence[float], measured: Sequence[float]) -> Statistics:
    """Return what is said of predictions."""
    p, m = np.asarray(predicted), np.asarray(measured)
    error = np.abs(p / m - 1)
    several = len(p) > 2 and np.ptp(p) > 0
    return {
        "MAPE": float(error.mean()),
        "median": float(np.median(error)),
        "worst": float(error.max()),
        "within 10 %": float((error <= 0.1).mean()),
        "within 20 %": float((error <= 0.2).mean()),
        "bias": float((p / m - 1).mean()),
        "Spearman": float(spearmanr(p, m).statistic) if several else None,
        "Kendall": float(kendalltau(p, m).statistic) if several else None,
    }


def of_plans(result: Mapping[str, Any], level: str) -> Statistics:
    """Return what is said of the predicted speed-ups over float32, the first plan."""
    predicted, measured = np.array(result[level]), np.array(result["measured"])
    said, real = predicted[0] / predicted[1:], measured[0] / measured[1:]
    told = np.abs(np.log(real)) > np.log1p(result["noise"])  # the others are neither
    right = np.sign(np.log(said)) == np.sign(np.log(real))
    chosen = measured[int(np.argmin(predicted))]
    return {
        **errors(said, real),
        "sign": float(right[told].mean()) if told.any() else 1.0,
        "told": int(told.sum()),
        "regret": float(chosen / measured.min() - 1),
    }


def of_networks(rows: Mapping[str, Row]) -> dict[str, Statistics]:
    """Return what is said of whole networks, by runtime and level."""
    found: dict[str, Statistics] = {}
    singles = {tuple(key.split("/")): row for key, row in rows.items() if "measured" in row}
    singles = {key: row for key, row in singles.items() if len(key) == 3}
    for runtime in dict.fromkeys(key[2] for key in singles):
        mine = [row for key, row in singles.items() if key[2] == runtime]
        real = [row["measured"] for row in mine]
        inside = [row["interval"][0] <= row["measured"] <= row["interval"][1] for row in mine]
        for level in LEVELS:
            found[f"{runtime}/{level}"] = {
                "rows": len(mine),
                "noise": float(np.median([row["noise"] for row in mine])),
                **errors([row[level] for row in mine], real),
                "in interval": float(np.mean(inside)) if level == LEVELS[-1] else None,
            }
    return found


def of_mixed(rows: Mapping[str, Row]) -> dict[str, Statistics]:
    """Return what is said of mixed plans, by network, batch, runtime and level."""
    found = {}
    for key, row in rows.items():
        if key.endswith("/plans"):
            for level in LEVELS:
                name = f"{key.removesuffix('/plans')}/{level}"
                found[name] = {
                    "rows": len(row["measured"]) - 1,
                    "noise": row["noise"],
                    **of_plans(row, level),
                }
    return found


def fill(title: str, rows: Mapping[str, Statistics]) -> Table:
    """Return a table with a line for each row."""
    table = Table("", title=title)
    for name in next(iter(rows.values()), ()):
        table.add_column(name, justify="right")
    for key, values in rows.items():
        table.add_row(key, *(number(name, value) for name, value in values.items()))
    return table


def number(name: str, value: float | None) -> str:
    """Return a number for reading: ranks and counts as they are, the rest in percent."""
    if name == "rows" or value is None:
        return "" if value is None else str(int(value))
    return f"{value:.3f}" if name in {"Spearman", "Kendall"} else f"{value:.1%}"


def plot(rows: Mapping[str, Row], path: Path) -> None:
    """Draw predicted over measured: networks on the left, plans on the right."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - an extra

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.2))
    styles: dict[str, str] = {}
    for key, row in rows.items():
        _, _, runtime, *kind = key.split("/")
        color = styles.setdefault(runtime, f"C{len(styles)}")
        for level, marker in (("level 1", "x"), ("level 2", "o")):
            real, said = np.array(row["measured"]), np.array(row[level])
            axes = right if kind else left
            if kind:
                real, said = real[0] / real[1:], said[0] / said[1:]
            axes.scatter(real, said, color=color, marker=marker, s=16, label=f"{runtime}, {level}")
    for axes, title in ((left, "seconds, float32"), (right, "speed-up over float32, mixed plans")):
        axes.set(xscale="log", yscale="log", xlabel="measured", ylabel="predicted", title=title)
        ends = (*axes.get_xlim(), *axes.get_ylim())
        limits = np.array([min(ends), max(ends)])
        axes.plot(limits, limits, "k-", linewidth=0.8)
        axes.fill_between(limits, limits * 0.9, limits * 1.1, color="0.85", zorder=0)
        unique = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.legend(unique.values(), unique.keys(), fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
