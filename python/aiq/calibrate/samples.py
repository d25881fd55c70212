"""Timed programs in a file, so that a calibration that was killed goes on where it stopped."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NotRequired, TypedDict, cast

from msgspec import Meta

from aiq import cache, files
from aiq.calibrate.products import Timed
from aiq.cost.pieces import Piece
from aiq.errors import InputError
from aiq.typed import Count, Name, NonNegative, Positive, dump_json, read_json

SCHEMA = "aiq/calibration/v10"  # also raised when programs change so that old times do not compare
_WHAT = "a file of a calibration's samples"


@dataclass(frozen=True, slots=True)
class Sample:
    """The time of a program or of a part of it, and the pieces of work that it consists of.

    Attributes
    ----------
    name
        Name of the program. The name of a part is that of the program, ``#`` and its own name.
    seconds
        Seconds of one run.
    pieces
        Pieces of work in the formats of the program.
    anchor
        Seconds of one run of the anchor, a program that takes turns with all others.
    is_whole
        Whether this is a program, which pays the overhead of a run, or a part that the runtime's
        profiler timed: one layer, or all operators without weights.
    passes
        Number of passes in which it was timed; `seconds` and `anchor` are geometric means over
        them.
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
    """Peaks by dtype in GFLOP/s, working sets in KiB and their bandwidths in GB/s, as measured.

    ``others`` is the share of the processors that other processes took meanwhile.
    """

    threads: Count
    peaks: dict[Name, Positive]
    kib: list[Positive]
    gbps: list[Positive]
    parallel_efficiency: NotRequired[dict[Name, Positive]]
    others: NotRequired[NonNegative]


class Values(TypedDict, total=False):
    """Other results of a calibration: roofs, noise of bundles, stolen time, matrix products."""

    roofs: Roofs
    noise: dict[Name, NonNegative]
    steal: NonNegative
    products: list[Timed]


@dataclass(frozen=True, slots=True)
class _Document:
    """The content of a file."""

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
        Machine, versions and threads of the samples. A file with another signature is an error,
        because its times would not compare.

    Raises
    ------
    InputError
        If the file is of another kind, its signature differs, or it could not be written.
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
        """The file; ``None`` if samples are kept in memory only."""
        return self._path

    @property
    def noise(self) -> float:
        """Relative difference between two times of one program: the median over all bundles.

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
        """Add the samples and values of the file that are not in memory."""
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
            if self._path.exists():  # another process may have added to it
                self._read(self._path)
            document = _Document(self._signature, self.values, tuple(self.samples.values()))
            files.write_atomic(self._path, dump_json(document, _WHAT, SCHEMA, indent=None))


def _mean(before: Sample, now: Sample) -> Sample:
    """Return a sample with one more pass, as the geometric mean of all passes."""
    share = 1 / (before.passes + 1)
    return replace(
        now,
        seconds=before.seconds ** (1 - share) * now.seconds**share,
        anchor=before.anchor ** (1 - share) * now.anchor**share,
        passes=before.passes + 1,
    )


def default_path(signature: Mapping[str, Any]) -> Path:
    """Return the default path of the samples with a signature."""
    said = json.dumps({"schema": SCHEMA, **signature}, sort_keys=True)
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    return cache.folder(cache.CALIBRATIONS) / f"{digest}.json"
