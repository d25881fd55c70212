"""Accuracy of plans, measured once for each plan and no longer than necessary."""

import math
from typing import NamedTuple

from scipy import stats

from aiq.evaluate import Evaluation, Evaluator
from aiq.evaluate.confidence import Hopeless, drop_limit, samples_needed
from aiq.formats import REFERENCE
from aiq.plan import Accuracy
from aiq.planning.task import Formats, Task


class HeldBack(NamedTuple):
    """A plan whose drop is within the budget, but on too few samples for confidence.

    Attributes
    ----------
    formats
        The plan.
    samples
        Approximate number of samples that would suffice.
    """

    formats: Formats
    samples: int


class AccuracyMeter:
    """Measures the accuracy of plans, each only once, and compares it with float32.

    Parameters
    ----------
    evaluator
        Evaluator of the network on the user's data.
    confidence
        Confidence of the upper limits of drops: 0.5 to below 1.
    seed
        Seed of the bootstrap, which gives the limits of scores other than 0 and 1.

    Attributes
    ----------
    evaluator, seed
        The evaluator and the seed that were given.
    """

    def __init__(self, evaluator: Evaluator, confidence: float, seed: int = 0) -> None:
        self.evaluator = evaluator
        self._confidence, self.seed = confidence, seed
        self._known: dict[tuple[str, ...], Evaluation] = {}
        self._formats: dict[tuple[str, ...], Formats] = {}

    @property
    def quantile(self) -> float:
        """About the number of standard errors between a drop and its upper limit."""
        return float(stats.norm.ppf(self._confidence))

    def known(self, formats: Formats) -> Accuracy | None:
        """Return the accuracy of a plan if it was measured."""
        evaluation = self._known.get(_key(formats))
        return None if evaluation is None else self._accuracy(formats, evaluation)

    def accuracy(self, formats: Formats, max_drop: float = math.inf) -> Accuracy:
        """Return the accuracy of a plan, from part of the samples if its drop is too large.

        Parameters
        ----------
        formats
            The plan.
        max_drop
            Largest useful drop. The measurement stops once a sequential test of the paired answers
            shows that the drop is larger.
        """
        return self._accuracy(formats, self.evaluation(formats, max_drop))

    def evaluation(self, formats: Formats, max_drop: float = math.inf) -> Evaluation:
        """Return the evaluation of a plan; the parameters are those of `accuracy`."""
        key, every = _key(formats), self.evaluator.baseline.samples
        known = self._known.get(key)
        if known is None or (known.samples < every and known.drop <= max_drop):
            stop = Hopeless(max_drop, self.evaluator.chunks) if max_drop < 1 else None
            self._known[key] = self.evaluator.evaluate(formats, stop)
            self._formats[key] = formats
        return self._known[key]

    def samples_needed(self, formats: Formats, max_drop: float) -> int | None:
        """Return the number of samples that would show that a measured plan is within `max_drop`.

        It is ``None`` if no number would.
        """
        return samples_needed(self._known[_key(formats)], max_drop, self._confidence)

    def held_back(self, task: Task, chosen: Formats) -> HeldBack | None:
        """Return the measured plan that would need the fewest samples to be chosen instead.

        It is cheaper than `chosen` and its drop is within the budget, but its upper limit is not.
        It is ``None`` if the drop itself of every cheaper plan is too large.
        """
        if task.weighted_by is not None or task.least_drop:
            return None
        cost, found = task.tables.cost.total, list[HeldBack]()
        for key, formats in self._formats.items():
            evaluation = self._known[key]
            if evaluation.samples < self.evaluator.baseline.samples or task.too_large(formats):
                continue
            if self._accuracy(formats, evaluation).drop_limit <= task.max_drop:
                continue
            needed = self.samples_needed(formats, task.max_drop)
            if needed is not None and cost(formats) < cost(chosen):
                found.append(HeldBack(formats, needed))
        return min(found, key=lambda one: (one.samples, cost(one.formats)), default=None)

    def _accuracy(self, formats: Formats, evaluation: Evaluation) -> Accuracy:
        same = all(chosen == REFERENCE for chosen in formats.values())
        return Accuracy(
            plan=evaluation.accuracy,
            baseline=float(evaluation.baseline.mean()),
            samples=evaluation.samples,
            drop_limit=0.0 if same else drop_limit(evaluation, self._confidence, self.seed),
            confidence=self._confidence,
        )


def _key(formats: Formats) -> tuple[str, ...]:
    return tuple(chosen.name for chosen in formats.values())
