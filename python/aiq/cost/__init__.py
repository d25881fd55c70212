"""What every layer costs in every format: exact integer tables for the search.

* ``intensity``: bits moved by convolution and linear layers, so that FLOPs / bytes is the metric of
  arXiv 2512.14090. The paper's accounting: biases count as weights, scales are not counted.
* ``roofline``: picoseconds under the roofline (Williams, Waterman, Patterson, CACM 52(4), 2009) of
  every layer, scales and fused operands counted: a lower bound.
* ``calibrated``: picoseconds that a runtime takes, from a profile calibrated on the machine, with
  the conversions between layers of different formats on the edges.
"""

from collections.abc import Sequence
from itertools import chain

from aiq import placement
from aiq.cost.bounds import intensity_table, roofline_table
from aiq.cost.calibrated import calibrated_table
from aiq.cost.table import CostTable, EdgeCost, Level
from aiq.formats import REFERENCE, Format
from aiq.graph import LayerGraph
from aiq.hardware import Hardware

__all__ = [
    "REFERENCE",
    "CostTable",
    "EdgeCost",
    "Level",
    "calibrated_table",
    "intensity_table",
    "roofline_table",
    "time_table",
]


def time_table(
    graph: LayerGraph, formats: Sequence[Format], hardware: Hardware, runtime: str | None = None
) -> CostTable:
    """Return the best table of seconds that a profile allows.

    Calibrated where the profile has a section for `runtime`, else the roofline. A layer that
    `runtime` runs in another format than the one asked for (`aiq.placement`) costs what that takes.

    Raises
    ------
    HardwareError
        If the profile lacks something that a format needs; the message names the key to add.
    """
    realised = [
        [placement.runs_as(runtime, layer, f) for f in formats] for layer in graph.quantizable
    ]
    distinct = list(dict.fromkeys([*formats, *chain.from_iterable(realised)]))
    if runtime is not None and runtime in hardware.runtimes:
        table = calibrated_table(graph, distinct, hardware, runtime)
    else:
        table = roofline_table(graph, distinct, hardware)
    columns = [[distinct.index(f) for f in row] for row in realised]
    return table.with_columns(columns, formats)
