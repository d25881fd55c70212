"""The picture and the tables of ``benches/architectures.py``, from its committed summary."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from pictures import write

COLOURS = {"weights": "#0072b2", "w8a8": "#d55e00"}
RUNTIMES = {"openvino": "o", "onnxruntime": "s", "inductor": "^"}
SHOWN = ("raspberry_pi_5", "epyc_zen4_1thread", "xeon_2vcpu", "t4", "h100")
"""Profiles in the table, by ridge point."""


def draw(summary: Mapping[str, Any]) -> None:
    """Draw the gain of every plan against the ridge point of every profile, and print tables."""
    works = summary["works"]
    figure, grid = plt.subplots(2, 3, figsize=(9.6, 6), sharex=True)
    ridges = {name: p["ridge"]["fp32"] for name, p in summary["profiles"].items()}
    order = sorted(works, key=lambda name: list(works).index(name) % 2)  # small batches above
    for axes, name in zip(grid.flat, order, strict=True):
        panel(axes, name, works[name], ridges)
    for axes in grid[1]:
        axes.set_xlabel("ridge point in float32, FLOP/byte")
    for axes in grid[:, 0]:
        axes.set_ylabel("gain over float32")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=3, frameon=False)
    write(figure, "architectures", below=0.13)
    print(table(summary))
    print(calibrated_table(summary))


def panel(axes: Any, name: str, work: Mapping[str, Any], ridges: Mapping[str, float]) -> None:
    for plan, colour in COLOURS.items():
        gain = work["plans"][plan]["intensity_gain"]
        axes.axhline(gain, color=colour, lw=0.8, ls=":", label=f"{plan}: intensity gained")
    xs, ys = zip(*work["curve"], strict=True)
    axes.plot(xs, ys, color=COLOURS["weights"], lw=1.2, label="weights: roofline, any machine")
    bounds = {p: row["w8a8"]["gain"] for p, row in work["roofline"].items() if "w8a8" in row}
    axes.plot(
        [ridges[p] for p in bounds],
        list(bounds.values()),
        "x",
        color=COLOURS["w8a8"],
        ms=5,
        label="w8a8: roofline of a profile",
    )
    for runtime, marker in RUNTIMES.items():
        rows = [row for row in work["calibrated"] if row["runtime"] == runtime]
        axes.plot(
            [ridges[row["profile"]] for row in rows],
            [row["gain"] for row in rows],
            marker,
            color="#009e73",
            ms=5,
            mfc="none",
            label=f"w8a8: calibrated, {runtime}",
        )
    axes.axhline(1, color="#999999", lw=0.6)
    axes.set(xscale="log", yscale="log", title=name)
    axes.set_yticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
    axes.minorticks_off()


def table(summary: Mapping[str, Any]) -> str:
    """Return the table of intensities and of gains by the roofline, in Markdown."""
    ridge = {p: summary["profiles"][p]["ridge"]["fp32"] for p in SHOWN}
    head = ["network, run", "plan", "drop", "intensity", *(f"{p} ({ridge[p]:.0f})" for p in SHOWN)]
    lines = [head, ["---"] * len(head)]
    for name, work in summary["works"].items():
        for plan, found in work["plans"].items():
            after = work["intensity"] * found["intensity_gain"]
            cells = [work["roofline"][p].get(plan) for p in SHOWN]
            lines.append(
                [
                    name,
                    plan,
                    "" if found["drop"] is None else f"{found['drop']:.4f}",
                    f"{work['intensity']:.1f} -> {after:.1f}, {found['intensity_gain']:.2f}x",
                    *("" if cell is None else f"{cell['gain']:.2f}" for cell in cells),
                ]
            )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def calibrated_table(summary: Mapping[str, Any]) -> str:
    """Return the table of predicted gains in runtimes, in Markdown."""
    works = {n: w for n, w in summary["works"].items() if w["calibrated"]}
    keys = {(r["profile"], r["runtime"]): None for w in works.values() for r in w["calibrated"]}
    lines = [["profile", "runtime", *works], ["---"] * (2 + len(works))]
    for key in sorted(keys):
        row = list(key)
        for work in works.values():
            of = {(r["profile"], r["runtime"]): r for r in work["calibrated"]}
            bound = work["roofline"][key[0]]["w8a8"]["gain"]
            row.append(f"{of[key]['gain']:.2f} ({bound:.2f})" if key in of else "")
        lines.append(row)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
