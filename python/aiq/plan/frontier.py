"""The plans at other budgets, as they can be read, printed and counted."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from aiq.plan.tables import FrontierPoint
from aiq.report.scores import Words
from aiq.text import FittedTable, count, duration, plain

SPARE = ("bytes moved", "weights", "<frontier", "at most")
"""Columns that are left out of a narrow terminal, the first first."""

UNKNOWN = (
    "? is a drop that was not evaluated, as the answer did not need it; `aiq search --frontier` "
    "evaluates it."
)


@dataclass(frozen=True, slots=True)
class PlanFrontier:
    """Plans by predicted accuracy drop, ascending: the frontier, every uniform plan, the chosen.

    Plans whose drop is not known come last, by time, descending.

    Attributes
    ----------
    layers, formats
        Names of the layers, and of the formats that points refer to by position.
    unit
        Unit of what the search minimised: ``seconds`` or ``bytes``.
    level
        Cost model behind the seconds; ``roofline`` is a lower bound.
    points
        The plans. No plan is cheaper at the drop of one that is `optimal`.
    metric
        Name of the metric of accuracy, for the words of the table.
    """

    layers: tuple[str, ...]
    formats: tuple[str, ...]
    unit: str
    level: str
    points: tuple[FrontierPoint, ...]
    metric: str = "top1"

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[FrontierPoint]:
        return iter(self.points)

    def plan(self, point: FrontierPoint) -> dict[str, str]:
        """Return layer -> format of a point."""
        return {n: self.formats[k] for n, k in zip(self.layers, point.formats, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        return asdict(self)

    def table(self) -> RenderableType:
        """Return the points for reading, and what was not evaluated."""
        words = Words.of({"metric": self.metric})
        bound = ">= " if self.level == "roofline" else ""
        measured = any(point.measured_drop is not None for point in self.points)
        columns = ["<plan", "<frontier", "time", "bytes moved", "weights", "drop"]
        columns += [*(["measured", "at most"] if measured else []), "<layers"]
        rows = (
            (
                point.name,
                "yes" if point.optimal else "",
                bound + duration(point.seconds),
                f"{count(point.bytes)}B",
                f"{count(point.weight_bytes)}B",
                "?" if point.drop is None else words.fine(point.drop),
                *(
                    "" if drop is None else words.drop(drop)
                    for drop in ((point.measured_drop, point.drop_limit) if measured else ())
                ),
                self._mix(point),
            )
            for point in self.points
        )
        found = FittedTable("", tuple(columns), tuple(rows), SPARE)
        unknown = any(point.drop is None for point in self.points)
        return Group(found, Text(UNKNOWN)) if unknown else found

    def _mix(self, point: FrontierPoint) -> str:
        found = Counter(self.formats[k] for k in point.formats)
        return ", ".join(f"{n} {name}" for name, n in found.most_common())

    def __str__(self) -> str:
        return plain(self.table())
