"""The result of an evaluation: scores of samples, and the statistics of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The scores of one plan on N samples.

    Attributes
    ----------
    scores
        Score of each sample: float64, (N,). With the metric ``top1`` it is 1 for a right answer and
        0 for a wrong one.
    baseline
        Score of each sample in the float32 network: float64, (N,).
    divergence
        Kullback-Leibler divergence in nats from the float32 network's softmax to the plan's:
        float64, (N,). Without classes, relative squared error of the output.
    cross_entropy
        Mean cross-entropy in nats; NaN without classes.
    """

    scores: NDArray[np.float64]
    baseline: NDArray[np.float64]
    divergence: NDArray[np.float64]
    cross_entropy: float

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.scores)

    @property
    def accuracy(self) -> float:
        """Mean score; for ``top1``, the fraction of samples with the right answer."""
        return float(self.scores.mean())

    @property
    def drop(self) -> float:
        """Accuracy drop: mean score of the float32 network minus that of the plan."""
        return float((self.baseline - self.scores).mean())

    @property
    def drop_error(self) -> float:
        """Standard error of the drop, from paired samples."""
        return float((self.baseline - self.scores).std()) / math.sqrt(self.samples)

    @property
    def counts_answers(self) -> bool:
        """Whether scores are those of right and wrong answers, 1 and 0."""
        return bool(np.isin(self.baseline - self.scores, (-1, 0, 1)).all())

    @property
    def drop_doubt(self) -> float:
        """Standard error of the drop to which a curve is fitted.

        It includes that of a single answer, as no answer may have changed only by chance.
        """
        return math.hypot(self.drop_error, 1 / self.samples if self.counts_answers else 0.0)

    @property
    def kl(self) -> float:
        """Mean divergence."""
        return float(self.divergence.mean())

    @property
    def kl_error(self) -> float:
        """Standard error of the mean divergence."""
        return float(self.divergence.std()) / math.sqrt(self.samples)


Enough = Callable[[Evaluation], bool]
"""Returns whether an evaluation of a random part of the samples is sufficient."""
