"""Whether the machine is quiet: what is read, waited for, and refused."""

import time

import pytest

from aiq import calibrate, machine, measure, quiet
from aiq.errors import BusyMachineError, HardwareError
from aiq.hardware import parse_profile
from aiq.quiet import Load

PROFILE = """
schema: aiq/hw-profile/v1
name: toy
description: toy
provenance:
  method: measured
  date: 2026-01-31
  sources: [none]
  machine: {cpu: toy, isa: [avx2, avx512f, avx512_vnni]}
threads: 2
compute: {fp32: {peak_gflops: 100}, int8: {peak_gflops: 400}}
memory: [{level: L1, size_kib: 64, read_gbps: 90}, {level: DRAM, size_kib: 1e6, read_gbps: 9}]
parallel_efficiency: {fp32: 0.9}
"""
ROOFS = {"threads": 1, "peaks": {"fp32": 50.0}, "kib": [64, 1024, 65536], "gbps": [90, 60, 9]}


@pytest.fixture(autouse=True)
def most(monkeypatch):
    monkeypatch.setattr(quiet, "MOST", 0.1)
    monkeypatch.setattr(quiet, "PATIENCE", 0.0)


@pytest.fixture
def loads(monkeypatch):
    """The shares that others take, one for each time it is read; the last one from then on."""
    shares = [0.0]

    def watch():
        return lambda: Load(shares.pop(0) if len(shares) > 1 else shares[0], 1.0)

    monkeypatch.setattr(quiet, "watch", watch)
    monkeypatch.setattr("aiq.calibrate.this_machine._roofs", lambda threads, report: {**ROOFS})
    return shares


def test_own_work_is_no_load_of_others():
    watched = quiet.watch()
    start = time.process_time()
    while time.process_time() - start < 0.2:
        pass
    load = watched()
    assert 0 < load.own <= 1.5
    assert load.others is None or 0 <= load.others <= 1


def test_load_is_what_others_took(monkeypatch):
    ticks = iter([quiet._Ticks(0, 5, 20, 1, 0), quiet._Ticks(10, 21, 40, 11, 0)])
    monkeypatch.setattr(quiet, "_ticks", lambda: next(ticks))
    load = quiet.watch()()
    assert load.others == pytest.approx((16 - 10) / 20)
    assert load.own == 1
    assert load.busy
    assert "30 %" in str(load)


def test_a_quota_counts_as_others(monkeypatch):
    ticks = iter([quiet._Ticks(0, 0, 0, 0, 0), quiet._Ticks(10, 10, 20, 10, 5)])
    monkeypatch.setattr(quiet, "_ticks", lambda: next(ticks))
    assert quiet.watch()().others == pytest.approx(0.5)


def test_a_machine_that_does_not_report_is_not_called_busy(monkeypatch):
    monkeypatch.setattr(quiet, "_processors", lambda: (0.0, 0.0))
    load = quiet.watch()()
    assert load.others is None
    assert not load.busy


def test_it_is_waited_for_a_quiet_machine(loads, monkeypatch):
    loads[:] = [0.9, 0.9, 0.05]
    monkeypatch.setattr(quiet, "PATIENCE", 60.0)
    seen = []
    assert quiet.wait(lambda *event: seen.append(event[0])).others == 0.05
    assert seen == ["wait for a quiet machine"] * 2


def test_a_busy_machine_is_not_calibrated(loads):
    loads[:] = [0.9]
    with pytest.raises(BusyMachineError, match=r"took 90 % .* force=True \(--force\)"):
        calibrate.quick()
    with pytest.raises(BusyMachineError):
        calibrate.compare_roofs(
            parse_profile(PROFILE.replace("threads: 2", "threads: 1"), "toy.yaml")
        )
    with pytest.raises(BusyMachineError):
        calibrate.calibrate("eager", threads=1)
    forced = calibrate.quick(force=True)
    assert "although other processes took 90%" in " ".join(forced.provenance["sources"])


def test_a_machine_that_becomes_busy_is_not_calibrated(loads):
    loads[:] = [0.0, 0.5]
    with pytest.raises(BusyMachineError):
        calibrate.quick()


def test_a_stopwatch_says_what_others_took(loads):
    loads[:] = [0.4]
    found = measure.compare_timing(
        {"a": lambda: time.sleep(1e-4)}, min_seconds=0.01, min_rounds=2, warmup_seconds=0.0
    )
    assert found.load.busy
    assert found.to_dict()["load"]["others"] == 0.4


def test_caches_are_those_of_all_threads():
    found = machine.caches()
    sizes = list(found.values())
    assert sizes == sorted(sizes)
    assert all(size >= 8 for size in sizes)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("peak_gflops: 400", "peak_gflops: 5500", "int8.peak_gflops is 55 .* at most 10"),
        ("peak_gflops: 400", "peak_gflops: 7", "int8.peak_gflops is 0.07 .* expected more"),
        ("avx512_vnni]", "avx512_fp16]", "at most 5"),
        ("read_gbps: 9}", "read_gbps: 0.1}", "FLOP per byte"),
        ("read_gbps: 90}", "read_gbps: 9000}", "times that of the farthest|a thread"),
        ("fp32: 0.9", "fp32: 1.6", "parallel_efficiency.fp32 is 1.6"),
    ],
)
def test_a_profile_that_no_hardware_can_have_is_refused(old, new, words):
    parse_profile(PROFILE, "toy.yaml")
    text = PROFILE.replace("400", "510") if new.startswith("avx") else PROFILE
    with pytest.raises(HardwareError, match=words):
        parse_profile(text.replace(old, new), "toy.yaml")
