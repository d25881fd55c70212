"""The posterior of predicted costs, given the measured times of a few plans.

Costs are divided into groups: all of them, those of a format, of a format in one part of the
network, of a format on one kind of operator, and of a pair of formats on the edges. Each group has
an unknown factor near one. The time of a plan is linear in the factors, so Bayesian linear
regression corrects them by a few measured plans. A solver can use the most likely costs, or costs
drawn from the posterior (Thompson sampling: Russo et al., A Tutorial on Thompson Sampling, 2018,
section 5).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aiq.cost import CostTable, EdgeCost
from aiq.formats import Format

Array = NDArray[np.float64]

PARTS = 6
"""Number of parts of about equal cost, besides the first and the last layer of the network."""

DOUBT = {"all": 0.3, "format": 0.2, "part": 0.2, "kind": 0.2, "edge": 0.5}
"""Prior standard deviation of the factors of each kind of group."""

LEAST = 0.1
"""Smallest factor of a layer's cost in a draw."""

CHANGE = 0.5
"""Guessed cost of a change of format, in mean costs of a layer, if a table has no edges."""

JITTER = 1e-10
"""Share of the total variance added to each factor, to keep the covariance positive definite."""


class CostPosterior:
    """The posterior of costs.

    Parameters
    ----------
    table
        Predicted seconds.
    kinds
        Kind of operator of each layer of the table.
    doubt
        Multiplier of the prior standard deviation of every factor.
    """

    def __init__(self, table: CostTable, kinds: Sequence[str], doubt: float = 1.0) -> None:
        self._table = table = table if table.edges else _with_changes(table)
        self._groups, spread = _groups(table, kinds)
        self._mean = np.zeros(len(spread))
        self._covariance = np.diag((doubt * spread) ** 2)

    def learn(self, formats: Mapping[str, Format], seconds: float, error: float) -> None:
        """Update the posterior with a measured time and its standard error, in seconds."""
        row = self._row(formats)
        seen = self._covariance @ row
        gain = seen / (row @ seen + error**2)
        self._mean = self._mean + gain * (seconds - self._table.total(formats) - row @ self._mean)
        covariance = self._covariance - np.outer(gain, seen)
        self._covariance = (covariance + covariance.T) / 2

    def seconds(self, formats: Mapping[str, Format]) -> float:
        """Return the most likely time of a plan."""
        return self._table.total(formats) + float(self._row(formats) @ self._mean)

    def table(self, rng: np.random.Generator | None = None) -> CostTable:
        """Return the most likely costs, or with `rng` costs drawn from the posterior."""
        factors = self._mean
        if rng is not None:
            # This root of the covariance is unique, so that all machines draw the same costs.
            jitter = JITTER * self._covariance.trace() * np.eye(len(self._mean))
            root = np.linalg.cholesky(self._covariance + jitter)
            factors = self._mean + root @ rng.standard_normal(len(self._mean))
        own, between = self._groups
        scale = np.maximum(1 + factors[0] + factors[own].sum(axis=-1), LEAST)
        edge = np.maximum(1 + factors[0] + factors[between], 0.0)
        return replace(
            self._table,
            cost=np.rint(self._table.cost * scale).astype(np.int64),
            fixed=round(self._table.fixed * max(1 + factors[0], LEAST)),
            edges=tuple(
                replace(e, cost=np.rint(e.cost * edge).astype(np.int64)) for e in self._table.edges
            ),
        )

    def _row(self, formats: Mapping[str, Format]) -> Array:
        """Return the derivative of a plan's seconds with respect to each factor."""
        table, (own, between) = self._table, self._groups
        columns = [table.formats.index(formats[name]) for name in table.layers]
        row = np.zeros(len(self._mean))
        row[0] = table.total(formats) * table.per_unit
        for i, k in enumerate(columns):
            np.add.at(row, own[i, k], table.cost[i, k])
        for e in table.edges:
            a, b = columns[e.source], columns[e.target]
            row[between[a, b]] += e.cost[a, b]
        return row / table.per_unit


def _with_changes(table: CostTable) -> CostTable:
    """Return a table without edges with a guess of the cost of changes of format."""
    count = len(table.formats)
    change = np.full((count, count), round(CHANGE * float(table.cost.mean())), dtype=np.int64)
    np.fill_diagonal(change, 0)
    edges = tuple(EdgeCost(i, i + 1, change) for i in range(len(table.layers) - 1))
    return replace(table, edges=edges)


def _groups(
    table: CostTable, kinds: Sequence[str]
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], Array]:
    """Return the indices of the factors of layers and edges, and the spread of all factors.

    A layer in a format has 3 factors, (L, K, 3); an edge has one for each pair of formats, (K, K).
    Factor 0 belongs to all costs. The spread is the standard deviation of each of F factors, (F,).
    """
    count = len(table.formats)
    parts, names = _parts(table), sorted(set(kinds))
    spread = [DOUBT["all"]]

    def new(doubt: str, *shape: int) -> NDArray[np.int64]:
        first = len(spread)
        spread.extend([DOUBT[doubt]] * int(np.prod(shape)))
        return np.arange(first, len(spread), dtype=np.int64).reshape(shape)

    formats = new("format", count)
    by_part = new("part", int(parts.max()) + 1, count)
    by_kind = new("kind", len(names), count)
    between = new("edge", count, count)
    own = np.stack(
        [
            np.broadcast_to(formats, (len(parts), count)),
            by_part[parts],
            by_kind[[names.index(kind) for kind in kinds]],
        ],
        axis=-1,
    )
    return (own, between), np.array(spread)


def _parts(table: CostTable) -> NDArray[np.int64]:
    """Return the part of the network of each layer, (L,); the first and last are parts alone."""
    cost = table.cost.mean(axis=1)
    middle = (cost.cumsum() - cost / 2) / cost.sum()
    parts = 1 + np.minimum((middle * PARTS).astype(np.int64), PARTS - 1)
    parts[0] = 0
    if len(parts) > 1:
        parts[-1] = PARTS + 1
    return np.asarray(parts, dtype=np.int64)
