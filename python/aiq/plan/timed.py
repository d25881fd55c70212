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
        How many layers have each format.
    predicted, seconds
        Time of one batch, before and after: by the cost model, and measured (median).
    against, speedup, low, high
        How many times as fast as plan `against`, timed in turns with it, with the interval.
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
    """What was timed to choose the plan.

    Attributes
    ----------
    runtime, batch, threads
        What ran.
    plans
        All that was timed, in that order.
    best_uniform, chosen
        Names of the fastest uniform plan within the budgets, and of the plan that was chosen.
    noise, confidence, steal
        Of the run that decided: relative difference below which nothing is called a difference,
        coverage of the intervals, and share of processor time lost to other guests.
    interrupted
        Whether it was ended by Ctrl-C.
    left_out
        Plans that the runtime cannot compile, or computes wrongly: name -> reason.
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

    def __post_init__(self) -> None:
        names = [plan.name for plan in self.plans]
        if len({*names}) < len(names) or not {self.best_uniform, self.chosen} <= {*names}:
            raise InputError("The plans that were timed repeat a name or lack the chosen one.")

    def __getitem__(self, name: str) -> TimedPlan:
        """Return the row called `name`."""
        return next(plan for plan in self.plans if plan.name == name)
