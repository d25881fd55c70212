"""The accuracy drop of a whole plan, as a curve over the sum of the drops of its layers.

The errors of layers add up. Small errors change no answer, so the drop of a plan grows faster than
the sum. The curve ``drop = scale * pivot * (sum / pivot)^power`` is fitted to the plans that were
measured as a whole; without any, the prediction is the sum itself.
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
"""Prior standard deviations of the logarithm of the scale, and of the power."""

POWERS = (0.5, 2.5)
"""Smallest and largest power."""

MODEL_ERROR = 0.2
"""Relative error of a predicted drop that remains when the curve is known exactly."""

LEAST = 0.01
"""The slope is constant below this share of the pivot, as that of a power may be 0 at 0."""

LEAST_ERROR = 1e-5
"""Smallest standard error of a predicted drop."""

Point = tuple[float, float, float]
"""Predicted drop of a plan by the tables, its measured drop, and the standard error of that."""

ROUNDS = 3
"""Number of fits; the model's error in each follows from the drops predicted by the one before."""


@dataclass(frozen=True, slots=True)
class DropCurve:
    """Predicts the drop of a plan from the sum of the drops of its layers.

    Attributes
    ----------
    scale, power
        Parameters of the formula above. With 1 and 1 the prediction is the sum itself.
    pivot
        Geometric mean of the sums of the measured plans.
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
        """Return the derivative of the drop with respect to the sum."""
        total = max(total, LEAST * self.pivot)
        return self.power * self.predict(total) / total


def fit_curve(*groups: Sequence[Point]) -> DropCurve:
    """Return the most likely curve, by generalised least squares with a straight line as prior.

    Each plan is weighted by the error of its drop and that of the model. Errors are correlated
    within a group, because its plans were measured on the same samples. Few or noisy plans
    therefore leave the curve nearly straight.

    Parameters
    ----------
    groups
        Groups of plans; the plans of a group were measured on the same samples.
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
