"""The table of costs that the search minimises and that predicts the cost of a plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from aiq.errors import InputError
from aiq.formats import REFERENCE, Format


class Level(StrEnum):
    """The three levels of detail of the cost model."""

    INTENSITY = "intensity"
    ROOFLINE = "roofline"
    CALIBRATED = "calibrated"


_PER_UNIT = {  # bits in a byte, picoseconds in a second
    Level.INTENSITY: 8,
    Level.ROOFLINE: 10**12,
    Level.CALIBRATED: 10**12,
}


def check_countable(most: int) -> None:
    """Raise `InputError` if costs that add up to `most` are no numbers of 64 bits."""
    if most >= 2**63:
        raise InputError(
            "By the profile, one run takes longer than a hundred days; calibrate again, or give "
            "smaller inputs, or a workload of fewer tokens."
        )


@dataclass(frozen=True, slots=True)
class EdgeCost:
    """The cost that depends on the formats of two layers.

    Attributes
    ----------
    source, target
        Positions of the layers in the table, source before target.
    cost
        Shape (K, K), int64: rows are formats of the source, columns formats of the target.
    """

    source: int
    target: int
    cost: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CostTable:
    """Costs of L layers in K formats.

    Attributes
    ----------
    level
        Level of the cost model.
    layers
        Names of the L layers whose format is to be chosen.
    formats
        The K formats.
    cost
        Shape (L, K), int64: bits (``intensity``) or picoseconds (the others).
    fixed
        Cost that does not depend on any format, in the unit of `cost`.
    flops
        Floating-point operations of all layers in the table.
    edges
        Costs between layers, in the unit of `cost`; only a ``calibrated`` table has them.
    spread
        5 % and 95 % quantiles of the ratio of measured to predicted time in the calibration.
    runs
        If this is the cost of several runs of the same layers: how often each runs, and its table.
    """

    level: Level
    layers: tuple[str, ...]
    formats: tuple[Format, ...]
    cost: NDArray[np.int64]
    fixed: int
    flops: int
    edges: tuple[EdgeCost, ...] = ()
    spread: tuple[float, float] | None = None
    runs: tuple[tuple[int, "CostTable"], ...] = ()

    @property
    def per_unit(self) -> int:
        """Units of `cost` per byte (``intensity``) or per second (the other levels)."""
        return _PER_UNIT[self.level]

    def total(self, formats: Mapping[str, Format]) -> float:
        """Return the cost of a plan in bytes (``intensity``) or seconds (the other levels).

        Parameters
        ----------
        formats
            Layer name -> format; layers without an entry are float32.

        Raises
        ------
        InputError
            If a format is not one of the table's.
        """
        return float(self.totals([self._columns(formats)])[0])

    def with_columns(
        self, columns: Sequence[Sequence[int]], formats: Sequence[Format]
    ) -> "CostTable":
        """Return a table of `formats` whose costs are those of other columns of this table.

        Parameters
        ----------
        columns
            For each layer and each of `formats`, the column of this table with its cost.
        formats
            The formats of the new table.
        """
        return replace(
            self,
            formats=tuple(formats),
            cost=np.take_along_axis(self.cost, np.asarray(columns, dtype=np.int64), axis=1),
            edges=tuple(
                replace(e, cost=e.cost[np.ix_(columns[e.source], columns[e.target])])
                for e in self.edges
            ),
            runs=tuple((count, run.with_columns(columns, formats)) for count, run in self.runs),
        )

    def totals(self, columns: npt.ArrayLike) -> NDArray[np.float64]:
        """Return the costs of many plans in bytes (``intensity``) or seconds (the other levels).

        Parameters
        ----------
        columns
            Shape (P, L), int: the column of each layer's format in each of P plans.
        """
        plans = np.asarray(columns, dtype=np.int64)
        sums = self.cost[np.arange(len(self.layers)), plans].sum(axis=1) + self.fixed
        for edge in self.edges:
            sums += edge.cost[plans[:, edge.source], plans[:, edge.target]]
        return np.asarray(sums / self.per_unit, dtype=np.float64)

    def layer_seconds(self, formats: Mapping[str, Format]) -> dict[str, float]:
        """Return the seconds of each layer of a plan, without the conversions on its edges.

        Raises
        ------
        InputError
            If this is an ``intensity`` table, or a format is not one of the table's.
        """
        if self.level is Level.INTENSITY:
            raise InputError("An intensity table holds bytes; build one of seconds.")
        columns = self._columns(formats)
        return {
            name: int(self.cost[i, k]) / self.per_unit
            for i, (name, k) in enumerate(zip(self.layers, columns, strict=True))
        }

    def intensity(self, formats: Mapping[str, Format]) -> float:
        """Return the arithmetic intensity of a plan in FLOPs per byte.

        Raises
        ------
        InputError
            If this is not an ``intensity`` table, or a format is not one of the table's.
        """
        if self.level is not Level.INTENSITY:
            raise InputError(f"A {self.level} table holds seconds; build one of level intensity.")
        return self.flops / self.total(formats)

    def _columns(self, formats: Mapping[str, Format]) -> list[int]:
        columns = {f.name: k for k, f in enumerate(self.formats)}
        found = []
        for layer in self.layers:
            name = formats[layer].name if layer in formats else REFERENCE.name
            if name not in columns:
                raise InputError(
                    f"Layer {layer} has format {name}, which this cost table lacks; build one with "
                    f"it (this one has {', '.join(columns)})."
                )
            found.append(columns[name])
        return found
