"""The plots of the paper (arXiv 2512.14090) from the committed summary, as SVG in `docs/`.

(a) each layer alone at 8 and 4 bits: gain of intensity against accuracy drop; (b) the objective
after each evaluation of the paper's searches, replayed on the table of single layers; (c) intensity
against accuracy drop of all plans; (d) the bits of each layer in the searched plans.

    python benches/paper_plots.py
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from common import RESULTS
from pictures import write

from aiq import cost, data, graph, models, solver
from aiq.formats import PAPER, parse

LAMBDA = 0.9
COLOURS = {"w8": "#0072b2", "w4": "#d55e00"}


def layers_alone(rows: Sequence[Mapping[str, Any]]) -> None:
    """(a) Draw the drop of each layer alone against its gain of intensity."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    for name, colour in COLOURS.items():
        mine = [row for row in rows if row["format"] == name]
        axes.errorbar(
            [100 * row["intensity_gain"] for row in mine],
            [100 * row["drop_table"] for row in mine],
            [100 * row["drop_table_error"] for row in mine],
            fmt="o",
            markersize=4,
            elinewidth=0.8,
            color=colour,
            label=f"{name}, one layer",
        )
    axes.set(xlabel="gain of intensity in %", ylabel="predicted accuracy drop in pp")
    axes.legend(frameon=False)
    write(figure, "paper_layers_alone")


def trajectories(rows: Sequence[Mapping[str, Any]]) -> None:
    """(b) Draw the best objective after each evaluation of the paper's searches."""
    image = data.sample("test").inputs(data.sample("test").images[:1])
    table = cost.intensity_table(graph.extract(models.load("resnet20"), image), PAPER)
    drop = {(row["layer"], row["format"]): row["drop_table"] for row in rows}
    counts = [len(table.formats)] * len(table.layers)

    def best_so_far(search: Any) -> list[float]:
        seen: list[float] = []

        def value(choices: Sequence[int]) -> float:
            formats = {n: table.formats[k] for n, k in zip(table.layers, choices, strict=True)}
            lost = sum(drop.get((name, str(f)), 0.0) for name, f in formats.items())
            gain = table.intensity(formats) / table.intensity({})
            seen.append(-LAMBDA * gain + (1 - LAMBDA) * 100 * lost)
            return seen[-1]

        search(counts, value)
        return list(np.minimum.accumulate(seen))

    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    greedy = best_so_far(solver.greedy_measured)
    coordinate = best_so_far(solver.coordinate_measured)
    for name, curve in {"greedy": greedy, "coordinate descent": coordinate}.items():
        label = f"{name}: {len(curve)} evaluations"
        axes.step(range(1, len(curve) + 1), curve, where="post", label=label)
    axes.set(xscale="log", xlabel="evaluations", ylabel="objective (less is better)")
    axes.legend(frameon=False)
    write(figure, "paper_trajectories")


def frontier(rows: Sequence[Mapping[str, Any]], paper: Mapping[str, float]) -> None:
    """(c) Draw intensity against accuracy drop of every plan, on test images."""
    figure, axes = plt.subplots(figsize=(7.6, 3.8))
    for index, row in enumerate(rows):
        axes.scatter(
            row["intensity"],
            100 * row["drop"],
            marker="o" if row["name"].startswith("aiq") else "s",
            color=f"C{index}",
            label=row["name"],
        )
    axes.scatter(
        paper["intensity"],
        paper["drop_points"],
        marker="x",
        color="k",
        label="the paper, on CIFAR-10",
    )
    axes.set(xscale="log", xlabel="FLOP/byte", ylabel="accuracy drop in pp (10,000 test images)")
    axes.set_xticks([30, 45, 60, 120, 240], ["30", "45", "60", "120", "240"])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    write(figure, "paper_frontier")


def bars(rows: Sequence[Mapping[str, Any]]) -> None:
    """(d) Draw the bits of each layer's weights in the searched plans."""
    searched = [row for row in rows if not row["name"].startswith("uniform")]
    layers = list(searched[0]["formats"])
    figure, grid = plt.subplots(len(searched), 1, figsize=(6.4, 6.2), sharex=True)
    for row, axes in zip(searched, grid, strict=True):
        found = [parse(row["formats"].get(layer, "fp32")) for layer in layers]
        weights = [fmt.weight.bits for fmt in found]
        axes.bar(range(len(layers)), weights, color="#56b4e9")
        if any(fmt.quantizes_activations for fmt in found):
            activations = [fmt.activation.bits for fmt in found]
            axes.plot(range(len(layers)), activations, "k_", label="activations")
            axes.legend(frameon=False, fontsize=7, loc="upper right")
        axes.set_ylim(0, 9)
        axes.set_title(row["name"], fontsize=8, loc="left")
        axes.set_ylabel("bits", fontsize=8)
    grid[-1].set_xticks(range(len(layers)), layers, rotation=90, fontsize=6)
    write(figure, "paper_bits")


def draw(summary: Mapping[str, Any]) -> None:
    """Write all plots of a summary of `benches/paper.py`."""
    layers_alone(summary["layers_alone"])
    trajectories(summary["layers_alone"])
    frontier(summary["searches"], summary["paper"])
    bars(summary["searches"])


if __name__ == "__main__":
    draw(json.loads((RESULTS / "paper.json").read_text()))
