"""The cost of several runs of the same layers, such as a prompt and the tokens after it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aiq.cost.table import CostTable, EdgeCost, check_countable


def several(runs: Sequence[tuple[int, CostTable]]) -> CostTable:
    """Return the table of several runs one after the other, in the formats of one plan.

    Parameters
    ----------
    runs
        Number of runs of each graph, and its table. All tables have the same layers and formats.
    """
    first = runs[0][1]
    check_countable(sum(count * _most(table) for count, table in runs))
    edges: defaultdict[tuple[int, int], NDArray[np.int64]] = defaultdict(
        lambda: np.zeros((len(first.formats),) * 2, dtype=np.int64)
    )
    for count, table in runs:
        for edge in table.edges:
            edges[edge.source, edge.target] += count * edge.cost
    return replace(
        first,
        cost=np.sum([count * table.cost for count, table in runs], axis=0, dtype=np.int64),
        fixed=sum(count * table.fixed for count, table in runs),
        flops=sum(count * table.flops for count, table in runs),
        edges=tuple(EdgeCost(*ends, cost) for ends, cost in sorted(edges.items())),
        runs=tuple(runs),
    )


def _most(table: CostTable) -> int:
    """Return a bound on the cost of any plan, as a number of any size."""
    parts = [table.cost, *(edge.cost for edge in table.edges)]
    return table.fixed + sum(int(part.max(initial=0)) * len(part) for part in parts)
