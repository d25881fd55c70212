"""The loss table: predicted accuracy loss of every layer in every format."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aiq import files
from aiq.errors import InputError
from aiq.formats import REFERENCE, Format, parse

SCHEMA = "aiq/loss-table/v2"

Array = NDArray[np.float64]


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

    formats: Mapping[str, str]
    drop: float
    error: float


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
        """Return the table as JSON text."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                fields[name] = value.tolist()
        fields["formats"] = [f.name for f in self.formats]
        fields["whole"] = [asdict(whole) for whole in self.whole]
        return json.dumps({"schema": SCHEMA, **fields}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, file: str = "the loss table") -> "LossTable":
        """Return the table in `text`, as `to_json` wrote it.

        Raises
        ------
        InputError
            If the text is not a loss table; `file` is what the message calls it.
        """
        try:
            fields = json.loads(text)
            if fields.pop("schema") != SCHEMA:
                raise ValueError(f"schema is not {SCHEMA}")
            fields["layers"] = tuple(map(str, fields["layers"]))
            fields["formats"] = tuple(map(parse, fields["formats"]))
            fields["whole"] = tuple(Whole(**whole) for whole in fields["whole"])
            shape = len(fields["layers"]), len(fields["formats"])
            for name in ("loss", "error", "divergence", "measured"):
                if fields[name] is not None or name != "measured":
                    fields[name] = np.array(fields[name], np.float64).reshape(shape)
                    if not np.isfinite(fields[name]).all():
                        raise ValueError(f"{name} is not finite")
            return cls(**fields)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{file} is not a loss table ({error}); give a file that LossTable.save or "
                "`aiq sensitivity --output` wrote."
            ) from None

    def save(self, path: str | Path) -> None:
        """Write the table to `path` as JSON, atomically."""
        files.write_atomic(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "LossTable":
        """Read a table that `save` wrote.

        Raises
        ------
        InputError
            If the file cannot be read or is not a loss table.
        """
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} cannot be read ({error}); give a loss table's file."
            ) from None
        return cls.from_json(text, str(path))
