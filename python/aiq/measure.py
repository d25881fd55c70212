"""The stopwatch: interleaved timing with intervals, which refuses to call noise a difference.

Candidates take turns, so that a change in the machine's speed hits all of them alike, and the
baseline takes two turns in every round: what the stopwatch says of it against itself is the noise
floor. A turn first fills the caches that the others have emptied, so times are those of a network
that runs again and again. Every sample is kept; outliers are part of what a user will see.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

from aiq import machine
from aiq.errors import InputError
from aiq.progress import Progress

Call = Callable[[], object]
Clock = Callable[[], float]
_WINDOW = 5
"""Turns whose median has to settle before the warm-up ends."""


class Verdict(StrEnum):
    """What a measurement allows one to say of two candidates."""

    FASTER = "faster"
    SLOWER = "slower"
    INDISTINGUISHABLE = "indistinguishable"


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its bootstrap confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one call of a candidate takes.

    Attributes
    ----------
    name
        The candidate.
    batch
        Samples of the network that one call processes.
    seconds
        Median time of a call, with its interval.
    calls_per_sample
        Calls that were timed together for each entry of `samples`.
    samples
        Seconds per call, one entry a round, in the order taken, none left out.
    steady
        Whether the median had settled when the warm-up ended.
    """

    name: str
    batch: int
    seconds: Interval
    calls_per_sample: int
    samples: tuple[float, ...]
    steady: bool

    @property
    def throughput(self) -> float:
        """Samples of the network per second."""
        return self.batch / self.seconds.value

    def latency(self, quantile: float) -> float:
        """Return a quantile (0..1) of the seconds per call."""
        return float(np.quantile(self.samples, quantile))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Candidates timed side by side.

    Attributes
    ----------
    timings
        One for each candidate, in the order given.
    baseline
        The candidate that took two turns a round.
    again
        Seconds per call in the baseline's second turns.
    noise
        Relative difference below which nothing is called a difference.
    confidence
        Coverage of every interval, 0..1.
    threads
        Threads that the candidates could use.
    steal
        Share of the processor time that the hypervisor gave to others meanwhile, 0..1; ``None``
        where the system does not tell.
    machine
        `aiq.machine.describe` at the time.
    """

    timings: tuple[Timing, ...]
    baseline: str
    again: tuple[float, ...]
    noise: float
    confidence: float
    threads: int
    steal: float | None
    machine: Mapping[str, Any]

    def __getitem__(self, name: str) -> Timing:
        """Return the timing of candidate `name`."""
        for timing in self.timings:
            if timing.name == name:
                return timing
        known = ", ".join(timing.name for timing in self.timings)
        raise InputError(f"No candidate {name!r} was timed; choose one of {known}.")

    def speedup(self, name: str, against: str | None = None) -> Interval:
        """Return how many times faster `name` is than `against` (by default the baseline).

        The median over rounds of the ratio within a round: what disturbs one turn of a round
        disturbs the others, so the ratio varies less than the times do. The bootstrap draws rounds.
        """
        fast, slow = self[name].samples, self[against or self.baseline].samples
        return _ratio(slow, fast, self.confidence)

    def levelled(self) -> dict[str, float]:
        """Return the seconds per call of each candidate at one speed of the machine.

        What slowed a round as a whole is taken out of its turns before their median is taken
        (a step of median polish, Tukey 1977); on a busy machine this varies by a third of what the
        medians of the times vary.
        """
        logs = np.log([timing.samples for timing in self.timings])
        typical = np.median(logs, axis=1)
        rounds = np.median(logs - typical[:, None], axis=0)
        levels = np.exp(np.median(logs - rounds, axis=1))
        return {t.name: float(level) for t, level in zip(self.timings, levels, strict=True)}

    def verdict(self, name: str, against: str | None = None) -> Verdict:
        """Say whether `name` is faster than `against`: yes, no, or within the noise."""
        ratio = self.speedup(name, against)
        if ratio.low > 1 + self.noise:
            return Verdict.FASTER
        if ratio.high < 1 / (1 + self.noise):
            return Verdict.SLOWER
        return Verdict.INDISTINGUISHABLE

    def to_dict(self) -> dict[str, Any]:
        """Return everything, with the speed-ups and verdicts against the baseline, for JSON."""
        document = asdict(self)
        for entry, timing in zip(document["timings"], self.timings, strict=True):
            entry["throughput"] = timing.throughput
            entry["latency"] = {q: timing.latency(float(q)) for q in ("0.5", "0.95", "0.99")}
            entry["speedup"] = asdict(self.speedup(timing.name))
            entry["verdict"] = str(self.verdict(timing.name))
        return document


def compare_timing(
    candidates: Mapping[str, Call],
    *,
    batch: int = 1,
    baseline: str | None = None,
    min_seconds: float = 5.0,
    min_rounds: int = 20,
    max_seconds: float = math.inf,
    warmup_seconds: float = 2.0,
    tolerance: float = 0.02,
    confidence: float = 0.95,
    threads: int | None = None,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    progress: Progress | None = None,
) -> Comparison:
    """Time `candidates` in turns until there are enough rounds to tell them apart.

    Parameters
    ----------
    candidates
        What to call, by name. Each call is one forward pass and returns when it is done.
    batch
        Samples of the network that one call processes.
    baseline
        The candidate that the others are compared with; the first one by default.
    min_seconds, min_rounds
        Length of the measurement, both to be reached.
    max_seconds
        After this long six rounds are enough.
    warmup_seconds
        Least length of the warm-up, which goes on until every median has settled within
        `tolerance` (or five times as long, and is then marked as not steady).
    confidence
        Coverage of the intervals, 0..1.
    threads
        Threads to use and to pin to as many processors; all that the process may use by default.
        Compiled programs keep the count they were compiled for, so it should be the same.
    seed
        Shuffles the order of turns within each round.
    clock
        Returns seconds; for tests.
    progress
        Called with ``("timing", rounds done, rounds expected)``.

    Raises
    ------
    InputError
        If there is no candidate, `baseline` is none of them, or a number is out of range.
    """
    if not candidates:
        raise InputError("There is nothing to time; pass at least one candidate.")
    base = next(iter(candidates)) if baseline is None else baseline
    if base not in candidates:
        raise InputError(
            f"The baseline {base!r} is not a candidate; choose one of {', '.join(candidates)}."
        )
    if not 0 < confidence < 1:
        raise InputError(f"The confidence is {confidence}; it must lie between 0 and 1.")
    if min_rounds < 2 or batch < 1:
        raise InputError("Timing needs at least two rounds and a batch of at least one.")
    if not 0 <= min_seconds < math.inf:
        raise InputError(f"The timing is to last {min_seconds} s; give seconds, 0 or more.")
    if max_seconds < min_seconds:
        raise InputError(
            f"The timing is to last at least {min_seconds} s and at most {max_seconds} s; "
            "give a maximum that is not below the minimum."
        )

    turns = {**candidates, _AGAIN: candidates[base]}
    with machine.threads(threads) as used:
        ticks = machine.cpu_ticks()
        typical, steady = _warm_up(turns, warmup_seconds, tolerance, clock)
        samples: dict[str, list[float]] = {name: [] for name in turns}
        rng = np.random.default_rng(seed)
        start, rounds = clock(), 0
        while not _enough(rounds, clock() - start, min_rounds, min_seconds, max_seconds):
            for index in rng.permutation(len(turns)):
                name = list(turns)[index]
                samples[name].append(_turn(turns[name], typical[name], clock))
            rounds += 1
            if progress is not None:
                expected = rounds * max(min_seconds / max(clock() - start, 1e-9), 1)
                progress("timing", rounds, max(math.ceil(expected), min_rounds))
        stolen = machine.steal(ticks, machine.cpu_ticks())
    timings = tuple(
        Timing(
            name=name,
            batch=batch,
            seconds=_median(samples[name], confidence),
            calls_per_sample=_calls(typical[name]),
            samples=tuple(samples[name]),
            steady=steady[name],
        )
        for name in candidates
    )
    itself = _ratio(samples[base], samples[_AGAIN], confidence)
    return Comparison(
        timings=timings,
        baseline=base,
        again=tuple(samples[_AGAIN]),
        noise=max(itself.high, 1 / itself.low) - 1,
        confidence=confidence,
        threads=used,
        steal=stolen,
        machine=machine.describe(),
    )


_AGAIN = "\0again"
"""Key of the baseline's second turn; no candidate can have this name by accident."""

_LEAST_SAMPLE = 4e-3
"""Seconds a sample lasts at least: what waking threads adds to the first call of a turn is no part
of a call among others like it."""

_REFILL = 20e-3
"""Seconds of calls that come before a sample, untimed. One call does not fill the caches again:
among thirteen others an int8 MobileNetV2 of 1.6 ms took 2.3, 2.0, 1.9, 1.9, 1.8 ms and so on, on
EPYC Zen 5 with one thread, and ten calls until it was as fast as in a loop of its own."""

_FEWEST_ROUNDS = 6
"""Rounds of a measurement that has taken too long: of these, a bootstrap still tells something."""

_OWN_CACHE = 0.05
"""Seconds of a call beside which it does not matter that others have emptied the cache."""


def _enough(
    rounds: int, elapsed: float, min_rounds: int, min_seconds: float, max_seconds: float
) -> bool:
    if elapsed >= max_seconds:
        return rounds >= min(_FEWEST_ROUNDS, min_rounds)
    return rounds >= min_rounds and elapsed >= min_seconds


def _turn(call: Call, seconds: float, clock: Clock) -> float:
    """Return the seconds per call, of as many calls as a sample needs.

    Parameters
    ----------
    call
        What to call.
    seconds
        What a call took so far. Before short ones come some that bring their data into the caches.
    clock
        Returns seconds.
    """
    calls = _calls(seconds)
    if seconds < _OWN_CACHE:
        for _ in range(_calls(seconds, _REFILL)):
            call()
    start = clock()
    for _ in range(calls):
        call()
    return (clock() - start) / calls


def _calls(seconds: float, least: float = _LEAST_SAMPLE) -> int:
    return max(1, math.ceil(least / max(seconds, 1e-9)))


def _warm_up(
    turns: Mapping[str, Call], seconds: float, tolerance: float, clock: Clock
) -> tuple[dict[str, float], dict[str, bool]]:
    """Run in turns until every median has settled; return the medians, and who settled."""
    history: dict[str, list[float]] = {name: [] for name in turns}
    start = clock()
    while True:
        for name, call in turns.items():
            before = min(history[name], default=_LEAST_SAMPLE)
            history[name].append(_turn(call, max(before, _LEAST_SAMPLE), clock))
        steady = {name: _settled(past, tolerance) for name, past in history.items()}
        elapsed = clock() - start
        if elapsed >= seconds and (all(steady.values()) or elapsed >= 5 * seconds):
            break
    return {name: float(np.median(past[-_WINDOW:])) for name, past in history.items()}, steady


def _settled(past: list[float], tolerance: float) -> bool:
    if len(past) < 2 * _WINDOW:
        return False
    before, now = np.median(past[-2 * _WINDOW : -_WINDOW]), np.median(past[-_WINDOW:])
    return bool(abs(now - before) <= tolerance * before)


_RESAMPLES = 2000


def _ratio(above: Sequence[float], below: Sequence[float], confidence: float) -> Interval:
    # In logarithms, so that the ratio the other way round is its reciprocal.
    found = _median(np.log(above) - np.log(below), confidence)
    return Interval(*(math.exp(value) for value in (found.value, found.low, found.high)))


def _median(samples: npt.ArrayLike, confidence: float) -> Interval:
    values = np.asarray(samples, dtype=np.float64)
    value = float(np.median(values))
    result = bootstrap(
        (values,),
        np.median,
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return Interval(value, min(float(low), value), max(float(high), value))
