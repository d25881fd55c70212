"""The table and the picture of `benches/qat.py`, from its summary.

python benches/qat_report.py
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiq import files

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "training.md"
BEGIN, END = "<!-- rounds: benches/qat_report.py -->\n", "<!-- end of rounds -->"
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
    return ", ".join(f"{count} x {b or 32}" for b, count in counts.items())


def filled(text: str, summary: Summary) -> str:
    """Return the page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n" + table(summary) + "\n" + END + rest.partition(END)[2]


def draw(summary: Summary) -> None:
    """Draw accuracy drop against intensity, before and after training."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - tests read tables without it
    from paper_plots import plt as styled  # noqa: PLC0415 - sets the style of all pictures

    assert styled is plt
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
    figure.tight_layout()
    figure.savefig(DOCS / "training_frontier.svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)


def write(path: Path) -> None:
    """Write the table into the page, and the picture beside it."""
    summary = json.loads(path.read_text())
    if PAGE.exists():
        files.write_atomic(PAGE, filled(PAGE.read_text(), summary))
    draw(summary)


if __name__ == "__main__":
    write(Path(__file__).parent / "results" / "qat.json")
