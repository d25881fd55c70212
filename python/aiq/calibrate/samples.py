"""Timed programs on disk: a calibration killed at any moment goes on where it was."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import platformdirs

from aiq import files
from aiq.cost.pieces import Piece
from aiq.errors import InputError

SCHEMA = "aiq/calibration/v9"  # raised, too, where programs or times would not compare


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

    name: str
    seconds: float
    pieces: tuple[Piece, ...]
    anchor: float = 1.0
    is_whole: bool = True
    passes: int = 1

    @property
    def program(self) -> str:
        """Name of the program."""
        return self.name.partition("#")[0]


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
        If the file is not one of this class, or its signature differs.
    """

    def __init__(self, path: str | Path | None, signature: Mapping[str, Any]) -> None:
        self._path = None if path is None else Path(path)
        self._signature = json.loads(json.dumps(signature))
        self.values: dict[str, Any] = {}
        self.samples: dict[str, Sample] = {}
        if self._path is not None and self._path.exists():
            self._read(self._path)

    @property
    def noise(self) -> float:
        """Relative difference between times that is none: the median over those found so far."""
        return float(median(self.values["noise"].values()))

    def add(self, samples: Collection[Sample]) -> None:
        """Keep samples, on disk too; of one taken before, the mean with what it was."""
        for sample in samples:
            before = self.samples.get(sample.name)
            self.samples[sample.name] = sample if before is None else _mean(before, sample)
        self._write()

    def set(self, key: str, value: Any) -> None:  # noqa: ANN401 - JSON
        """Keep another result of the calibration, on disk too."""
        self.values[key] = value
        self._write()

    def _read(self, path: Path) -> None:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["schema"] != SCHEMA:
                raise ValueError(f"schema is not {SCHEMA}")
            signature, values = document["signature"], dict(document["values"])
            samples = [
                Sample(
                    entry["name"],
                    float(entry["seconds"]),
                    tuple(map(_piece, entry["pieces"])),
                    float(entry["anchor"]),
                    bool(entry["is_whole"]),
                    int(entry["passes"]),
                )
                for entry in document["samples"]
            ]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{path} does not hold samples of a calibration ({error}); delete it, or name "
                "another file."
            ) from None
        if signature != self._signature:
            differs = [key for key in self._signature if signature.get(key) != self._signature[key]]
            raise InputError(
                f"{path} holds samples of another {' and '.join(differs) or 'calibration'}; delete "
                "it, or name another file."
            )
        self.values, self.samples = values, {sample.name: sample for sample in samples}

    def _write(self) -> None:
        if self._path is None:
            return
        document = {
            "schema": SCHEMA,
            "signature": self._signature,
            "values": self.values,
            "samples": [asdict(sample) for sample in self.samples.values()],
        }
        files.write_atomic(self._path, json.dumps(document) + "\n")


def _mean(before: Sample, now: Sample) -> Sample:
    """Return a sample with what one more pass found, as the geometric mean of all passes."""
    share = 1 / (before.passes + 1)
    return replace(
        now,
        seconds=before.seconds ** (1 - share) * now.seconds**share,
        anchor=before.anchor ** (1 - share) * now.anchor**share,
        passes=before.passes + 1,
    )


def _piece(entry: Mapping[str, Any]) -> Piece:
    return Piece(
        kernel=str(entry["kernel"]),
        work=tuple(entry["work"]),
        storage=tuple(entry["storage"]),
        resident=float(entry["resident"]),
        layers=tuple(entry["layers"]),
        formats=tuple(entry["formats"]),
        starts=bool(entry["starts"]),
        share=float(entry["share"]),
        shape=tuple(entry["shape"]),
    )


def default_path(signature: Mapping[str, Any]) -> Path:
    """Return where the samples with a signature are kept unless the caller says otherwise."""
    said = json.dumps({"schema": SCHEMA, **signature}, sort_keys=True)
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    return platformdirs.user_cache_path("aiq") / "calibration" / f"{digest}.json"
