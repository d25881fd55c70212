"""The tables from which a search chose its plan, and the plans at other budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from aiq.errors import InputError
from aiq.formats import REFERENCE, parse
from aiq.typed import Count, Name, NonNegative, Positive, Text

CHOSEN = "plan"
"""Name of the chosen plan among others."""


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A whole plan, beside others.

    Attributes
    ----------
    name
        The format of a uniform plan, ``plan`` for the one that was chosen, ``""`` for the others.
    seconds, bytes, weight_bytes
        Predicted time of one batch, bytes that convolution and linear layers move, and the size of
        all weights.
    drop
        Predicted accuracy drop, as a fraction; ``None`` if nothing was measured that predicts it.
    formats
        Position of each layer's format in `PlanTables.formats`.
    optimal
        Whether no plan is cheaper at this drop: the solver has proved it.
    measured_drop, drop_limit
        Accuracy drop on the data, and its upper confidence limit; ``None`` if it was not measured.
    """

    name: Text
    seconds: NonNegative
    bytes: NonNegative
    weight_bytes: NonNegative
    drop: float | None
    formats: tuple[Count, ...]
    optimal: bool
    measured_drop: float | None = None
    drop_limit: float | None = None


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a tensor between two layers costs to convert.

    Attributes
    ----------
    source, target
        Positions of the layers in the plan.
    seconds
        Shape (K, K): by format of the source, then of the target.
    """

    source: Count
    target: Count
    seconds: tuple[tuple[NonNegative, ...], ...]


@dataclass(frozen=True, slots=True)
class PlanTables:
    """The L layers of a plan in the K formats that they could have.

    Attributes
    ----------
    formats
        Names of the formats, float32 among them.
    unit
        Unit of what the search minimised: ``seconds`` or ``bytes``.
    seconds, bytes, drop
        Shape (L, K): predicted time of one batch, bytes moved, and accuracy drop of one layer
        alone, as a fraction.
    allowed
        For each layer, the positions of the formats that it may have.
    fixed_seconds
        Time of what no format changes.
    edges
        Pairs of layers (source, target): the second reads what the first writes, directly or
        through layers without a choice of formats.
    conversions
        Costs between layers, where there are any.
    frontier
        Plans by drop, ascending; those whose drop is not known come last, by cost, descending.
    peaks_gflops
        Compute dtype -> peak of the machine, in GFLOP/s.
    memory_gbps
        Memory level -> bandwidth in GB/s, the nearest level first.
    spread
        5 % and 95 % quantiles of measured over predicted time in the calibration of the machine;
        ``None`` without a calibration.
    mac_pj, byte_pj, energy_source
        Compute dtype -> picojoules of one multiplication and addition, picojoules of one byte
        moved, and their source; empty if the hardware profile states none.
    """

    formats: tuple[Name, ...]
    unit: Name
    seconds: tuple[tuple[NonNegative, ...], ...]
    bytes: tuple[tuple[NonNegative, ...], ...]
    drop: tuple[tuple[float, ...], ...]
    allowed: tuple[tuple[Count, ...], ...]
    fixed_seconds: NonNegative
    edges: tuple[tuple[Count, Count], ...]
    conversions: tuple[Conversion, ...]
    frontier: tuple[FrontierPoint, ...]
    peaks_gflops: Mapping[Name, Positive] = field(default_factory=dict)
    memory_gbps: Mapping[Name, Positive] = field(default_factory=dict)
    spread: tuple[NonNegative, NonNegative] | None = None
    mac_pj: Mapping[Name, Positive] = field(default_factory=dict)
    byte_pj: Positive | None = None
    energy_source: Text = ""

    def check(self, chosen: Sequence[str]) -> None:
        """Raise `InputError` if the tables do not fit a plan with these formats of its layers."""
        layers, names = len(chosen), [point.name for point in self.frontier]
        wide, grids = len(self.formats), [self.seconds, self.bytes, self.drop]
        squares = [x.seconds for x in self.conversions]
        columns = chain(*self.allowed, *(point.formats for point in self.frontier))
        ends = chain(*self.edges, *((x.source, x.target) for x in self.conversions))
        sound = (
            self.unit in {"seconds", "bytes"}
            and {*chosen, REFERENCE.name} <= {*self.formats}
            and all(parse(name).name == name for name in self.formats)
            and names.count(CHOSEN) == 1
            and all(len(grid) == layers for grid in [*grids, self.allowed])
            and all(len(square) == wide for square in squares)
            and all(len(row) == wide for row in chain(*grids, *squares))
            and all(len(point.formats) == layers for point in self.frontier)
            and all(column < wide for column in columns)
            and all(end < layers for end in ends)
        )
        if not sound:
            raise InputError("The plan's tables do not fit its layers; search again.")
