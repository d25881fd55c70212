"""Predicted and measured decode times: what all runtimes have in common."""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import common
import numpy as np
from rich.table import Table
from scipy.stats import spearmanr

from aiq.formats import Format

MIXES = 30

Plans = Mapping[str, Mapping[str, Format]]


def plans(layers: Iterable[str], menu: Sequence[Format], also: Sequence[Format] = ()) -> Plans:
    """Return all plans of one format, and random mixes of the formats of a menu.

    Parameters
    ----------
    layers
        Names of the layers.
    menu
        Formats of the mixes.
    also
        Formats of which there is a uniform plan only.
    """
    draw, names = random.Random(0), list(layers)
    found: dict[str, dict[str, Format]] = {f.name: dict.fromkeys(names, f) for f in (*also, *menu)}
    for number in range(MIXES):
        some = draw.sample(list(menu), draw.randint(2, len(menu)))
        found[f"mix {number + 1}"] = {name: draw.choice(some) for name in names}
    return found


def compared(
    title: str,
    plans: Plans,
    predicted: Sequence[float],
    measured: Sequence[float],
    size: Sequence[float],
    bandwidth: float,
) -> dict[str, Any]:
    """Return and print the errors of predicted times, beside those of times by bytes alone.

    Parameters
    ----------
    title
        Title of the table.
    plans
        Name of each plan -> its formats, in the order of `plans`.
    predicted, measured, size
        Predicted and measured seconds of a token of each plan, and the bytes of its matrices.
    bandwidth
        Bytes a second of the farthest memory level.
    """
    times, read = np.array(measured), np.array(size)
    guesses = {
        "calibrated": np.array(predicted),
        "roofline": read / bandwidth,
        "scaled bytes": read * np.median(times / read),  # the one rate that fits best
    }
    result: dict[str, Any] = {name: _errors(guess, times) for name, guess in guesses.items()}
    show = Table("prediction", "MAPE", "MAPE of mixes", "Spearman", title=title)
    for name, row in result.items():
        show.add_row(name, *(f"{row[key]:.3f}" for key in ("mape", "mape_of_mixes", "spearman")))
    common.console.print(show)
    rows = zip(plans, predicted, measured, size, strict=True)
    result["rows"] = {
        name: {"predicted_ms": 1e3 * p, "measured_ms": 1e3 * m, "megabytes": s / 1e6}
        for name, p, m, s in rows
    }
    return result


def _errors(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    relative = np.abs(predicted / measured - 1)
    return {
        "mape": float(relative.mean()),
        "mape_of_mixes": float(relative[-MIXES:].mean()),
        "spearman": float(spearmanr(predicted, measured).statistic),
    }
