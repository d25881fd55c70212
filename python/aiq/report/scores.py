"""Accuracy in the words of its metric: shares in percentage points, perplexities as ratios."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiq.text import fine_points, points

PERPLEXITY = "perplexity"

NOT_EVALUATED = "not evaluated"
"""Shown in place of the drop of a plan that was not measured."""


@dataclass(frozen=True, slots=True)
class Words:
    """How a metric is written.

    Attributes
    ----------
    name
        Name of the score.
    metric
        Name of the metric.
    """

    name: str
    metric: str

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> "Words":
        """Return the words for the metric of a plan; plans of older versions have ``top1``."""
        metric = str(provenance.get("metric", "top1"))
        name = "accuracy" if metric == "top1" else metric.strip("_").replace("_", " ")
        return cls(name, metric)

    @property
    def dropped(self) -> str:
        """What a drop is called."""
        return "perplexity" if self.metric == PERPLEXITY else f"{self.name} drop"

    def unit(self) -> dict[str, Any]:
        """Return how the page writes drops: words for an axis, a factor, and the unit behind it."""
        if self.metric == "top1":
            return {"words": "accuracy drop, pp", "factor": 100, "suffix": " pp"}
        if self.metric == PERPLEXITY:  # 100 times a small difference of logarithms is in percent
            return {"words": "more perplexity, %", "factor": 100, "suffix": " %"}
        return {"words": self.dropped, "factor": 1, "suffix": ""}

    @property
    def column(self) -> str:
        """Heading of a column of drops as `number` writes them."""
        return {"top1": "drop, pp", PERPLEXITY: "drop, %"}.get(self.metric, "drop")

    def number(self, drop: float) -> str:
        """Return a drop in the unit that `column` names."""
        digits = 2 if self.metric in {"top1", PERPLEXITY} else 4
        return f"{self.unit()['factor'] * drop + 0.0:.{digits}f}"

    def score(self, mean: float) -> str:
        """Return a mean score: of ``perplexity`` it is the mean log-likelihood."""
        if self.metric == "top1":
            return f"{100 * mean:.2f} %"
        return f"{math.exp(min(-mean, 700.0)):.4g}" if self.metric == PERPLEXITY else f"{mean:.4f}"

    def change(self, drop: float) -> str:
        """Return a drop as a change of the score, ``0.0012`` -> ``-0.12 pp`` or ``x1.001``."""
        if self.metric == PERPLEXITY:
            return f"x{math.exp(min(drop, 700.0)):.3f}"
        if self.metric == "top1":
            return f"{round(-100 * drop, 2) + 0.0:+.2f} pp"
        return f"{round(-drop, 4) + 0.0:+.4f}"

    def fine(self, drop: float | None) -> str:
        """Return a predicted drop, small ones too; ``None`` is one that nothing predicts."""
        if drop is None:
            return NOT_EVALUATED
        return fine_points(drop) if self.metric == "top1" else self.drop(drop)

    def difference(self, drop: float) -> str:
        """Return how much more one format loses than another: of perplexity it is in percent."""
        if self.metric == "top1":
            return fine_points(drop)
        if self.metric == PERPLEXITY:
            return f"{100 * math.expm1(min(drop, 700.0)):.2g} % of perplexity"
        return f"{drop:.2g}"

    def drop(self, drop: float) -> str:
        """Return a drop: percentage points of accuracy, a ratio of perplexities."""
        if self.metric == "top1":
            return points(drop)
        return self.change(drop) if self.metric == PERPLEXITY else f"{drop:.4f}"
