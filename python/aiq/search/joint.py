"""What whole plans lose: the sum of the losses of their layers, bent to what was measured.

Errors of layers add up, and few of them change no answer, so that the drop of a plan grows faster
than the sum. ``drop = scale * pivot * (sum / pivot)^power`` is fitted to the plans that were
measured as a whole; without any, the sum stands as it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from aiq.losses import Array

SCALE_DOUBT, POWER_DOUBT = 1.0, 0.3
"""Standard deviations, before anything is measured, of the logarithm of the scale and the power."""

POWERS = (0.5, 2.5)
"""Least and greatest power."""

MODEL_ERROR = 0.2
"""Relative error of a drop predicted by the sum, however well the bend is known."""

LEAST = 0.01
"""Part of the pivot below which the slope is taken to be that there: a power's may be zero."""

ROUNDS = 3
"""Fits; in each, the model's error follows from the drops that the last one predicts."""


@dataclass(frozen=True, slots=True)
class Bend:
    """Predicts the drop of a plan from the sum of the losses of its layers.

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
        """Return the drop of a plan whose losses add up to `total`."""
        if total <= 0:
            return total
        return float(self.scale * self.pivot * (total / self.pivot) ** self.power)

    def inverse(self, drop: float) -> float:
        """Return the sum of losses at which a plan drops by `drop`."""
        if drop <= 0:
            return 0.0
        return float(self.pivot * (drop / (self.scale * self.pivot)) ** (1 / self.power))

    def slope(self, total: float) -> float:
        """Return by how much the drop grows with the sum."""
        total = max(total, LEAST * self.pivot)
        return self.power * self.predict(total) / total


def fit(measured: Sequence[tuple[float, float, float]]) -> Bend:
    """Return the most likely bend, by weighted least squares towards a straight line.

    Each plan counts by the error of its drop and that of the model, so that few and noisy plans
    hardly bend it.

    Parameters
    ----------
    measured
        Of each plan that was measured as a whole: the sum of its layers' losses, its drop, and the
        standard error of that.
    """
    known = np.array([row for row in measured if row[0] > 0])
    if not len(known):
        return Bend()
    total, drop, error = known.T
    pivot = math.exp(float(np.log(total).mean()))

    def predicted(x: Array) -> Array:
        return np.asarray(np.exp(x[0]) * pivot * (total / pivot) ** x[1])

    at = np.array([0.0, 1.0])
    for _ in range(ROUNDS):
        weight = 1 / np.hypot(error, MODEL_ERROR * predicted(at)).clip(min=1e-12)

        def residuals(x: Array, weight: Array = weight) -> Array:
            prior = x[0] / SCALE_DOUBT, (x[1] - 1) / POWER_DOUBT
            return np.concatenate([weight * (drop - predicted(x)), prior])

        bounds = ([-10.0, POWERS[0]], [10.0, POWERS[1]])
        at = least_squares(residuals, at, bounds=bounds).x
    return Bend(math.exp(float(at[0])), float(at[1]), pivot)
