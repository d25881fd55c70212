"""The stopwatch: interleaved timing with confidence intervals and a noise floor.

Candidates take turns, so that a change of the machine's speed affects all of them alike. The
baseline takes two turns in every round; the difference between them is the noise floor, below which
no difference is reported. A turn first fills the caches that other candidates have emptied, so
times are those of a network that runs again and again. Every sample is kept, outliers too, because
users see them as well.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

from aiq import machine, quiet
from aiq.errors import InputError
from aiq.progress import Progress
from aiq.quiet import Load

Call = Callable[[], object]
Clock = Callable[[], float]
_WINDOW = 5  # turns whose median has to settle before the warm-up ends
_RESAMPLES = 2000


class Verdict(StrEnum):
    """The conclusion from a measurement of two candidates."""

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
    """The time of one call of a candidate.

    Attributes
    ----------
    name
        Name of the candidate.
    batch
        Number of samples of the network that one call processes.
    seconds
        Median time of a call, with its confidence interval.
    calls_per_sample
        Number of calls that were timed together for each entry of `samples`.
    samples
        Seconds per call in each round, in the order of the rounds.
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
        """Return the quantile (0 to 1) of the seconds per call."""
        return float(np.quantile(self.samples, quantile))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Candidates that were timed in turns.

    Attributes
    ----------
    timings
        Timing of each candidate, in the order in which they were given.
    baseline
        Name of the candidate that took two turns in each round.
    again
        Seconds per call in the baseline's second turns.
    noise
        Noise floor: relative difference up to which two candidates are indistinguishable.
    confidence
        Coverage of every interval: 0 to 1.
    threads
        Number of threads that the candidates could use.
    steal
        Fraction of the processor time that the hypervisor gave to others meanwhile, 0 to 1;
        ``None`` if the system does not report it.
    machine
        Description of the machine by `aiq.machine.describe`.
    seed
        Seed of the random draws.
    load
        Use of the processors meanwhile, by this process and by others.
    """

    timings: tuple[Timing, ...]
    baseline: str
    again: tuple[float, ...]
    noise: float
    confidence: float
    threads: int
    steal: float | None
    machine: Mapping[str, Any]
    seed: int = 0
    load: Load = Load(None, 0.0)  # noqa: RUF009  (frozen)

    def __getitem__(self, name: str) -> Timing:
        """Return the timing of the candidate `name`."""
        for timing in self.timings:
            if timing.name == name:
                return timing
        known = ", ".join(timing.name for timing in self.timings)
        raise InputError(f"No candidate {name!r} was timed; choose one of {known}.")

    def speedup(self, name: str, against: str | None = None) -> Interval:
        """Return the speed-up of `name` over `against`, which is the baseline by default.

        It is the median over rounds of the ratio within a round. A disturbance usually affects all
        turns of a round, so the ratio varies less than the times. The bootstrap resamples rounds.
        """
        fast, slow = self[name].samples, self[against or self.baseline].samples
        return _ratio(slow, fast, self.confidence, self.seed)

    def levelled(self) -> dict[str, float]:
        """Return the seconds per call of each candidate at one common speed of the machine.

        The common slowdown of each round is removed from its turns before their median is taken: a
        step of median polish (Tukey 1977). On a busy machine, the result varies by a third of what
        the medians of the times vary.
        """
        logs = np.log([timing.samples for timing in self.timings])
        typical = np.median(logs, axis=1)
        rounds = np.median(logs - typical[:, None], axis=0)
        levels = np.exp(np.median(logs - rounds, axis=1))
        return {t.name: float(level) for t, level in zip(self.timings, levels, strict=True)}

    def verdict(self, name: str, against: str | None = None) -> Verdict:
        """Return whether `name` is faster or slower than `against`, or within the noise."""
        ratio = self.speedup(name, against)
        if ratio.low > 1 + self.noise:
            return Verdict.FASTER
        if ratio.high < 1 / (1 + self.noise):
            return Verdict.SLOWER
        return Verdict.INDISTINGUISHABLE

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, with speed-ups and verdicts against the baseline, for JSON."""
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
    warmup_seconds: float | None = None,
    tolerance: float = 0.02,
    confidence: float = 0.95,
    threads: int | None = None,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    progress: Progress | None = None,
) -> Comparison:
    """Time `candidates` in turns, for a given time and number of rounds.

    Parameters
    ----------
    candidates
        Name -> function that runs one forward pass and returns when that is done.
    batch
        Number of samples of the network that one call processes.
    baseline
        Name of the candidate with which the others are compared; the first one by default.
    min_seconds, min_rounds, max_seconds
        Smallest time and number of rounds of the measurement; time after which six rounds suffice.
    warmup_seconds
        Smallest length of the warm-up; by default two seconds, or `min_seconds` if that is less. It
        continues until every median has settled, but at most for five times as long; a candidate
        that has not settled by then is marked as not steady.
    tolerance
        Relative change of a median below which it has settled.
    confidence
        Coverage of the intervals: 0 to 1.
    threads
        Number of threads, which are pinned to as many processors; by default all that the process
        may use. It should be the number for which the programs were compiled.
    seed
        Seed of the order of turns within each round, and of the bootstrap.
    clock
        Function that returns the current time in seconds.
    progress
        Called with ``("timing", rounds done, rounds expected)``.

    Raises
    ------
    InputError
        If there is no candidate, `baseline` is not one of them, or a number is out of range.
    """
    base = _check(candidates, baseline, batch, min_seconds, min_rounds, max_seconds, confidence)
    warmup_seconds = min(2.0, min_seconds) if warmup_seconds is None else warmup_seconds
    turns = {**candidates, _AGAIN: candidates[base]}
    with machine.threads(threads) as used:
        ticks = machine.cpu_ticks()
        typical, steady = _warm_up(turns, warmup_seconds, tolerance, clock)
        samples: dict[str, list[float]] = {name: [] for name in turns}
        watched = quiet.watch()
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
        stolen, load = machine.steal(ticks, machine.cpu_ticks()), watched()
    timings = tuple(
        Timing(
            name=name,
            batch=batch,
            seconds=_median(samples[name], confidence, seed),
            calls_per_sample=_calls(typical[name]),
            samples=tuple(samples[name]),
            steady=steady[name],
        )
        for name in candidates
    )
    itself = _ratio(samples[base], samples[_AGAIN], confidence, seed)
    return Comparison(
        timings=timings,
        baseline=base,
        again=tuple(samples[_AGAIN]),
        noise=max(itself.high, 1 / itself.low) - 1,
        confidence=confidence,
        threads=used,
        steal=stolen,
        machine=machine.describe(),
        seed=seed,
        load=load,
    )


def _check(
    candidates: Mapping[str, Call],
    baseline: str | None,
    batch: int,
    min_seconds: float,
    min_rounds: int,
    max_seconds: float,
    confidence: float,
) -> str:
    """Return the name of the baseline, or raise `InputError` if an argument is not valid."""
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
    return base


_AGAIN = "\0again"
"""Key of the baseline's second turn, which no candidate has by accident."""

_LEAST_SAMPLE = 4e-3
"""Smallest length of a sample in seconds.

The first call of a turn also wakes threads, and that time must be small against the sample.
"""

_REFILL = 20e-3
"""Seconds of untimed calls before a sample, which fill the caches again.

One call is not enough: in turns with thirteen others, an int8 MobileNetV2 of 1.6 ms took 2.3, 2.0,
1.9 ms and so on, and needed ten calls to become as fast as alone (EPYC Zen 5, one thread).
"""

_FEWEST_ROUNDS = 6  # after `max_seconds`, which is enough for a bootstrap

_OWN_CACHE = 0.05
"""Seconds of a call from which on the state of the caches at its start does not matter."""


def _enough(
    rounds: int, elapsed: float, min_rounds: int, min_seconds: float, max_seconds: float
) -> bool:
    if elapsed >= max_seconds:
        return rounds >= min(_FEWEST_ROUNDS, min_rounds)
    return rounds >= min_rounds and elapsed >= min_seconds


def _turn(call: Call, seconds: float, clock: Clock) -> float:
    """Return the seconds per call in one sample; `seconds` is a typical value."""
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
    """Run in turns until every median has settled; return the medians, and whether each settled."""
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


def _ratio(above: npt.ArrayLike, below: npt.ArrayLike, confidence: float, seed: int) -> Interval:
    # In logarithms, so that the ratio with the two exchanged is the reciprocal.
    found = _median(np.log(above) - np.log(below), confidence, seed)
    return Interval(*(math.exp(value) for value in (found.value, found.low, found.high)))


def _median(samples: npt.ArrayLike, confidence: float, seed: int) -> Interval:
    values = np.asarray(samples, dtype=np.float64)
    value = float(np.median(values))
    result = bootstrap(
        (values,),
        np.median,
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=seed,
    )
    low, high = result.confidence_interval
    return Interval(value, min(float(low), value), max(float(high), value))
