"""What is kept by default, and what another search takes from it."""

import os
import time
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import aiq
from aiq import cache, calibrate, machine
from aiq.cli import app
from aiq.errors import BusyMachineError, InputError
from aiq.evaluate import Evaluator
from aiq.evaluate.runner import Runner
from aiq.hardware import Hardware

X = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def data():
    return [(X, net()(X).argmax(1))]


@pytest.fixture
def runs(monkeypatch):
    """Count the chunks that are really run."""
    count = [0]
    real = Runner.run

    def run(self, *arguments, **named):
        count[0] += 1
        return real(self, *arguments, **named)

    monkeypatch.setattr(Runner, "run", run)
    return count


def search(max_drop=0.2, **options):
    options = {
        "formats": "fp32,w8a8,w4a4,w2a2",
        "objective": "intensity",
        "confidence": 0.5,
    } | options
    return aiq.search(net(), "xeon_2vcpu_roofs", data(), max_drop=max_drop, **options)


def test_another_budget_evaluates_only_what_is_new(runs):
    first = search(max_drop=0.05)
    took, runs[0] = runs[0], 0
    again = search(max_drop=0.05)
    assert runs[0] == 0
    assert again.formats == first.formats
    search(max_drop=0.03)
    assert runs[0] < took / 2


def test_nothing_is_kept_where_that_is_asked(runs):
    search(cache=False)
    took, runs[0] = runs[0], 0
    search(cache=False)
    assert runs[0] == took
    assert not list(cache.folder(cache.EVALUATIONS).glob("*"))


def test_an_own_metric_is_not_kept_by_default(runs, tmp_path):
    def metric(output, targets):
        return (output.argmax(1) == targets).double()

    search(metric=metric)
    assert not list(cache.folder(cache.EVALUATIONS).glob("*"))
    search(metric=metric, cache=tmp_path / "own")
    assert list((tmp_path / "own").glob("*.sqlite"))


def test_estimates_are_kept(runs, monkeypatch):
    options = {"sensitivity": "kl", "max_drop": 0.05}
    first = search(**options)
    monkeypatch.setattr(
        "aiq.sensitivity.estimate", lambda *_, **__: pytest.fail("it was estimated again")
    )
    assert search(**options).formats == first.formats
    with pytest.raises(pytest.fail.Exception):
        search(seed=1, **options)


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AIQ_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="Nothing is kept"):
        search()


def test_a_damaged_file_is_a_warning():
    search()
    for path in cache.folder(cache.EVALUATIONS).glob("*"):
        path.unlink()
        path.write_bytes(b"no database" * 1000)
    with pytest.warns(UserWarning, match="not kept any more.*aiq cache clear"):
        assert search().accuracy is not None


def test_a_wrong_cache_is_refused():
    with pytest.raises(InputError, match="cache is 3"):
        search(cache=3)


def test_the_least_recently_used_go_first():
    folder = cache.folder(cache.EVALUATIONS)
    folder.mkdir(parents=True)
    now = time.time()
    for name, age in (("old", 9), ("older", 10), ("new", 0)):
        for ending in (".sqlite", ".sqlite-wal"):
            path = folder / f"{name}{ending}"
            path.write_bytes(b"x" * 500)
            os.utime(path, (now, now - age * 86400))
    cache.trim(2000)
    assert {path.stem for path in folder.glob("*.sqlite")} == {"old", "new"}
    assert not (folder / "older.sqlite-wal").exists()
    cache.trim(0)  # a file that was used within the hour stays
    assert {path.stem for path in folder.glob("*.sqlite")} == {"new"}


def test_the_command_shows_and_empties():
    search()
    shown = CliRunner().invoke(app, ["cache"], catch_exceptions=False)
    assert str(cache.root()) in shown.stdout.replace("\n", "")
    assert cache.usage()[0].files > 0
    CliRunner().invoke(app, ["cache", "clear"], catch_exceptions=False)
    assert all(kept.files == 0 for kept in cache.usage())


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """A machine of which there is no profile; counts how often it is measured, and calibrated."""
    count, calibrated = [0], []
    described = machine.describe() | {"cpu": "abacus", "cpu_id": "1.2"}
    monkeypatch.setattr(machine, "describe", lambda: described)
    roofs = {
        "threads": 1,
        "peaks": {"fp32": 50.0, "bf16": 70.0, "int8": 99.0},
        "kib": [64, 1024, 65536],
        "gbps": [90, 60, 9],
    }

    def measured(threads, report):
        count[0] += 1
        return {**roofs, "threads": threads}

    def brief(runtime, hardware, progress):
        calibrated.append(runtime)
        section = Hardware.load("epyc_zen4_2vcpu").runtimes["openvino"]
        own = replace(section, name=runtime)
        return replace(hardware, runtimes={**hardware.runtimes, runtime: own})

    monkeypatch.setattr("aiq.calibrate.this_machine._roofs", measured)
    monkeypatch.setattr("aiq.calibrate.choice.brief", brief)
    return count, calibrated


def test_a_machine_and_each_runtime_are_calibrated_once(elsewhere):
    roofs, calibrated = elsewhere
    first = calibrate.choose("auto", "inductor")
    assert "inductor was calibrated briefly now (mean error" in first.reason
    assert "`aiq calibrate --runtime inductor` does it better" in first.reason
    assert calibrate.choose("auto", "inductor").hardware == first.hardware
    both = calibrate.choose("auto", "eager").hardware
    assert sorted(both.runtimes) == ["eager", "inductor"]
    assert calibrate.choose("auto", "inductor").hardware == both
    assert (roofs, calibrated) == ([1], ["inductor", "eager"])
    plan = aiq.search(net(), data=data(), runtime="inductor", max_drop=1.0)
    assert plan.predicted.level == "calibrated"


def test_no_runtime_is_calibrated_that_is_not_there_or_not_needed(elsewhere, monkeypatch):
    monkeypatch.setattr("aiq.runtimes.available", lambda: ("eager",))
    plan = aiq.search(net(), data=data(), runtime="inductor")
    assert plan.predicted.level == "roofline"
    aiq.search(net(), data=data(), runtime="eager", objective="intensity", formats="fp32,w8a8")
    calibrate.choose("auto", "abacus")
    assert elsewhere == ([1], [])


def test_a_machine_too_busy_to_calibrate_gives_its_peaks_and_tries_again(elsewhere, monkeypatch):
    roofs, calibrated = elsewhere

    def busy(runtime, hardware, progress):
        calibrated.append(runtime)
        raise BusyMachineError("The machine is busy.")

    monkeypatch.setattr("aiq.calibrate.choice.brief", busy)
    for _ in range(2):
        found = calibrate.choose("auto", "eager")
        assert not found.hardware.runtimes
        assert "too busy to calibrate eager" in found.reason
    assert (roofs, calibrated) == ([1], ["eager", "eager"])


def test_a_machine_is_measured_once(elsewhere, monkeypatch):
    monkeypatch.setattr("aiq.runtimes.available", lambda: ())
    first, second = calibrate.choose("auto"), calibrate.choose("auto")
    assert elsewhere == ([1], [])
    assert second.hardware == first.hardware
    assert "kept in" in first.reason
    assert str(calibrate.own_path(first.hardware.threads)) in second.reason
    plan = aiq.search(net(), data=data())
    assert plan.hardware == first.hardware.name
    assert plan.provenance["profile"] == second.reason
    assert f"  machine     {second.reason}"[:60] in str(plan)
    assert aiq.Hardware.load(plan.hardware) == first.hardware


def test_a_profile_of_another_machine_is_not_this_machine(elsewhere):
    here = machine.describe()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = calibrate.choose("auto")
    assert machine.differences(found.hardware.measured_on) == []
    for change in ({"cpu": "x"}, {"isa": ["avx2"]}, {"cpu_id": "9.9"}, {"limits": {"A": "B"}}):
        assert machine.differences({**here, **change}) in (["cpu"], ["isa"], ["limits"])
    without = {key: value for key, value in here.items() if key != "cpu_id"}
    assert machine.differences(without) == []


def test_a_profile_of_more_threads_is_not_this_machine(elsewhere, monkeypatch):
    first = calibrate.choose("auto")
    monkeypatch.setattr(machine, "processors", lambda: [0])
    second = calibrate.choose("auto")
    assert (first.hardware.threads == second.hardware.threads) == (elsewhere[0] == [1])


def test_a_profile_that_is_named_needs_no_reason():
    assert calibrate.choose("t4").reason == ""


def test_an_evaluator_keeps_only_what_is_asked():
    assert Evaluator(net(), data()).folder is None
