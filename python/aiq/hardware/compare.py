"""Compare two profiles number by number."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiq.hardware.profile import Hardware, to_document


@dataclass(frozen=True, slots=True)
class Pair:
    """One number of two profiles; ``None`` if a profile does not have it."""

    key: str
    first: float | None
    second: float | None

    @property
    def ratio(self) -> float | None:
        """The second over the first."""
        if self.first is None or self.second is None or self.first == 0:
            return None
        return self.second / self.first


def side_by_side(first: Hardware, second: Hardware) -> tuple[Pair, ...]:
    """Return the pairs of all numbers that either profile has, in the order of the files."""
    left, right = dict(_numbers(first)), dict(_numbers(second))
    keys = dict.fromkeys([*left, *right])
    return tuple(Pair(key, left.get(key), right.get(key)) for key in keys)


def _numbers(hardware: Hardware) -> Iterator[tuple[str, float]]:
    document = to_document(hardware)
    document["memory"] = {level["level"]: level for level in document["memory"]}
    del document["provenance"]
    yield from _flatten(document, ())


def _flatten(document: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, (*path, key))
        elif isinstance(value, int | float):
            yield ".".join((*path, key)), float(value)
