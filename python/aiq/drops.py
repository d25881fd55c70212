"""The drop table: predicted accuracy drop of every layer in every format."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from aiq.errors import InputError
from aiq.formats import REFERENCE, Format, parse
from aiq.saved import FileKind, Saved
from aiq.typed import Count, Name, NonNegative, Text, renamed

SCHEMA = "aiq/drop-table/v3"

Array = NDArray[np.float64]
Drop = Annotated[float, Meta(ge=-1e100, le=1e100)]
"""A drop of any metric; the limits keep sums of drops finite."""


@dataclass(frozen=True, slots=True)
class MeasuredPlan:
    """A plan that was measured as a whole.

    Attributes
    ----------
    formats
        Layer name -> name of its format.
    drop, error
        Accuracy drop of the plan as a fraction, and its standard error.
    """

    formats: Mapping[Name, Name]
    drop: Drop
    error: NonNegative

    def __post_init__(self) -> None:
        for name in self.formats.values():
            parse(name)


@dataclass(frozen=True, slots=True, eq=False)
class DropTable(Saved):
    """Predicted accuracy drop of L layers in K formats, each layer alone.

    For a network of 22 layers and the formats fp32, w8 and w4, L is 22 and K is 3.

    Attributes
    ----------
    layers
        Names of the L layers, in the order of the layer graph.
    formats
        The K formats.
    drop
        Predicted accuracy drop as a fraction (0.01 is one percentage point), (L, K).
    error
        Standard error of `drop`, (L, K).
    divergence
        Mean divergence in nats, measured or estimated, from which drops are derived, (L, K). For
        ``sqnr`` and ``mse`` without data it is the noise-to-signal ratio.
    measured
        Accuracy drop of each layer alone, measured on the same samples, (L, K); it is too noisy to
        be used as a prediction. ``None`` if accuracy was not measured.
    method
        Name of the method, such as ``measured`` or ``sqnr``.
    slope
        Drop per unit of `divergence`.
    baseline
        Accuracy of the float32 network; ``None`` if it was not measured.
    samples
        Number of samples in the data.
    evaluations
        Number of evaluations of the network on all samples that the table took.
    seconds
        Time in seconds that the table took.
    measured_plans
        Plans that were measured as a whole for the table.
    """

    layers: tuple[str, ...]
    formats: tuple[Format, ...]
    drop: Array
    error: Array
    divergence: Array
    measured: Array | None
    method: str
    slope: float
    baseline: float | None
    samples: int
    evaluations: int
    seconds: float
    measured_plans: tuple[MeasuredPlan, ...] = ()

    @property
    def drop_per_nat(self) -> float | None:
        """Drop per nat of divergence; ``None`` if the drops do not come from divergences."""
        return self.slope if self.measured_plans else None

    def predict(self, formats: Mapping[str, Format]) -> float:
        """Return the sum of the drops of the layers in `formats`.

        A format that the table lacks counts as its `Format.kernel`.

        Raises
        ------
        InputError
            If the table has no such layer or format.
        """
        total = 0.0
        for name, chosen in formats.items():
            # The dtype between layers is not simulated, so it does not change the drop.
            known = chosen if chosen in self.formats else chosen.kernel
            if name not in self.layers or known not in {*self.formats, REFERENCE}:
                raise InputError(
                    f"The drop table has no entry for layer {name!r} as {chosen}; measure a table "
                    "with this model and format."
                )
            if known != REFERENCE:
                total += float(self.drop[self.layers.index(name), self.formats.index(known)])
        return total

    def _document(self) -> "_Document":
        """Return the table with lists instead of arrays."""
        return _Document(
            layers=self.layers,
            formats=tuple(f.name for f in self.formats),
            drop=self.drop.tolist(),
            error=self.error.tolist(),
            divergence=self.divergence.tolist(),
            measured=None if self.measured is None else self.measured.tolist(),
            method=self.method,
            slope=self.slope,
            baseline=self.baseline,
            samples=self.samples,
            evaluations=self.evaluations,
            seconds=self.seconds,
            measured_plans=self.measured_plans,
        )

    @classmethod
    def _of_document(cls, document: "_Document") -> "DropTable":
        """Return the table of a document."""
        return document.table()


@dataclass(frozen=True, slots=True)
class _Document:
    """A drop table as JSON: with lists instead of arrays, and names instead of formats."""

    layers: tuple[Name, ...]
    formats: tuple[Name, ...]
    drop: list[list[Drop]]
    error: list[list[NonNegative]]
    divergence: list[list[float]]
    measured: list[list[Drop]] | None
    method: Text
    slope: float
    baseline: float | None
    samples: Count
    evaluations: Count
    seconds: NonNegative
    measured_plans: tuple[MeasuredPlan, ...]

    def __post_init__(self) -> None:
        for names in (self.layers, [parse(name) for name in self.formats]):
            if len({*names}) < len(names):
                raise InputError("A drop table must name each layer and each format once.")
        for rows in (self.drop, self.error, self.divergence, self.measured):
            if rows is not None and [len(row) for row in rows] != [len(self.formats)] * len(
                self.layers
            ):
                raise InputError(
                    "A drop table must have a row for each layer and a column for each format."
                )

    def table(self) -> DropTable:
        """Return the table."""
        shape = len(self.layers), len(self.formats)

        def array(rows: list[list[float]]) -> Array:
            return np.array(rows, np.float64).reshape(shape)

        return DropTable(
            layers=self.layers,
            formats=tuple(map(parse, self.formats)),
            drop=array(self.drop),
            error=array(self.error),
            divergence=array(self.divergence),
            measured=None if self.measured is None else array(self.measured),
            method=self.method,
            slope=self.slope,
            baseline=self.baseline,
            samples=self.samples,
            evaluations=self.evaluations,
            seconds=self.seconds,
            measured_plans=self.measured_plans,
        )


def _from_v2(document: dict[str, Any]) -> dict[str, Any]:
    """Return a table of version 2, which called the accuracy drop loss, in today's names."""
    found: dict[str, Any] = renamed(document, {"loss": "drop", "whole": "measured_plans"})
    return found


DropTable._kind = FileKind(
    noun="drop table",
    schema=SCHEMA,
    document=_Document,
    advice="give a file that DropTable.save or `aiq sensitivity --output` wrote",
    older={"aiq/loss-table/v2": _from_v2},
)
