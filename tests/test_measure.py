"""The stopwatch, driven by a clock of its own, so that nothing here depends on real time."""

import json
import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aiq import machine
from aiq.errors import InputError
from aiq.measure import Verdict, compare_timing


class FakeTime:
    """A clock that only candidates move forward."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def candidate(self, name: str, duration: Callable[[], float]) -> Callable[[], None]:
        def run() -> None:
            self.now += duration()
            self.order.append(name)

        return run


def timed(durations, **options):
    clock = FakeTime()
    candidates = {name: clock.candidate(name, d) for name, d in durations.items()}
    options = {"min_seconds": 0.5, "warmup_seconds": 0.1, **options}
    return compare_timing(candidates, clock=clock, **options), clock


def noisy(mean, relative, seed):
    rng = np.random.default_rng(seed)
    return lambda: mean * (1 + relative * rng.standard_normal() ** 2)


def test_constant_durations_are_read_off_exactly():
    result, _ = timed({"fp32": lambda: 0.004, "plan": lambda: 0.001}, batch=32)
    assert result["plan"].seconds.value == pytest.approx(0.001)
    assert result["plan"].throughput == pytest.approx(32_000)
    assert result.speedup("plan").value == pytest.approx(4)
    assert result.speedup("fp32", "plan").value == pytest.approx(0.25)
    assert result.noise == pytest.approx(0)
    assert result.verdict("plan") is Verdict.FASTER
    assert result.verdict("fp32", "plan") is Verdict.SLOWER
    assert result.verdict("fp32") is Verdict.INDISTINGUISHABLE


def test_a_difference_inside_the_noise_is_not_called_one():
    result, _ = timed(
        {"a": noisy(0.010, 0.2, 1), "b": noisy(0.0101, 0.2, 2)}, min_rounds=30, min_seconds=0
    )
    assert result.verdict("b") is Verdict.INDISTINGUISHABLE
    assert result.noise > 0


def test_a_difference_beyond_the_noise_is_called_one():
    result, _ = timed(
        {"a": noisy(0.010, 0.05, 1), "b": noisy(0.007, 0.05, 2)}, min_rounds=60, min_seconds=0
    )
    assert result.verdict("b") is Verdict.FASTER
    ratio = result.speedup("b")
    assert ratio.low < ratio.value < ratio.high


def test_a_machine_that_slows_down_hits_all_candidates_alike():
    clock = FakeTime()

    def drifting(base):
        return lambda: base * (1 + clock.now)  # twice as slow after a second

    candidates = {
        "a": clock.candidate("a", drifting(0.004)),
        "b": clock.candidate("b", drifting(0.002)),
    }
    result = compare_timing(candidates, clock=clock, min_seconds=2, warmup_seconds=0.1)
    assert result.speedup("b").value == pytest.approx(2, rel=0.05)
    assert max(result["a"].samples) > 2 * min(result["a"].samples)  # and no sample was dropped


def test_rounds_in_which_the_machine_is_slow_change_no_ratio_and_no_level():
    rng = np.random.default_rng(3)
    speeds = np.repeat(rng.uniform(1, 2, 200), 3 + 1)  # one for each round of turns of one call

    def on_a_shared_machine(mean):
        return lambda: mean * speeds[min(len(clock.order), len(speeds) - 1)]

    clock = FakeTime()
    candidates = {
        name: clock.candidate(name, on_a_shared_machine(mean))
        for name, mean in (("a", 0.10), ("b", 0.05), ("c", 0.20))
    }
    result = compare_timing(
        candidates, clock=clock, min_rounds=100, min_seconds=0, warmup_seconds=0
    )
    assert result.speedup("b").high - result.speedup("b").low < 0.1
    level = result.levelled()
    assert level["a"] / level["b"] == pytest.approx(2, rel=0.02)
    assert level["c"] / level["a"] == pytest.approx(2, rel=0.02)
    assert 0.10 < level["a"] < 0.20


def test_turns_are_interleaved_and_the_baseline_takes_two():
    result, clock = timed(
        {"a": lambda: 0.03, "b": lambda: 0.03}, min_rounds=40, min_seconds=0, warmup_seconds=0
    )
    measured = clock.order[-2 * 3 * 40 :]  # each turn: one call untimed, one timed
    rounds = [measured[i : i + 6] for i in range(0, len(measured), 6)]
    assert all(r.count("a") == 4 and r.count("b") == 2 for r in rounds)
    assert len({tuple(r) for r in rounds}) == 3  # every order occurs
    assert len(result["a"].samples) == len(result.again) == 40


def test_caches_are_filled_before_a_sample():
    clock = FakeTime()

    def after_others(name):
        def seconds():
            row = next((i for i, last in enumerate(reversed(clock.order)) if last != name), 99)
            return 0.002 * (1 + max(0, 8 - row) / 16)  # eight calls until it is as fast as alone

        return clock.candidate(name, seconds)

    candidates = {name: after_others(name) for name in "abc"}
    result = compare_timing(candidates, clock=clock, min_rounds=10, min_seconds=0)
    assert [result[name].seconds.value for name in "abc"] == pytest.approx([0.002] * 3)


def test_warm_up_waits_until_the_median_has_settled():
    calls = iter(range(10**6))
    result, _ = timed({"a": lambda: 0.1 if next(calls) < 15 else 0.01}, warmup_seconds=1)
    assert result["a"].steady
    assert max(result["a"].samples) == pytest.approx(0.01)


def test_what_never_settles_is_marked():
    clock = FakeTime()
    growing = clock.candidate("a", lambda: 0.001 + 0.05 * clock.now)
    result = compare_timing({"a": growing}, clock=clock, min_seconds=0.1, warmup_seconds=0.1)
    assert not result["a"].steady


def test_short_calls_are_timed_in_groups():
    result, _ = timed({"a": lambda: 2.0**-16})
    assert result["a"].calls_per_sample == 263  # four milliseconds
    assert result["a"].seconds.value == 2.0**-16


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(1e-3, 1e-2), min_size=20, max_size=20),
    st.lists(st.floats(1e-3, 1e-2), min_size=20, max_size=20),
)
def test_verdicts_are_antisymmetric_and_intervals_hold_their_value(first, second):
    series = {"a": iter(np.resize(first, 10**4)), "b": iter(np.resize(second, 10**4))}
    result, _ = timed(
        {name: lambda s=s: next(s) for name, s in series.items()},
        min_seconds=0,
        warmup_seconds=0,
    )
    opposite = {Verdict.FASTER: Verdict.SLOWER, Verdict.SLOWER: Verdict.FASTER}
    forth, back = result.verdict("a", "b"), result.verdict("b", "a")
    assert back is opposite.get(forth, forth)
    for interval in (result["a"].seconds, result.speedup("b")):
        assert interval.low <= interval.value <= interval.high
    assert result.noise >= 0


def test_latency_quantiles_and_json():
    result, _ = timed({"a": noisy(0.01, 0.3, 5)}, min_rounds=50)
    timing = result["a"]
    assert timing.latency(0.5) == pytest.approx(timing.seconds.value)
    assert timing.latency(0.99) >= timing.latency(0.95) >= timing.latency(0.5)
    document = json.loads(json.dumps(result.to_dict()))
    assert document["timings"][0]["samples"] == list(timing.samples)
    assert document["timings"][0]["verdict"] == "indistinguishable"
    assert document["machine"]["cpu"]


def test_the_same_samples_give_the_same_numbers():
    def once():
        document = timed({"a": noisy(0.01, 0.1, 1), "b": noisy(0.02, 0.1, 2)})[0].to_dict()
        of_the_machine = {"machine", "load", "steal"}  # no seed fixes what others do meanwhile
        return {k: v for k, v in document.items() if k not in of_the_machine}

    assert once() == once()


@pytest.mark.parametrize(
    ("candidates", "options", "says"),
    [
        ({}, {}, "nothing to time"),
        ({"a": lambda: 0.01}, {"baseline": "b"}, "not a candidate"),
        ({"a": lambda: 0.01}, {"confidence": 1.5}, "between 0 and 1"),
        ({"a": lambda: 0.01}, {"min_rounds": 1}, "at least two rounds"),
        ({"a": lambda: 0.01}, {"threads": 10_000}, "this process may use"),
        ({"a": lambda: 0.01}, {"threads": 0}, "this process may use"),
    ],
)
def test_bad_input(candidates, options, says):
    with pytest.raises(InputError, match=says):
        timed(candidates, **options)


def test_unknown_candidate_of_a_result():
    with pytest.raises(InputError, match="choose one of a"):
        timed({"a": lambda: 0.01})[0].verdict("b")


def test_threads_and_affinity_are_restored():
    before, affinity = torch.get_num_threads(), os.sched_getaffinity(0)
    with machine.threads(1) as used:
        assert used == torch.get_num_threads() == 1
        assert len(os.sched_getaffinity(0)) == 1
    assert torch.get_num_threads() == before
    assert os.sched_getaffinity(0) == affinity


@pytest.mark.skipif(len(machine.processors()) < 2, reason="needs two processors")
def test_one_thread_stays_where_it_runs_so_that_two_processes_share_no_processor(monkeypatch):
    usable = machine.processors()
    before = os.sched_getaffinity(0)
    for cpu in usable:
        os.sched_setaffinity(0, {cpu})
        try:
            assert machine._processor() == cpu
        finally:
            os.sched_setaffinity(0, before)
        monkeypatch.setattr(machine, "_processor", lambda cpu=cpu: cpu)
        with machine.threads(1):
            assert os.sched_getaffinity(0) == {cpu}
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("count", "current", "expected"),
    [
        (1, 6, [6]), (1, 2, [2]), (2, 2, [2, 3]), (2, 3, [3, 2]), (2, 5, [5, 6]), (2, 7, [5, 6]),
        (3, 6, [2, 3, 5]), (5, 7, [7, 2, 3, 5, 6]), (2, 1, [2, 3]), (2, None, [2, 3]),
    ],
)  # fmt: skip
def test_threads_run_in_a_block_of_processors_with_the_current_one(
    count, current, expected, monkeypatch
):
    monkeypatch.setattr(machine, "processors", lambda: [2, 3, 5, 6, 7])
    monkeypatch.setattr(machine, "_processor", lambda: current)
    assert machine.near_processors(count) == expected


def test_steal_is_a_share_of_the_time_that_passed():
    assert machine.steal(machine.Ticks(1000, 10), machine.Ticks(1200, 60)) == 0.25
    assert machine.steal(None, machine.Ticks(1, 1)) is None
    assert machine.steal(machine.Ticks(5, 1), machine.Ticks(5, 1)) is None


def test_peak_memory_sees_what_a_call_holds():
    small, large = (
        machine.peak_memory(lambda n=n: np.ones(n, dtype=np.uint8).sum())
        for n in (1_000, 200_000_000)
    )
    assert small is not None
    assert large is not None
    assert large - small > 150_000_000


def test_limits_on_the_instruction_sets_make_another_machine(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    before = machine.describe()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert machine.describe() == {**before, "limits": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}


def test_the_machine_is_described():
    described = machine.describe()
    assert described["cores"] >= 1
    assert described["packages"]["torch"] == torch.__version__.split("+")[0]
    assert json.dumps(described)
