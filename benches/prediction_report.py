"""Statistics, tables and a scatter plot of predictions."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from scipy.stats import kendalltau, spearmanr

LEVELS = ("level 0", "level 1", "level 2")
Row = dict[str, Any]
Statistics = dict[str, float | None]


def errors(predicted: Sequence[float], measured: Sequence[float]) -> Statistics:
    """Return the statistics of predicted against measured times."""
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


def per_program(result: Row) -> NDArray[np.float64]:
    """Return the measured seconds of plans; a plan that was drawn repeatedly gets its median.

    Otherwise the noise in one time of float32 would be an error of all speed-ups.
    """
    _, program = np.unique(result["plans"], axis=0, return_inverse=True)
    measured = np.array(result["measured"])
    return np.array([np.median(measured[program == mine]) for mine in program])


def of_plans(result: Row, level: str) -> Statistics:
    """Return the statistics of the predicted speed-ups over float32, which is the first plan."""
    predicted, measured = np.array(result[level]), per_program(result)
    said, real = predicted[0] / predicted[1:], measured[0] / measured[1:]
    decided = np.abs(np.log(real)) > np.log1p(result["noise"])  # the others are neither
    right = np.sign(np.log(said)) == np.sign(np.log(real))
    chosen = measured[int(np.argmin(predicted))]
    return {
        **errors(said, real),
        "sign": float(right[decided].mean()) if decided.any() else 1.0,
        "decided": int(decided.sum()),
        "regret": float(chosen / measured.min() - 1),
    }


def of_networks(rows: Mapping[str, Row]) -> dict[str, Statistics]:
    """Return the statistics of whole networks, by runtime and level."""
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
    """Return the statistics of mixed plans, by network, batch, runtime and level."""
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


def over_all(plans: Iterable[Statistics]) -> Statistics:
    """Return the statistics of the plans of several networks: the worst rank, regret and noise."""
    found = [{name: value or 0 for name, value in row.items()} for row in plans]
    decided = sum(row["decided"] for row in found)
    return {
        "rows": sum(row["rows"] for row in found),
        "MAPE": fmean((row["MAPE"] for row in found), [row["rows"] for row in found]),
        "sign": sum(row["decided"] * row["sign"] for row in found) / max(decided, 1),
        "decided": decided,
        "Spearman": min(row["Spearman"] for row in found),
        "regret": max(row["regret"] for row in found),
        "noise": max(row["noise"] for row in found),
    }


def fill(title: str, rows: Mapping[str, Statistics]) -> Table:
    """Return a table with a line for each row."""
    table = Table("", title=title)
    for name in next(iter(rows.values()), ()):
        table.add_column(name, justify="right")
    for key, values in rows.items():
        table.add_row(key, *(number(name, value) for name, value in values.items()))
    return table


def number(name: str, value: float | None) -> str:
    """Return a number as text: ranks and counts unchanged, all others in percent."""
    if name in {"rows", "decided", "programs"} or value is None:
        return "" if value is None else str(int(value))
    return f"{value:.3f}" if name in {"Spearman", "Kendall"} else f"{value:.1%}"


def plot(results: Mapping[str, Mapping[str, Row]], path: Path) -> None:
    """Draw predicted over measured, a column for each runtime; networks above, plans below.

    Parameters
    ----------
    results
        Rows by the name of the profile that predicted.
    path
        File to write; its suffix says in which format.
    """
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only pictures need it

    columns = sorted({key.split("/")[2] for rows in results.values() for key in rows})
    size = (4 * len(columns) + 0.5, 8)
    figure, grid = plt.subplots(2, len(columns), figsize=size, squeeze=False)
    for index, (profile, rows) in enumerate(results.items()):
        calibrated = {"color": f"C{index}", "marker": "o", "label": profile}
        roofline = {"color": "0.65", "marker": "x", "label": "roofline"}
        for key, row in rows.items():
            _, _, runtime, *kind = key.split("/")
            axes = grid[len(kind), columns.index(runtime)]
            for level, style in (("level 1", roofline), ("level 2", calibrated)):
                real, said = row["measured"], row[level]
                if kind:
                    seconds = per_program(row), np.array(said)
                    real, said = (times[0] / times[1:] for times in seconds)
                axes.scatter(real, said, s=14, linewidth=0.8, alpha=0.8, **style)
    for (row, column), axes in np.ndenumerate(grid):
        what = ("float32 networks, seconds", "mixed plans, speed-up over float32")[row]
        axes.set(title=f"{columns[column]}: {what}", xlabel="measured", ylabel="predicted")
        axes.set(xscale="log", yscale="log", aspect="equal", adjustable="datalim")
        ends = (*axes.get_xlim(), *axes.get_ylim())
        limits = np.array([min(ends), max(ends)])
        axes.plot(limits, limits, "k-", linewidth=0.8)
        axes.fill_between(limits, limits * 0.9, limits * 1.1, color="0.9", zorder=0)
        axes.title.set_size(9)
    unique = {c.get_label(): c for axes in grid.flat for c in axes.collections if c.get_alpha()}
    figure.legend(unique.values(), unique.keys(), ncols=4, loc="lower center", fontsize=8)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
