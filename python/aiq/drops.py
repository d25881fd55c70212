"""The loss table: predicted accuracy loss of every layer in every format."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from aiq import files
from aiq.errors import InputError
from aiq.formats import REFERENCE, Format, parse
from aiq.typed import Count, Name, NonNegative, Text, dump_json, parse_json, read_json

SCHEMA = "aiq/loss-table/v2"
_WHAT = "a loss table"
_ADVICE = "give a file that LossTable.save or `aiq sensitivity --output` wrote"

Array = NDArray[np.float64]
Drop = Annotated[float, Meta(ge=-1e100, le=1e100)]
"""Far beyond what any metric says, and sums of it stay finite."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A plan that was measured as a whole.

    Attributes
    ----------
    formats
        Layer name -> name of its format.
    drop, error
        What it lost, and the standard error of that.
    """

    formats: Mapping[Name, Name]
    drop: Drop
    error: NonNegative

    def __post_init__(self) -> None:
        for name in self.formats.values():
            parse(name)


@dataclass(frozen=True, slots=True, eq=False)
class LossTable:
    """Predicted accuracy loss of L layers in K formats, each layer alone.

    Attributes
    ----------
    layers
        Names of the L layers, in the order of the layer graph.
    formats
        The K formats.
    loss
        (L, K): predicted loss of accuracy, as a fraction (0.01 is one percentage point).
    error
        (L, K): its standard error.
    divergence
        (L, K): what the losses were derived from: mean divergence in nats, measured or estimated;
        without data the noise-to-signal ratio for ``sqnr`` and ``mse``.
    measured
        (L, K): loss of accuracy that was counted on the same samples, noise and all; ``None``
        where nothing was counted.
    method
        How, in words.
    slope
        Loss per unit of `divergence`.
    baseline
        Accuracy of the float32 network; ``None`` where it was not measured.
    samples
        Samples in the data.
    evaluations
        Evaluations of the network on all of them that the table took.
    seconds
        Time that it took.
    whole
        Plans that were measured as a whole on the way.
    """

    layers: tuple[str, ...]
    formats: tuple[Format, ...]
    loss: Array
    error: Array
    divergence: Array
    measured: Array | None
    method: str
    slope: float
    baseline: float | None
    samples: int
    evaluations: int
    seconds: float
    whole: tuple[Whole, ...] = ()

    @property
    def per_nat(self) -> float | None:
        """Loss per nat of divergence; ``None`` if the losses do not come from divergences."""
        return self.slope if self.whole else None

    def predict(self, formats: Mapping[str, Format]) -> float:
        """Return the sum of the losses of the layers in `formats`.

        A format that the table lacks counts as its `Format.kernel`.

        Raises
        ------
        InputError
            If the table has no such layer or format.
        """
        total = 0.0
        for name, chosen in formats.items():
            # What computes between the layers is not simulated, so it loses nothing more.
            known = chosen if chosen in self.formats else chosen.kernel
            if name not in self.layers or known not in {*self.formats, REFERENCE}:
                raise InputError(
                    f"The loss table has no entry for layer {name!r} as {chosen}; measure a table "
                    "with this model and format."
                )
            if known != REFERENCE:
                total += float(self.loss[self.layers.index(name), self.formats.index(known)])
        return total

    def to_json(self) -> str:
        """Return the table as JSON text.

        Raises
        ------
        InputError
            If a number of the table is not finite.
        """
        document = _Document(
            layers=self.layers,
            formats=tuple(f.name for f in self.formats),
            loss=self.loss.tolist(),
            error=self.error.tolist(),
            divergence=self.divergence.tolist(),
            measured=None if self.measured is None else self.measured.tolist(),
            method=self.method,
            slope=self.slope,
            baseline=self.baseline,
            samples=self.samples,
            evaluations=self.evaluations,
            seconds=self.seconds,
            whole=self.whole,
        )
        return dump_json(document, _WHAT, SCHEMA)

    @classmethod
    def from_json(cls, text: str, file: str = "the loss table") -> "LossTable":
        """Return the table in `text`, as `to_json` wrote it.

        Raises
        ------
        InputError
            If the text is not a loss table; `file` is what the message calls it.
        """
        return parse_json(
            text, _Document, file=file, what=_WHAT, advice=_ADVICE, schema=SCHEMA
        ).table()

    def save(self, path: str | Path) -> None:
        """Write the table to `path` as JSON, atomically.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        files.write_atomic(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "LossTable":
        """Read a table that `save` wrote.

        Raises
        ------
        InputError
            If the file cannot be read or is not a loss table.
        """
        return read_json(path, _Document, what=_WHAT, advice=_ADVICE, schema=SCHEMA).table()


@dataclass(frozen=True, slots=True)
class _Document:
    """A loss table as JSON has it: lists in the place of arrays, names in that of formats."""

    layers: tuple[Name, ...]
    formats: tuple[Name, ...]
    loss: list[list[Drop]]
    error: list[list[NonNegative]]
    divergence: list[list[float]]
    measured: list[list[Drop]] | None
    method: Text
    slope: float
    baseline: float | None
    samples: Count
    evaluations: Count
    seconds: NonNegative
    whole: tuple[Whole, ...]

    def __post_init__(self) -> None:
        for names in (self.layers, [parse(name) for name in self.formats]):
            if len({*names}) < len(names):
                raise InputError("A loss table names each layer and each format once.")
        for rows in (self.loss, self.error, self.divergence, self.measured):
            if rows is not None and [len(row) for row in rows] != [len(self.formats)] * len(
                self.layers
            ):
                raise InputError("A loss table has a row for each layer, a column for each format.")

    def table(self) -> LossTable:
        """Return the table."""
        shape = len(self.layers), len(self.formats)

        def array(rows: list[list[float]]) -> Array:
            return np.array(rows, np.float64).reshape(shape)

        return LossTable(
            layers=self.layers,
            formats=tuple(map(parse, self.formats)),
            loss=array(self.loss),
            error=array(self.error),
            divergence=array(self.divergence),
            measured=None if self.measured is None else array(self.measured),
            method=self.method,
            slope=self.slope,
            baseline=self.baseline,
            samples=self.samples,
            evaluations=self.evaluations,
            seconds=self.seconds,
            whole=self.whole,
        )
