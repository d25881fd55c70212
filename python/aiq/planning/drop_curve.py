"""What whole plans lose: the sum of the drops of their layers, bent to what was measured.

Errors of layers add up, and few of them change no answer, so that the drop of a plan grows faster
than the sum. ``drop = scale * pivot * (sum / pivot)^power`` is fitted to the plans that were
measured as a whole; without any, the sum stands as it is.

The solver prefers plans whose drops are underestimated, the more so the larger the budget, which
is no property of the plans that were measured before. So what it found last also tells how much
more than that its next plan will lose: the `lean`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import block_diag, solve_triangular
from scipy.optimize import least_squares

from aiq.drops import Array
from aiq.evaluate.confidence import covariance

SCALE_DOUBT, POWER_DOUBT = 1.0, 0.3
"""Standard deviations, before anything is measured, of the logarithm of the scale and the power."""

POWERS = (0.5, 2.5)
"""Least and greatest power."""

MODEL_ERROR = 0.2
"""Relative error of a drop predicted by the sum, however well the curve is known."""

LEAN_DOUBT = 0.4
"""Standard deviation of the logarithm of how many times as much as the curve says a plan loses."""

LEAST = 0.01
"""Part of the pivot below which the slope is taken to be that there: a power's may be zero."""

LEAST_ERROR = 1e-5
"""No drop is predicted better than this."""

Point = tuple[float, float, float]
"""Of a plan: predicted drop by the tables, drop, and standard error of the drop."""

ROUNDS = 3
"""Fits; in each, the model's error follows from the drops that the last one predicts."""


@dataclass(frozen=True, slots=True)
class DropCurve:
    """Predicts the drop of a plan from the sum of the drops of its layers.

    Attributes
    ----------
    scale, power
        Of the formula above; 1 and 1 leave the sum as it is.
    pivot
        Sum around which plans were measured.
    """

    scale: float = 1.0
    power: float = 1.0
    pivot: float = 1.0

    def predict(self, total: float) -> float:
        """Return the drop of a plan whose drops add up to `total`."""
        if total <= 0:
            return total
        return float(self.scale * self.pivot * (total / self.pivot) ** self.power)

    def inverse(self, drop: float) -> float:
        """Return the sum of drops at which a plan drops by `drop`."""
        if drop <= 0:
            return 0.0
        return float(self.pivot * (drop / (self.scale * self.pivot)) ** (1 / self.power))

    def slope(self, total: float) -> float:
        """Return by how much the drop grows with the sum."""
        total = max(total, LEAST * self.pivot)
        return self.power * self.predict(total) / total


def overshoot(curve: DropCurve, known: Point) -> float:
    """Return how many times as much as `bend` says plans like a known one lose, most likely."""
    total, drop, error = known
    expected = curve.predict(total)
    if expected <= 0:
        return 1.0
    # a drop within its noise says no more than that it is not large
    drop = max(drop, error, LEAST_ERROR)
    ratio, noise = drop / expected, error / drop
    return math.exp(math.log(ratio) * LEAN_DOUBT**2 / (LEAN_DOUBT**2 + noise**2))


def fit(*groups: Sequence[Point]) -> DropCurve:
    """Return the most likely curve, by generalised least squares towards a straight line.

    Each plan counts by the error of its drop and that of the model, and plans of a group share the
    luck of their samples, so that few and noisy plans hardly curve it.

    Parameters
    ----------
    groups
        Plans that were measured on the same samples: of each, the sum of its layers' drops, its
        drop, and the standard error of that.
    """
    known = [np.array([row for row in group if row[0] > 0]) for group in groups]
    known = [group for group in known if len(group)]
    if not known:
        return DropCurve()
    total, drop, _ = np.concatenate(known).T
    noise = block_diag(*(covariance(group[:, 2]) for group in known))
    pivot = math.exp(float(np.log(total).mean()))

    def predicted(x: Array) -> Array:
        return np.asarray(np.exp(x[0]) * pivot * (total / pivot) ** x[1])

    at = np.array([0.0, 1.0])
    for _ in range(ROUNDS):
        model = np.maximum(MODEL_ERROR * predicted(at), LEAST_ERROR)
        root: Array = np.linalg.cholesky(noise + np.diag(model**2)).astype(np.float64)

        def residuals(x: Array, root: Array = root) -> Array:
            prior = x[0] / SCALE_DOUBT, (x[1] - 1) / POWER_DOUBT
            scaled = solve_triangular(root, drop - predicted(x), lower=True)
            return np.concatenate([scaled, prior])

        bounds = ([-10.0, POWERS[0]], [10.0, POWERS[1]])
        at = least_squares(residuals, at, bounds=bounds).x
    return DropCurve(math.exp(float(at[0])), float(at[1]), pivot)
