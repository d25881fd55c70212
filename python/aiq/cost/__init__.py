"""The cost of every layer in every format: exact integer tables for the search.

* ``intensity``: bits that convolution and linear layers move, so that FLOPs / bytes is the metric
  of arXiv 2512.14090. As in the paper, biases count as weights, and scales are not counted.
* ``roofline``: picoseconds of every layer under the roofline (Williams, Waterman, Patterson, CACM
  52(4), 2009), scales and fused operands included. It is a lower bound on the time.
* ``calibrated``: picoseconds of every layer in a runtime, from a profile calibrated on the machine.
  Conversions between layers of different formats are costs of the edges.
"""

from collections.abc import Sequence
from itertools import chain

from aiq.cost.bounds import intensity_table, roofline_table
from aiq.cost.calibrated import calibrated_table
from aiq.cost.table import CostTable, EdgeCost, Level
from aiq.formats import REFERENCE, Format
from aiq.graph import LayerGraph
from aiq.hardware import Hardware
from aiq.runtimes.placement import times_as

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
    graph: LayerGraph,
    formats: Sequence[Format],
    hardware: Hardware,
    runtime: str | None = None,
) -> CostTable:
    """Return the most exact table of seconds that a profile allows.

    The table is calibrated if the profile has a section for `runtime`, otherwise it is the
    roofline. Each layer takes the time of what `aiq.runtimes.placement.times_as` says it runs as. A
    weight-only format that this names is one whose weights are packed in memory.

    Parameters
    ----------
    graph
        The layers.
    formats
        Columns of the table.
    hardware
        The profile of the machine.
    runtime
        Name of the runtime; ``None`` for the roofline.

    Raises
    ------
    HardwareError
        If the profile lacks something that a format needs; the message names the key to add.
    """
    realised = [[times_as(runtime, layer, f) for f in formats] for layer in graph.quantizable]
    distinct = list(dict.fromkeys([*formats, *chain.from_iterable(realised)]))
    if runtime is not None and runtime in hardware.runtimes:
        packed = {f for row in realised for f in row}
        table = calibrated_table(graph, distinct, hardware, runtime, packed)
    else:
        table = roofline_table(graph, distinct, hardware)
    columns = [[distinct.index(f) for f in row] for row in realised]
    return table.with_columns(columns, formats)
