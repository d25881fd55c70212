"""Compile and time a shortlist of plans, and return the fastest one within the budgets.

A cost model ranks plans nearly right, which is not enough near the optimum. So the uniform plans
within the budgets are timed first. Then further plans are timed, each in turns with the fastest
uniform plan; each is the solver's answer to costs corrected by all earlier timings
(`aiq.planning.cost_posterior`). A plan that the runtime cannot compile, or computes wrongly, is
left out. The plan that looks fastest was also lucky (the optimiser's curse), so a last, longer run
decides whether it really is faster.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from aiq.errors import RuntimeUnavailableError
from aiq.graph.export import Inputs, call_arguments
from aiq.measure import Clock, Comparison, Verdict, compare_timing
from aiq.plan import Shortlist, TimedPlan
from aiq.planning.accuracy import AccuracyMeter
from aiq.planning.cost_posterior import CostPosterior
from aiq.planning.task import Formats, Outcome, Task
from aiq.progress import Progress
from aiq.runtimes import Mismatch

STAGE = "compile and time plans"
SECONDS = 1.0
"""Seconds of a run for each plan in it."""

FINAL_SECONDS = 4.0
"""Seconds of the last run for each plan in it."""

FINALISTS = 2
"""Largest number of mixed plans in the last run."""

PATIENCE = 3.0
"""Largest factor by which a run of slow programs may exceed its length; then it has few rounds."""

DIFFERENT = 0.02
"""Smallest difference between two plans that are both timed.

It is the share of the predicted time that is spent in layers whose formats differ.
"""

DRAWS = 40
"""Largest number of draws of the costs to find a plan that was not timed yet."""

LEAST_ERROR = 0.003
"""Smallest relative error of a measured time.

The same network compiled twice differs in time by about this much.
"""


class TimedProgram(Protocol):
    """A compiled plan, which is called with the inputs of the bench."""

    @property
    def threads(self) -> int:
        """Number of threads for which it was compiled."""

    @property
    def mismatches(self) -> tuple[Mismatch, ...]:
        """Layers that run in another format than planned."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Run once."""


@dataclass(frozen=True, slots=True)
class TimingBench:
    """The function, inputs and clock with which plans are compiled and timed.

    Attributes
    ----------
    runtime
        Name of the runtime.
    compile
        Function that compiles a plan.
    inputs
        Arguments of one call of a program.
    batch
        Number of samples in `inputs`.
    kinds
        Kind of operator of each layer, in the order of the cost table.
    clock
        Function that returns the current time in seconds.
    share
        The part of the workload that one call of a program does. Reported times are of the whole.
    """

    runtime: str
    compile: Callable[[Formats], TimedProgram]
    inputs: Inputs
    batch: int
    kinds: tuple[str, ...]
    clock: Clock = time.perf_counter
    share: float = 1.0


@dataclass(slots=True)
class _Entry:
    """A plan on the shortlist: its program, its last timing, and the plan it was compared with."""

    formats: Formats
    program: TimedProgram
    timing: Comparison | None = None
    against: str = ""


def fastest(
    task: Task,
    found: Outcome,
    bench: TimingBench,
    meter: AccuracyMeter | None,
    *,
    top: int,
    seed: int = 0,
    progress: Progress,
) -> tuple[Outcome, Shortlist | None]:
    """Return the plan within the budgets that is measured to be the fastest, and all timings.

    Parameters
    ----------
    task
        The task of the search.
    found
        The plan that is predicted to be the fastest.
    bench
        Compiles plans, and has the inputs to run them on.
    meter
        Measures accuracy; without it, the predicted drop decides whether a plan is within the
        budget.
    top
        Number of plans to time besides the uniform ones.
    seed
        Seed of the draws of costs and of the order of turns.
    progress
        Called with the name of the stage, the steps done, and the number of steps.

    Notes
    -----
    On Ctrl-C the fastest plan so far is returned, and the shortlist says that it was interrupted.

    Raises
    ------
    RuntimeUnavailableError
        If the runtime compiles neither a uniform plan within the budgets nor the plan that was
        found.
    """
    session = _Session(task, found, bench, meter, seed, progress)
    interrupted = False
    try:
        session.time_uniform(top)
        session.time_others(top)
        session.time_finalists()
        progress(STAGE, session.steps, session.steps)
    except KeyboardInterrupt:
        interrupted = True
    return session.result(interrupted=interrupted)


class _Session:
    """The shortlist while it is being timed."""

    def __init__(
        self,
        task: Task,
        found: Outcome,
        bench: TimingBench,
        meter: AccuracyMeter | None,
        seed: int,
        progress: Progress,
    ) -> None:
        self._task, self._found, self._bench, self._meter = task, found, bench, meter
        self._seed, self._progress = seed, progress
        self._posterior = CostPosterior(task.tables.cost, bench.kinds)
        self._entries: dict[str, _Entry] = {}
        self._uniform: list[str] = []
        self._left_out: dict[str, tuple[Formats, RuntimeUnavailableError]] = {}
        self._reference = ""
        self._done, self.steps = 0, 1

    def time_uniform(self, top: int) -> None:
        """Time the uniform plans within the budgets; the fastest becomes the reference."""
        plans: dict[str, Formats] = {
            name: formats
            for name, formats in self._task.tables.uniform().items()
            if self._holds(formats)
        }
        plans = plans or {"mixed 0": self._found.formats}
        self.steps = len(plans) + top + 1
        compiled = [name for name, formats in plans.items() if self._compile(name, formats)]
        if not compiled and self._compile("mixed 0", self._found.formats):
            compiled = ["mixed 0"]
        if not compiled:
            raise next(error for _, error in self._left_out.values())
        self._uniform = compiled
        timing = self._time(self._uniform, SECONDS)
        self._reference = min(compiled, key=lambda name: timing[name].seconds.value)
        for name in compiled:
            self._learn(name, timing[name].seconds.value)
            self._entries[name].against = self._reference

    def time_others(self, top: int) -> None:
        """Time plans that are fast by the corrected costs, each in turns with the reference."""
        rng = np.random.default_rng(self._seed)
        reference = self._entries[self._reference].timing
        assert reference is not None
        seconds = reference[self._reference].seconds.value
        for number in range(1, top + 1):
            formats = self._next(rng)
            if formats is None:
                break
            name = f"mixed {number}"
            if not self._compile(name, formats):
                continue
            timing = self._time([self._reference, name], SECONDS)
            # The machine may have become slower meanwhile, so only the ratio is used.
            self._learn(name, seconds / timing.speedup(name).value)

    def time_finalists(self) -> None:
        """Time the fastest plans again, and longer, because the fastest one so far was lucky."""
        finalists: list[str] = []
        for name in sorted(self._mixed(), key=self._speedup, reverse=True):
            if self._speedup(name) <= 1 or len(finalists) == FINALISTS:
                break
            if self._holds(self._entries[name].formats):
                finalists.append(name)
        if not finalists:
            return
        close = [name for name in self._uniform if self._verdict(name) is not Verdict.SLOWER]
        timing = self._time([*close, *finalists], FINAL_SECONDS)
        self._reference = min(close, key=lambda name: timing[name].seconds.value)
        for name in (*close, *finalists):
            self._entries[name].against = self._reference

    def result(self, *, interrupted: bool) -> tuple[Outcome, Shortlist | None]:
        """Return the fastest plan; a mixed one only if it is faster beyond the noise."""
        if not self._reference:
            return self._found, None
        faster = [name for name in self._mixed() if self._verdict(name) is Verdict.FASTER]
        faster.sort(key=self._speedup, reverse=True)
        chosen = next(
            (name for name in faster if self._holds(self._entries[name].formats)), self._reference
        )
        formats, timing = self._entries[chosen].formats, self._entries[chosen].timing
        assert timing is not None
        tables = self._task.tables
        accuracy = None if self._meter is None else self._meter.accuracy(formats)
        predicted = self._found.curve.predict(tables.predicted_drop(formats))
        if accuracy is not None and self._found.drop_budget is None:
            predicted = accuracy.drop  # the drops of single layers were not measured
        outcome = replace(
            self._found,
            formats=formats,
            value=tables.cost.total(formats),
            predicted_drop=predicted,
            accuracy=accuracy,
        )
        return outcome, Shortlist(
            runtime=self._bench.runtime,
            batch=self._bench.batch,
            plans=tuple(self._row(name, e) for name, e in self._entries.items() if e.timing),
            best_uniform=self._reference,
            chosen=chosen,
            noise=timing.noise,
            confidence=timing.confidence,
            steal=timing.steal,
            threads=timing.threads,
            others=timing.load.others,
            interrupted=interrupted,
            left_out={name: str(error) for name, (_, error) in self._left_out.items()},
        )

    def _next(self, rng: np.random.Generator) -> Formats | None:
        """Return a plan that was not timed yet.

        The first is the best by prediction, the next the best by the corrected costs; after those,
        plans are the best by costs drawn from the posterior.
        """
        if self._new(self._found.formats):
            return self._found.formats
        budget = self._found.drop_budget
        for draw in range(DRAWS):
            cost = self._posterior.table(rng if draw else None)
            tables = replace(self._task.tables, cost=cost)
            solution = tables.within(
                self._task.max_drop if budget is None else budget,
                max_size=self._task.max_size,
                time_limit=self._task.time_limit,
            )
            formats = tables.formats(solution.choices)
            if self._new(formats):
                return formats
        return None

    def _new(self, formats: Formats) -> bool:
        """Whether the plan differs enough from every plan that was tried."""
        costs = self._task.tables.cost
        own = {
            (name, f): int(costs.cost[i, k])
            for i, name in enumerate(costs.layers)
            for k, f in enumerate(costs.formats)
        }
        least = DIFFERENT * costs.total(formats) * costs.per_unit
        known = [entry.formats for entry in self._entries.values()]
        known += [others for others, _ in self._left_out.values()]
        return all(
            sum(
                max(own[name, f], own[name, others[name]])
                for name, f in formats.items()
                if f != others[name]
            )
            >= least
            for others in known
        )

    def _compile(self, name: str, formats: Formats) -> bool:
        """Return whether a plan was compiled; if not, keep the error."""
        self._progress(STAGE, self._done, self.steps)
        self._done += 1
        try:
            self._entries[name] = _Entry(formats, self._bench.compile(formats))
        except RuntimeUnavailableError as error:
            self._left_out[name] = formats, error
        return name in self._entries

    def _time(self, names: Sequence[str], seconds: float) -> Comparison:
        """Time plans in turns, and keep their speed-ups over the first of them."""
        args, kwargs = call_arguments(self._bench.inputs)
        timing = compare_timing(
            {name: partial(self._entries[name].program, *args, **kwargs) for name in names},
            batch=self._bench.batch,
            min_seconds=seconds * len(names),
            max_seconds=PATIENCE * seconds * len(names),
            warmup_seconds=seconds / 3,
            threads=self._entries[names[0]].program.threads,
            seed=self._seed,
            clock=self._bench.clock,
        )
        for name in names:
            self._entries[name].timing = timing
            self._entries[name].against = names[0]
        return timing

    def _learn(self, name: str, seconds: float) -> None:
        entry = self._entries[name]
        assert entry.timing is not None
        error = max(entry.timing.noise / 2, LEAST_ERROR)
        seconds /= self._bench.share
        self._posterior.learn(entry.formats, seconds, error * seconds)

    def _mixed(self) -> list[str]:
        return [n for n, e in self._entries.items() if n not in self._uniform and e.timing]

    def _speedup(self, name: str) -> float:
        entry = self._entries[name]
        assert entry.timing is not None
        return entry.timing.speedup(name, entry.against).value

    def _verdict(self, name: str) -> Verdict:
        entry = self._entries[name]
        assert entry.timing is not None
        return entry.timing.verdict(name, entry.against)

    def _holds(self, formats: Formats) -> bool:
        """Whether a plan is within the budgets, by its measured drop if there is a meter."""
        task = self._task
        if task.max_size is not None and task.tables.size(formats) > task.max_size:
            return False
        if self._meter is None:
            return task.tables.predicted_drop(formats) <= task.max_drop
        return self._meter.accuracy(formats).drop_limit <= task.max_drop

    def _row(self, name: str, entry: _Entry) -> TimedPlan:
        assert entry.timing is not None
        seconds = entry.timing[name].seconds
        ratio = entry.timing.speedup(name, entry.against)
        names = [f.name for f in entry.formats.values()]
        known = None if self._meter is None else self._meter.known(entry.formats)
        return TimedPlan(
            name=name,
            layers={n: names.count(n) for n in dict.fromkeys(names)},
            predicted=self._task.tables.cost.total(entry.formats),
            seconds=seconds.value / self._bench.share,
            against=entry.against,
            speedup=ratio.value,
            low=ratio.low,
            high=ratio.high,
            verdict=str(entry.timing.verdict(name, entry.against)),
            drop_limit=None if known is None else known.drop_limit,
            mismatches=len(entry.program.mismatches),
        )
