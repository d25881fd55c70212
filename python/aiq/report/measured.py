"""A comparison of prediction and stopwatch, as far as the report shows it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from aiq import files
from aiq.errors import InputError, printable, type_of
from aiq.typed import LIMIT, Name, NonNegative, Positive, Share

_ADVICE = "give a file that `aiq compare --json` wrote"


@runtime_checkable
class Comparable(Protocol):
    """What `aiq.compare` returns."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate with its confidence interval."""

    value: NonNegative
    low: NonNegative
    high: NonNegative


@dataclass(frozen=True, slots=True)
class Candidate:
    """One network that was timed; `speedup` is over float32, timed in turns with it."""

    name: Name
    seconds: Estimate
    speedup: Estimate
    verdict: Name


@dataclass(frozen=True, slots=True)
class Timings:
    """All networks that were timed; differences below `noise` are none."""

    timings: tuple[Candidate, ...]
    noise: NonNegative
    confidence: Share


@dataclass(frozen=True, slots=True)
class MeasuredLayer:
    """One layer of the plan: predicted and measured seconds, ``None`` without its own kernel."""

    layer: Name
    format: Name
    predicted: NonNegative
    measured: Positive | None


@dataclass(frozen=True, slots=True)
class MeasuredTimes:
    """What the report shows of a comparison.

    Attributes
    ----------
    runtime, hardware, level
        Names of the runtime, of the profile that predicted, and of its cost model.
    predicted_seconds
        ``fp32`` and ``plan`` -> predicted seconds of one batch.
    timing
        The measurement.
    layers
        Layer by layer, if that was asked for.
    """

    runtime: Name
    hardware: Name
    level: Name
    predicted_seconds: Mapping[Name, NonNegative]
    timing: Timings
    layers: tuple[MeasuredLayer, ...] = ()

    def __post_init__(self) -> None:
        timed = {candidate.name for candidate in self.timing.timings}
        if not {"fp32", "plan"} <= timed & self.predicted_seconds.keys():
            raise InputError("It lacks the times of fp32 and plan.")

    def __getitem__(self, name: str) -> Candidate:
        """Return what was measured of ``fp32`` or ``plan``."""
        return next(c for c in self.timing.timings if c.name == name)

    def check(self, formats: Mapping[str, str]) -> None:
        """Raise `InputError` if another plan was timed than this one, given as layer -> format."""
        for row in self.layers:
            if formats.get(row.layer) != row.format:
                layer, format_ = printable(row.layer, 100), printable(row.format, 20)
                raise InputError(
                    f"The comparison is of another plan: it timed layer {layer} in {format_}; "
                    "compare this plan with `aiq compare`."
                )

    @classmethod
    def read(
        cls, source: "str | Path | Comparable | MeasuredTimes | None"
    ) -> "MeasuredTimes | None":
        """Return a comparison from what `aiq.compare` returned or a file of its JSON.

        Raises
        ------
        InputError
            If the file cannot be read or is not a comparison.
        """
        if source is None or isinstance(source, MeasuredTimes):
            return source
        if isinstance(source, Comparable):
            text, file = json.dumps(source.to_dict()), "the comparison"
        elif isinstance(source, str | Path):
            text, file = files.read_text(source, LIMIT, _ADVICE), str(source)
        else:
            raise InputError(
                f"The comparison is {type_of(source)}; give what aiq.compare returned, or "
                "the name of a file that `aiq compare --json` wrote."
            )
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            why = printable(str(error).removesuffix("."), 200)
            raise InputError(
                f"{printable(file, 200)} is not a comparison ({why}); {_ADVICE}."
            ) from None
