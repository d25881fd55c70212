"""Confidence in a measured drop, from samples that are paired with and without quantisation.

Only samples on which the two networks differ carry information. Of N samples, b are right only in
float32 and c only in the quantised network. The drop is (b - c) / N, however many both get right.
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
"""Number of bootstrap samples."""

FEWEST = 4
"""Fewest samples with scores other than 0 and 1 of which the mean is bounded."""

SHARED = 0.4
"""Correlation of the drops of two plans on the same samples, measured on 50 plans of ResNet-20.

It is positive because the same samples, those on which float32 is unsure, change their answer.
"""


def drop_limit(evaluation: "Evaluation", confidence: float = 0.95, seed: int = 0) -> float:
    """Return the upper confidence limit of the drop, one-sided, as a fraction.

    For scores of 0 and 1 it is Tango's score limit (Statistics in Medicine 17, 1998), which inverts
    McNemar's test and is valid for few samples and for no disagreement. For other scores it is the
    limit of the paired bootstrap.

    Raises
    ------
    InputError
        If the confidence is not between 0.5 and 1.
    """
    _check(confidence)
    difference = evaluation.baseline - evaluation.scores
    if not evaluation.counts_answers:
        return bootstrap_limit(difference, confidence, seed)
    lost, won = int((difference > 0).sum()), int((difference < 0).sum())
    return _score_limit(lost, won, len(difference), float(stats.norm.ppf(confidence)))


def bootstrap_limit(difference: NDArray[np.float64], confidence: float, seed: int = 0) -> float:
    """Return the upper limit of the mean of paired differences, by the percentile bootstrap.

    Equal values are resampled together, which is fast if there are few distinct ones.
    """
    _check(confidence)
    values, counts = np.unique(difference, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(difference), counts / len(difference), size=RESAMPLES)
    return float(np.quantile(drawn @ values / len(difference), confidence))


def samples_needed(
    evaluation: "Evaluation", max_drop: float, confidence: float = 0.95
) -> int | None:
    """Return the number of samples that would show this drop to be at most `max_drop`.

    It assumes that the measured drop is the true one. It is ``None`` if the drop is not below
    `max_drop`, or so little below it that more than 1e12 samples would be needed.
    """
    _check(confidence)
    if evaluation.drop >= max_drop:
        return None
    difference = evaluation.baseline - evaluation.scores
    z = float(stats.norm.ppf(confidence))
    if not evaluation.counts_answers:
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

    The drops are correlated: on easy samples, every plan has a small drop.

    Parameters
    ----------
    errors
        Standard error of each drop, (P,).
    """
    return SHARED * np.outer(errors, errors) + (1 - SHARED) * np.diag(errors**2)


@dataclass(frozen=True, slots=True)
class Hopeless:
    """A sequential test that stops an evaluation once the drop surely exceeds the budget.

    It is passed to an evaluation as `enough`. Each time it is called it computes exact
    Clopper-Pearson bounds on both kinds of disagreement, at an equal share of the risk. For scores
    other than 0 and 1 it computes Student's bound on the mean of the paired differences, which
    takes them to be normal.

    Attributes
    ----------
    max_drop
        The budget, as a fraction.
    calls
        Largest number of calls in an evaluation: the number of chunks of the data.
    risk
        Largest probability of stopping the evaluation of a plan that is within the budget.
    """

    max_drop: float
    calls: int
    risk: float = 0.01

    def __call__(self, evaluation: "Evaluation") -> bool:
        """Whether the drop surely exceeds the budget."""
        difference = evaluation.baseline - evaluation.scores
        n, share = len(difference), self.risk / self.calls / 2
        if not evaluation.counts_answers:
            error = float(difference.std(ddof=1)) / math.sqrt(n) if n >= FEWEST else math.inf
            return evaluation.drop - float(stats.t.isf(2 * share, n - 1)) * error > self.max_drop
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
    above = estimate + 1e-9  # the test has no answer at the estimate itself
    if above >= 1 or excess(above) <= 0:
        return estimate
    return float(optimize.brentq(excess, above, 1.0, xtol=1e-12))


def _check(confidence: float) -> None:
    if not 0.5 <= confidence < 1:
        raise InputError(f"The confidence is {confidence!r}; give a number from 0.5 to below 1.")
