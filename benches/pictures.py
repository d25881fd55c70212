"""The style of all pictures in `docs/`, and where they are written."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

DOCS = Path(__file__).parent.parent / "docs"

mpl.use("svg")
mpl.rcParams.update(
    {
        "svg.hashsalt": "aiq",  # the same names of elements in every run
        "svg.fonttype": "none",  # text stays text: small files
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "white",
    }
)


def write(figure: Any, name: str, below: float = 0.0) -> None:
    """Write a figure to `docs/` as SVG, the same bytes in every run, and close it.

    `below` is the share of its height that stays free for a legend.
    """
    figure.tight_layout(rect=(0, below, 1, 1))
    figure.savefig(DOCS / f"{name}.svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
