"""The table and the picture of `benches/qat.py`, from its summary.

python benches/qat_report.py
"""

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from aiq import files

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "training.md"
BEGIN, END = "<!-- rounds: benches/qat_report.py -->\n", "<!-- end of rounds -->"
PICTURE = "![Accuracy drop against FLOP/byte, before and after training](training_frontier.svg)"
HEADER = (
    *("formats of", "round", "FLOP/byte", "x float32", "bits of weights", "bits of activations"),
    *("drop before training", "drop after it", "within the budget"),
)
Summary = Mapping[str, Any]


def table(summary: Summary) -> str:
    """Return all rounds as a table in Markdown; drops are those on test images."""
    lines = [list(HEADER), ["---"] * len(HEADER)]
    for kind, found in summary["searches"].items():
        for number, row in enumerate(found["rounds"], 1):
            lines.append(
                [
                    kind,
                    str(number),
                    f"{row['intensity']:.2f}",
                    f"{row['ratio']:.3f}",
                    bits(row["formats"], 0),
                    bits(row["formats"], 1),
                    *(f"{100 * row[key]['drop']:.2f} pp" for key in ("before", "trained")),
                    "yes" if row["kept"] else "no",
                ]
            )
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def bits(formats: Mapping[str, str], part: int) -> str:
    """Return how many layers have which bits of weights (part 0) or of activations (part 1)."""
    found = [f"{name[1:]}a".split("a")[part] if name[0] == "w" else "" for name in formats.values()]
    counts = {b: found.count(b) for b in sorted(set(found), reverse=True)}
    return ", ".join(f"{count} of {b or 32}" for b, count in counts.items())


def best(summary: Summary, kind: str) -> Summary | None:
    """Return the round of most intensity that keeps to the budget on validation and test images."""
    rows = [
        row
        for row in summary["searches"][kind]["rounds"]
        if row["kept"] and row["trained"]["drop"] <= summary["max_drop"]
    ]
    return max(rows, key=lambda row: row["intensity"], default=None)


def outcome(summary: Summary) -> str:
    """Return what came out, in a sentence for each set of formats."""
    lines = []
    for kind, found in summary["searches"].items():
        row = best(summary, kind)
        reached = (
            f"no trained plan kept to a drop of {100 * summary['max_drop']:g} pp"
            if row is None
            else f"{row['intensity']:.2f} FLOP/byte, {row['ratio']:.2f} times that of float32, at "
            f"a drop of {100 * row['trained']['drop']:.2f} pp on the test images; the same formats "
            f"without training drop {100 * row['before']['drop']:.2f} pp"
        )
        lines.append(
            f"* Formats of {kind}: {reached}. It ended because {found['stopped']}, after "
            f"{found['cpu_seconds'] / 60:.0f} CPU minutes."
        )
    narrowest = summary["intensities"]["w2"]
    lines.append(
        f"* Two bits in every layer have {narrowest:.2f} FLOP/byte, the most that formats of "
        "weights alone can reach: the other bytes are activations."
    )
    return "\n".join(fill(line, 118, subsequent_indent="  ") for line in lines)


def section(summary: Summary) -> str:
    """Return the part of the page that says what came out."""
    images, steps = summary["images"], f"{summary['steps']} batches of {summary['batch']}"
    without = json.loads((RESULTS / "paper.json").read_text())["searches"]
    rows = {row["name"]: row for row in without}
    weights, both = (
        rows[f"aiq: most AI, {name} 2-8 bits"]["intensity"]
        for name in ("weights", "weights and activations")
    )
    setting = (
        f"ResNet-20 on Fashion-MNIST (`benches/qat.py`). Each training sees {steps} training "
        "images; its targets are the mean of the label and of the softmax of the float32 network. "
        f"Plans are chosen, and trained plans kept, on {images['val']:,} validation images; drops "
        f"below are those on {images['test']:,} test images, which nothing else has seen. Without "
        f"training, the most intensity within 1 pp is {weights:.2f} FLOP/byte with formats of "
        "weights and "
        f"{both:.2f} with those of weights and activations "
        "([results](results.md#accuracy-and-intensity))."
    )
    parts = ("## What came out", fill(setting, 118), outcome(summary), PICTURE, table(summary))
    return "".join(f"\n{part.rstrip()}\n" for part in parts) + "\n"


def filled(text: str, summary: Summary) -> str:
    """Return the page with its numbers made anew, at its end if there were none."""
    before, _, rest = text.partition(BEGIN)
    before = before if rest else f"{before}\n"
    return before + BEGIN + section(summary) + END + (rest.partition(END)[2] or "\n")


def draw(summary: Summary) -> None:
    """Draw accuracy drop against intensity, before and after training."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - tests read tables without it
    import pictures  # noqa: PLC0415 - the same

    kinds = summary["searches"]
    figure, grid = plt.subplots(1, len(kinds), figsize=(8.4, 3.6), squeeze=False)
    for (kind, found), axes in zip(kinds.items(), grid[0], strict=True):
        rows = found["rounds"]
        for key, label, marker, colour in (
            ("before", "not trained", "s", "#d55e00"),
            ("trained", "trained", "o", "#0072b2"),
        ):
            points = sorted((row["intensity"], 100 * row[key]["drop"]) for row in rows)
            axes.plot(*zip(*points, strict=True), f"{marker}-", color=colour, label=label)
        axes.axhline(100 * summary["max_drop"], color="k", linewidth=0.8, linestyle=":")
        axes.set_yscale("symlog", linthresh=1)
        axes.set_yticks([0, 0.5, 1, 3, 10, 30, 80], ["0", "0.5", "1", "3", "10", "30", "80"])
        axes.minorticks_off()
        axes.set(title=f"formats of {kind}", xlabel="FLOP/byte")
        axes.legend(frameon=False)
    grid[0][0].set_ylabel("accuracy drop in pp (10,000 test images)")
    pictures.write(figure, "training_frontier")


def write(path: Path) -> None:
    """Write the table into the page, and the picture beside it."""
    summary = json.loads(path.read_text())
    files.write_atomic(PAGE, filled(PAGE.read_text(), summary))
    draw(summary)


if __name__ == "__main__":
    write(RESULTS / "qat.json")
