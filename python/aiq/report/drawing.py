"""Where things go and which colour they have: what the page does not compute itself."""

from collections.abc import Iterable, Sequence

from aiq.formats import REFERENCE
from aiq.formats import parse as parse_format

GREY = "#8b93a1"
"""Colour of float32."""

DISTINCT = ("#2f86c9", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#a59a00")
"""Colours of Okabe and Ito (2008), which colour-blind people can tell apart, a little lighter."""

USUAL = {"w8a8": DISTINCT[0], "bf16": DISTINCT[1], "w4": DISTINCT[2]}
"""Formats that have the same colour in every report."""

MANY = 12
"""Of more uniform precisions than these, those that another one beats get no label."""

_SCALE = ((0x1F, 0x3B, 0x73), (0x2F, 0x86, 0xC9), (0x4F, 0xB0, 0x86), (0xF0, 0xC5, 0x3B))


def colours(names: Sequence[str]) -> list[str]:
    """Return a colour for each format: distinct ones for a few, a scale by bits for many."""
    others = [name for name in names if name != REFERENCE.name]
    # fewer bits first, so that a format keeps its place whatever order the formats came in
    others.sort(key=lambda name: (-bits(name), name))
    if len(others) <= len(DISTINCT):
        chosen = {name: colour for name, colour in USUAL.items() if name in others}
        left = [colour for colour in DISTINCT if colour not in chosen.values()]
        chosen |= zip((name for name in others if name not in chosen), left, strict=False)
    else:
        chosen = {name: _scale(i / (len(others) - 1)) for i, name in enumerate(others)}
    return [chosen.get(name, GREY) for name in names]


def bits(name: str) -> int:
    """Return bits of a weight times bits of an activation: bit operations of one multiplication."""
    found = parse_format(name)
    return found.weight.bits * found.activation.bits


def _scale(where: float) -> str:
    at = where * (len(_SCALE) - 1)
    i = min(int(at), len(_SCALE) - 2)
    mixed = (a + (b - a) * (at - i) for a, b in zip(_SCALE[i], _SCALE[i + 1], strict=True))
    return "#" + "".join(f"{round(x):02x}" for x in mixed)


def beaten(points: Iterable[tuple[str, float, float | None]]) -> set[int]:
    """Return the uniform plans, of many, that another one beats in cost and in drop.

    Parameters
    ----------
    points
        Name, cost and drop of each plan; a drop that is not known is ``None``.
    """
    others = {"", "plan", REFERENCE.name}
    uniform = {i: point[1:] for i, point in enumerate(points) if point[0] not in others}
    if len(uniform) <= MANY:
        return set()
    known = [(cost, drop) for cost, drop in uniform.values() if drop is not None]
    return {
        i
        for i, (cost, drop) in uniform.items()
        if drop is None or any(c <= cost and d <= drop and (c, d) != (cost, drop) for c, d in known)
    }


def places(layers: int, edges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return (column, lane) of each layer: the longest path to it, and its turn in the column."""
    column = [0] * layers
    for source, target in sorted(edges):  # a layer reads from earlier ones only
        if source < target:
            column[target] = max(column[target], column[source] + 1)
    lanes: dict[int, int] = {}
    found = []
    for x in column:
        found.append((x, lanes.get(x, 0)))
        lanes[x] = lanes.get(x, 0) + 1
    return found


def short(names: Sequence[str]) -> list[str]:
    """Return names without the leading parts that all of them share."""
    parts = [name.split(".") for name in names]
    common = 0
    while len(names) > 1 and all(
        len(p) > common + 1 and p[common] == parts[0][common] for p in parts
    ):
        common += 1
    return [".".join(p[common:]) for p in parts]
