"""Timed programs on disk: a calibration killed at any moment goes on where it was."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NotRequired, TypedDict, cast

import platformdirs
from msgspec import Meta

from aiq import files
from aiq.cost.pieces import Piece
from aiq.errors import InputError
from aiq.typed import Count, Name, NonNegative, Positive, dump_json, read_json

SCHEMA = "aiq/calibration/v10"  # raised, too, where programs or times would not compare
_WHAT = "a file of a calibration's samples"


@dataclass(frozen=True, slots=True)
class Sample:
    """How long something takes, and the pieces of work that it is made of.

    Attributes
    ----------
    name
        That of the program; of a part, the program's, ``#`` and its own.
    seconds
        Of a run.
    pieces
        In the program's plan.
    anchor
        Seconds that the anchor, a program that all are timed beside, took at the same time.
    is_whole
        Whether it is a program, which pays the overhead of a run, or a part of it as the runtime's
        profiler saw it: one layer, or all but the layers with weights.
    passes
        How often it was timed; `seconds` and `anchor` are geometric means.
    """

    name: Name
    seconds: NonNegative
    pieces: tuple[Piece, ...]
    anchor: Positive = 1.0
    is_whole: bool = True
    passes: Annotated[int, Meta(ge=1, le=2**31)] = 1

    @property
    def program(self) -> str:
        """Name of the program."""
        return self.name.partition("#")[0]


class Roofs(TypedDict):
    """Peaks by dtype and bandwidths by working set, as they were measured."""

    threads: Count
    peaks: dict[Name, Positive]
    kib: list[Positive]
    gbps: list[Positive]
    parallel_efficiency: NotRequired[dict[Name, Positive]]


class Values(TypedDict, total=False):
    """What else a calibration keeps: roofs, noise of each bundle of programs, time stolen."""

    roofs: Roofs
    noise: dict[Name, NonNegative]
    steal: NonNegative


@dataclass(frozen=True, slots=True)
class _Document:
    """What is in a file."""

    signature: Mapping[str, Any]
    values: Values = field(default_factory=Values)
    samples: tuple[Sample, ...] = ()

    def __post_init__(self) -> None:
        if len({sample.name for sample in self.samples}) < len(self.samples):
            raise InputError("Each sample has a name of its own.")


class Store:
    """Samples of one runtime on one machine, in memory and in a JSON file.

    Parameters
    ----------
    path
        The file; ``None`` keeps them in memory only.
    signature
        What the samples hold for: machine, versions, threads. A file with another one is an error,
        since its times would not compare.

    Raises
    ------
    InputError
        If the file is not one of this class, its signature differs, or it could not be written.
    """

    def __init__(self, path: str | Path | None, signature: Mapping[str, Any]) -> None:
        self._path = None if path is None else Path(path)
        self._signature = json.loads(json.dumps(signature))
        self.values: Values = {}
        self.samples: dict[str, Sample] = {}
        if self._path is not None:
            files.check_target(self._path)
            if self._path.exists():
                self._read(self._path)

    @property
    def path(self) -> Path | None:
        """The file; ``None`` keeps samples in memory only."""
        return self._path

    @property
    def noise(self) -> float:
        """Relative difference between times that is none: the median over those found so far.

        Raises
        ------
        InputError
            If nothing was timed yet.
        """
        found = self.values.get("noise")
        if not found:
            raise InputError("The calibration has no noise of its times yet; measure first.")
        return float(median(found.values()))

    def add(self, samples: Collection[Sample]) -> None:
        """Keep samples, on disk too; of one taken before, the mean with what it was."""
        for sample in samples:
            before = self.samples.get(sample.name)
            self.samples[sample.name] = sample if before is None else _mean(before, sample)
        self._write()

    def set(self, key: str, value: Any) -> None:  # noqa: ANN401 - JSON
        """Keep another result of the calibration, one of `Values`, on disk too."""
        self.values = cast("Values", {**self.values, key: value})
        self._write()

    def _read(self, path: Path) -> None:
        """Take over what is in the file and not here."""
        advice = "name another file, or move this one away"
        document = read_json(path, _Document, what=_WHAT, advice=advice, schema=SCHEMA)
        if document.signature != self._signature:
            differs = [
                key
                for key in self._signature
                if document.signature.get(key) != self._signature[key]
            ]
            raise InputError(
                f"{path} holds samples of another {' and '.join(differs) or 'calibration'}; "
                f"{advice}."
            )
        noise = {**document.values.get("noise", {}), **self.values.get("noise", {})}
        self.values = {**document.values, **self.values}
        if noise:
            self.values["noise"] = noise
        self.samples = {sample.name: sample for sample in document.samples} | self.samples

    def _write(self) -> None:
        if self._path is None:
            return
        with files.locked(self._path.parent):
            if self._path.exists():  # another calibration may have added to it meanwhile
                self._read(self._path)
            document = _Document(self._signature, self.values, tuple(self.samples.values()))
            files.write_atomic(self._path, dump_json(document, _WHAT, SCHEMA, indent=None))


def _mean(before: Sample, now: Sample) -> Sample:
    """Return a sample with what one more pass found, as the geometric mean of all passes."""
    share = 1 / (before.passes + 1)
    return replace(
        now,
        seconds=before.seconds ** (1 - share) * now.seconds**share,
        anchor=before.anchor ** (1 - share) * now.anchor**share,
        passes=before.passes + 1,
    )


def default_path(signature: Mapping[str, Any]) -> Path:
    """Return where the samples with a signature are kept unless the caller says otherwise."""
    said = json.dumps({"schema": SCHEMA, **signature}, sort_keys=True)
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    return platformdirs.user_cache_path("aiq") / "calibration" / f"{digest}.json"
