"""What a plan does not decide or does not count, said in words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiq.text import count

SHOWN = 5
"""Layers that a line names one by one."""


def not_decided(undecided: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line that says which parameters have no choice of formats, largest first."""
    sizes: dict[tuple[str, str, str], int] = {}
    for entry in undecided:
        key = (entry["layer"], entry["op"], entry["dtype"])
        sizes[key] = sizes.get(key, 0) + entry["bytes"]
    largest = sorted(sizes.items(), key=lambda item: -item[1])
    named = [
        f"{layer}{'' if op in {'other', layer} else f' ({op})'} {count(size)}B {dtype}"
        for (layer, op, dtype), size in largest[:SHOWN]
    ]
    if len(largest) > SHOWN:
        rest = sum(size for _, size in largest[SHOWN:])
        named.append(f"{len(largest) - SHOWN} more with {count(rest)}B")
    return ["not decided: " + ", ".join(named)] if named else []


def not_counted(names: Sequence[str]) -> list[str]:
    """Return a line that says of which layers the work is not known."""
    return [f"work not known, and counted as none: {', '.join(names)}"] if names else []


def same_samples(provenance: Mapping[str, Any]) -> list[str]:
    """Return a line that says so if weights were rounded by the samples that judge them."""
    if not provenance.get("rounded_on_data"):
        return []
    return [
        "the weights were rounded by the same samples, and others may lose more: give calibration="
    ]
