"""How sure a measured drop is: the same samples, with and without quantisation, are pairs.

Only samples on which the two networks differ say anything. Of N samples, b are right in float32
alone and c are right quantised alone; the drop is (b - c) / N, however many both get right.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from aiq.errors import InputError

if TYPE_CHECKING:
    from aiq.evaluate import Evaluation

RESAMPLES = 4000

SHARED = 0.4
"""Correlation of the drops of two plans on the same samples, measured on ResNet-20 for 50 plans:
the same samples, those on which float32 is unsure, change sides."""


def drop_limit(evaluation: "Evaluation", confidence: float = 0.95, seed: int = 0) -> float:
    """Return the drop that the true one does not exceed, at the given one-sided confidence.

    Scores of 0 and 1 get Tango's score limit (Statistics in Medicine 17, 1998), which inverts
    McNemar's test and holds for few samples and no disagreement; others the paired bootstrap's.

    Raises
    ------
    InputError
        If the confidence is not between 0.5 and 1.
    """
    _check(confidence)
    difference = evaluation.baseline - evaluation.scores
    if not np.isin(difference, (-1, 0, 1)).all():
        return bootstrap_limit(difference, confidence, seed)
    lost, won = int((difference > 0).sum()), int((difference < 0).sum())
    return _score_limit(lost, won, len(difference), float(stats.norm.ppf(confidence)))


def mcnemar(evaluation: "Evaluation") -> float:
    """Return the p-value of McNemar's exact one-sided test that the drop is mere chance."""
    difference = evaluation.baseline - evaluation.scores
    lost, won = int((difference > 0).sum()), int((difference < 0).sum())
    if not lost + won:
        return 1.0
    return float(stats.binomtest(lost, lost + won, alternative="greater").pvalue)


def bootstrap_limit(difference: NDArray[np.float64], confidence: float, seed: int = 0) -> float:
    """Return the upper limit of the mean of paired differences, by the percentile bootstrap.

    Values that repeat are resampled together, so that correct and wrong cost nothing.
    """
    _check(confidence)
    values, counts = np.unique(difference, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(difference), counts / len(difference), size=RESAMPLES)
    return float(np.quantile(drawn @ values / len(difference), confidence))


def samples_needed(
    evaluation: "Evaluation", max_drop: float, confidence: float = 0.95
) -> int | None:
    """Return how many samples would show this drop to be at most `max_drop`, were it the true one.

    ``None`` if no number would, or more than 1e12: the drop is not below `max_drop`, or hardly.
    """
    _check(confidence)
    if evaluation.drop >= max_drop:
        return None
    difference = evaluation.baseline - evaluation.scores
    z = float(stats.norm.ppf(confidence))
    if not np.isin(difference, (-1, 0, 1)).all():
        return math.ceil((z * float(difference.std()) / (max_drop - evaluation.drop)) ** 2)
    lost, won = float((difference > 0).mean()), float((difference < 0).mean())

    def excess(log_n: float) -> float:
        n = math.exp(log_n)
        return _score_limit(lost * n, won * n, n, z) - max_drop

    most = math.log(1e12)
    if excess(0.0) <= 0:
        return 1
    return None if excess(most) > 0 else math.ceil(math.exp(optimize.brentq(excess, 0.0, most)))


def covariance(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the covariance, (P, P), of the drops of P plans on the same samples.

    Several plans are no proof where one would be none: if the samples are easy, all look good.

    Parameters
    ----------
    errors
        (P,): standard error of each drop.
    """
    return SHARED * np.outer(errors, errors) + (1 - SHARED) * np.diag(errors**2)


@dataclass(frozen=True, slots=True)
class Hopeless:
    """Stops an evaluation, as its `enough`, once the drop exceeds `max_drop` beyond doubt.

    Exact Clopper-Pearson bounds on both kinds of disagreement, each look at its share of the risk:
    however often it looks, a plan within the budget is stopped with probability `risk` at most.

    Attributes
    ----------
    max_drop
        The budget, as a fraction.
    looks
        How often it may be asked: chunks of the data.
    risk
        Probability of stopping a plan that is within the budget.
    """

    max_drop: float
    looks: int
    risk: float = 0.01

    def __call__(self, evaluation: "Evaluation") -> bool:
        """Whether the drop surely exceeds the budget."""
        difference = evaluation.baseline - evaluation.scores
        if not np.isin(difference, (-1, 0, 1)).all():
            return False
        n, share = len(difference), self.risk / self.looks / 2
        lost, won = int((difference > 0).sum()), int((difference < 0).sum())
        least_lost = float(stats.beta.ppf(share, lost, n - lost + 1)) if lost else 0.0
        most_won = float(stats.beta.isf(share, won + 1, n - won)) if won < n else 1.0
        return least_lost - most_won > self.max_drop


def _score_limit(lost: float, won: float, n: float, z: float) -> float:
    """Return the largest drop that Tango's score test does not reject."""

    def excess(drop: float) -> float:
        a, b = 2 * n, -lost - won + (2 * n - lost + won) * drop
        c = -won * drop * (1 - drop)
        chance_won = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = n * (2 * chance_won + drop * (1 - drop))
        return lost - won - n * drop + z * math.sqrt(max(variance, 0.0))

    estimate = (lost - won) / n
    above = estimate + 1e-9  # at the estimate itself the test says nothing
    if above >= 1 or excess(above) <= 0:
        return estimate
    return float(optimize.brentq(excess, above, 1.0, xtol=1e-12))


def _check(confidence: float) -> None:
    if not 0.5 <= confidence < 1:
        raise InputError(f"The confidence is {confidence!r}; give a number from 0.5 to below 1.")
