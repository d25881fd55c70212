"""Plans that the stopwatch has timed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiq.errors import InputError
from aiq.typed import (
    Count,
    Name,
    NonNegative,
    Positive,
    Share,
)


@dataclass(frozen=True, slots=True)
class TimedPlan:
    """A plan on the shortlist, as the stopwatch saw it.

    Attributes
    ----------
    name
        The format of a uniform plan, ``mixed N`` for others.
    layers
        Number of layers in each format.
    predicted, seconds
        Time of one batch in seconds: predicted by the cost model, and measured (median).
    against, speedup, low, high
        Name of the plan that was timed in turns with this one, speed-up over it, and the interval
        of the speed-up.
    verdict
        ``faster``, ``slower``, or ``indistinguishable`` from `against`.
    drop_limit
        Upper confidence limit of the accuracy lost; ``None`` if it was not needed or measured.
    mismatches
        Layers that run in another format than planned.
    """

    name: Name
    layers: Mapping[Name, Count]
    predicted: NonNegative
    seconds: Positive
    against: Name
    speedup: NonNegative
    low: NonNegative
    high: NonNegative
    verdict: Name
    drop_limit: float | None
    mismatches: Count


@dataclass(frozen=True, slots=True)
class Shortlist:
    """The plans that were timed to choose one of them.

    Attributes
    ----------
    runtime, batch, threads
        Name of the runtime, samples in a batch, and number of threads.
    plans
        All plans that were timed, in that order.
    best_uniform, chosen
        Names of the fastest uniform plan within the budgets, and of the plan that was chosen.
    noise, confidence, steal
        Noise floor, coverage of the intervals, and share of the processor time that other guests
        took, all in the run that decided.
    interrupted
        Whether Ctrl-C ended it.
    left_out
        Plans that the runtime cannot compile, or computes wrongly: name -> reason.
    others
        Share of the processors' time that other processes took meanwhile; ``None`` if it is not
        known.
    """

    runtime: Name
    batch: Count
    threads: Count
    plans: tuple[TimedPlan, ...]
    best_uniform: Name
    chosen: Name
    noise: NonNegative
    confidence: Share
    steal: NonNegative | None
    interrupted: bool
    left_out: Mapping[Name, str] = field(default_factory=dict)
    others: Share | None = None

    def __post_init__(self) -> None:
        names = [plan.name for plan in self.plans]
        if len({*names}) < len(names) or not {self.best_uniform, self.chosen} <= {*names}:
            raise InputError("The plans that were timed repeat a name or lack the chosen one.")

    def __getitem__(self, name: str) -> TimedPlan:
        """Return the row called `name`."""
        return next(plan for plan in self.plans if plan.name == name)
