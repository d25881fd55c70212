"""The objectives of a search, its methods, and the default formats of each objective."""

from collections.abc import Mapping
from enum import StrEnum

from aiq import cost
from aiq.formats import INTEGER_GRID, PAPER, Format, parse_all
from aiq.graph import LayerGraph
from aiq.hardware import Hardware
from aiq.runtimes import placement


class Objective(StrEnum):
    """The quantity that a plan optimises."""

    THROUGHPUT = "throughput"
    INTENSITY = "intensity"
    WEIGHTED = "weighted"
    ACCURACY = "accuracy"

    @property
    def unit(self) -> str:
        """Unit of the value that is minimised."""
        return _UNITS[self]


_UNITS = {
    Objective.THROUGHPUT: "seconds",
    Objective.INTENSITY: "bytes",
    Objective.WEIGHTED: "objective",
    Objective.ACCURACY: "drop",
}


class Method(StrEnum):
    """The method of a search."""

    EXACT = "exact"
    GREEDY = "greedy"
    COORDINATE = "coordinate"
    EXHAUSTIVE = "exhaustive"


DEFAULT_FORMATS: Mapping[Objective, tuple[Format, ...]] = {
    Objective.THROUGHPUT: parse_all("fp32,bf16,w8a8,w8a8bf16"),
    Objective.INTENSITY: INTEGER_GRID,
    Objective.WEIGHTED: PAPER,
    Objective.ACCURACY: INTEGER_GRID,
}
"""Default formats: those with kernels for speed, all integer widths for intensity, the paper's."""


DECODER = parse_all("fp32,w8,w4g128,w4g64,w4g32")
"""Default formats of decoders, whose time is that of reading weights."""

BLOCKS = parse_all("fp32,w8g32,w5g32z,w5g32,w4g32z,w4g32")
"""Default formats in GGUF files."""


def default_formats(
    goal: Objective,
    hardware: Hardware,
    runtime: str | None,
    layers: LayerGraph,
    *,
    timed: bool,
    decodes: bool = False,
) -> tuple[Format, ...]:
    """Return the default formats of an objective, or of a decoder if it `decodes`.

    If predicted time matters (`timed`), these are formats that the machine and the runtime support.
    A format that differs from another only in its dtype between layers must be predicted to be
    faster.
    """
    if runtime == placement.GGUF:
        return BLOCKS
    if decodes:
        return DECODER
    if not timed:
        return DEFAULT_FORMATS[goal]
    known = hardware.runtimes.get(runtime or "")
    able = [
        f
        for f in DEFAULT_FORMATS[Objective.THROUGHPUT]
        if f.compute.name in hardware.peak_gflops and (known is None or known.runs(f))
    ]
    table = cost.time_table(layers, able, hardware, runtime)
    total = {f: table.total(dict.fromkeys(table.layers, f)) for f in able}
    return tuple(f for f in able if f.kernel == f or total[f] < total[f.kernel])
