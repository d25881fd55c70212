"""The checker's rounding of budgets and bounds to totals that plans can have.

Plans differ by points of the lattice that the differences between choices span. A budget can be
rounded down to the next total that a plan can have. If some ``objective + sum u_m * budget_m`` has
the same remainder for all plans, a Lagrangian bound can be rounded up to the next objective that a
plan which uses up its budgets can have.
"""

from itertools import islice
from math import gcd

from aiq.solver.relaxation import IntegerTables, Point, dot

_MAX_QUOTIENT = 16


def reachable_limits(tables: IntegerTables) -> Point:
    """Round the limits down to totals that a plan can have."""
    first, step = [0] * len(tables.measures), [0] * len(tables.measures)
    for points in tables.points():
        for m, values in enumerate(zip(*points, strict=True)):
            first[m] += values[0]
            step[m] = gcd(step[m], *(value - values[0] for value in values))
    return tuple(
        limit - (limit - used) % max(unit, 1)
        for limit, used, unit in zip(tables.limits, first[1:], step[1:], strict=True)
    )


class Congruence:
    """A congruence that holds for all plans of a problem; it is trivial if its modulus is 1.

    Attributes
    ----------
    modulus
        Modulus of the congruence.
    multipliers
        The numbers ``u_m``, one for each budget.
    residue
        Remainder of the objective of a plan that uses up its budgets.
    """

    def __init__(self, tables: IntegerTables, limits: Point) -> None:
        self.modulus, self.multipliers, self.residue = 1, (0,) * len(limits), 0
        size = len(tables.measures)
        # Row m >= 1 is zero in the budgets before m, and row 0 in all budgets.
        rows = [[0] * size for _ in range(size)]
        first = [0] * size
        for points in tables.points():
            first = [a + b for a, b in zip(first, points[0], strict=True)]
            for point in islice(points, 1, None):
                if rows[0][0] != 1:
                    _insert(rows, [a - b for a, b in zip(point, points[0], strict=True)])
        modulus, multipliers = rows[0][0], [0] * size
        for m in range(size - 1, 0, -1):
            row = rows[m]
            right = -(row[0] + dot(tuple(row[m + 1 :]), tuple(multipliers[m + 1 :])))
            shared = gcd(row[m], modulus)
            if shared and right % shared:
                modulus = shared = gcd(shared, right)
            if modulus <= 1:
                return
            period = modulus // shared
            multipliers[m] = right // shared * pow(row[m] // shared, -1, period) % period
        if modulus > 1:
            self.modulus, self.multipliers = modulus, tuple(multipliers[1:])
            used = dot(self.multipliers, tuple(first[1:])) - dot(self.multipliers, limits)
            self.residue = (first[0] + used) % modulus

    def _step(self, weights: Point) -> int:
        """Return the largest divisor of the modulus for which ``w_m >= w_0 u_m``."""
        for quotient in range(1, _MAX_QUOTIENT + 1):
            divisor, rest = divmod(self.modulus, quotient)
            if rest == 0 and all(
                w >= weights[0] * (u % divisor)
                for w, u in zip(weights[1:], self.multipliers, strict=True)
            ):
                return divisor
        return 1

    def up(self, bound: int, weights: Point) -> int:
        """Round a lower bound on the objective up."""
        return bound + (self.residue - bound) % self._step(weights)

    def down(self, limit: int, weights: Point) -> int:
        """Round an upper limit on the objective down."""
        return limit - (limit - self.residue) % self._step(weights)


def _insert(rows: list[list[int]], vector: list[int]) -> None:
    for m in range(1, len(rows)):
        while vector[m]:
            if rows[m][m]:
                factor = vector[m] // rows[m][m]
                vector = [a - factor * b for a, b in zip(vector, rows[m], strict=True)]
            if vector[m]:
                rows[m], vector = vector, rows[m]
    rows[0][0] = gcd(rows[0][0], vector[0])
    if rows[0][0]:
        for row in rows[1:]:
            row[0] %= rows[0][0]
