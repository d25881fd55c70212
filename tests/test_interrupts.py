"""Ctrl-C and SIGTERM: what was evaluated is kept, and the best plan so far comes out."""

import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import aiq
from aiq import calibrate
from aiq.calibrate import programs
from aiq.cli import app, signals
from aiq.errors import Interrupted
from aiq.evaluate.journal import Journal
from aiq.planning.accuracy import AccuracyMeter
from aiq.planning.loop import _Loop

NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(),
        nn.Linear(8, 4, bias=False),
    )

def loader():
    torch.manual_seed(1)
    x = torch.randn(200, 16)
    return [(x, net().eval()(x).argmax(1))]
"""
SEARCH = ["search", "mynet:net", "--hw", "xeon_2vcpu_roofs", "--input", "1x16"]
SEARCH += ["--data", "mynet:loader", "--max-drop", "0.18"]
SEARCH += ["--objective", "intensity", "--formats", "fp32,w8a8,w4a4,w2a2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mynet.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("AIQ_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    sys.modules.pop("mynet", None)


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def caught(request):
    """A signal, as the command line takes it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    signals.catch()
    yield request.param
    for number, handler in before.items():
        signal.signal(number, handler)


def after(monkeypatch, owner, name, calls, number):
    """Send this process a signal in the call of a function that comes after so many."""
    real, seen = getattr(owner, name), []

    def patched(*args, **kwargs):
        seen.append(1)
        if len(seen) == calls + 1:
            signal.raise_signal(number)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, patched)


def run(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["aiq", *arguments])
    return CliRunner().invoke(app, arguments)


def test_a_stopped_search_keeps_evaluations_and_shows_the_best_plan(folder, monkeypatch, caught):
    after(monkeypatch, _Loop, "_gain", 0, caught)  # a plan was within the budget
    stopped = run([*SEARCH, "--json", "-o", "plan.json"], monkeypatch)
    assert stopped.exit_code == 130
    plan = json.loads(stopped.stdout)
    assert plan["proof"]["status"] == "interrupted"
    assert plan["accuracy"] is not None
    assert not (folder / "plan.json").exists()
    assert "evaluations are kept in" in stopped.stderr
    assert f"To go on: aiq {shlex.join(SEARCH)} --json -o plan.json" in stopped.stderr


def test_a_search_goes_on_where_it_was_stopped(folder, monkeypatch, caught):
    # Estimated sensitivities are a file of their own, which does not count as evaluations.
    search = [*SEARCH, "--sensitivity", "measured"]
    whole = run([*search, "--json", "--cache", "other"], monkeypatch)
    assert whole.exit_code == 0, whole.stderr
    with monkeypatch.context() as patch:
        after(patch, Journal, "put", 6, caught)
        stopped = run([*search, "--json"], patch)
    assert stopped.exit_code == 130
    assert stopped.stdout == ""
    assert "no plan yet" in stopped.stderr
    put, real = [], Journal.put

    def counted(self, *record):
        put.append(record)
        real(self, *record)

    monkeypatch.setattr(Journal, "put", counted)
    again = run([*search, "--json"], monkeypatch)
    first, second = json.loads(whole.stdout), json.loads(again.stdout)
    assert second["layers"] == first["layers"]
    assert second["evaluations"] == first["evaluations"]
    (journal,) = (folder / "other").glob("*.sqlite")
    assert len(put) == records(journal) - 6


def records(path):
    with sqlite3.connect(path) as connection:
        return connection.execute("SELECT count(*) FROM scores").fetchone()[0]


def test_a_stopped_sensitivity_keeps_evaluations(folder, monkeypatch, caught):
    after(monkeypatch, Journal, "put", 5, caught)
    command = ["sensitivity", "mynet:net", "--data", "mynet:loader"]
    stopped = run(command, monkeypatch)
    assert stopped.exit_code == 130
    assert "all that was evaluated is kept" in stopped.stderr
    (journal,) = (folder / "cache" / "evaluations").glob("*.sqlite")
    assert records(journal) == 5


def test_without_a_cache_folder_a_search_still_runs(folder, monkeypatch):
    (folder / "cache").write_text("a file")
    done = run(SEARCH, monkeypatch)
    assert done.exit_code == 0
    assert "cache folder cannot be written" in " ".join(done.stderr.split())


def test_the_exception_carries_the_plan(monkeypatch, tmp_path):
    x, _ = batch_of(16)
    model = nn.Sequential(nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False))
    data = [(x, model(x).argmax(1))]  # the cheapest plan of all is wrong too often
    arguments = {
        "hw": "xeon_2vcpu_roofs",
        "data": data,
        "formats": "fp32,w8a8,w2a2",
        "max_drop": 0.1,
    }
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            after(patch, _Loop, "measure", 0, signal.SIGINT)
            with pytest.raises(Interrupted, match="not measured") as stop:
                aiq.search(model, **arguments)
        assert isinstance(stop.value.plan, aiq.Plan)
        assert stop.value.plan.accuracy is None
        with monkeypatch.context() as patch:
            after(patch, Journal, "put", 1, signal.SIGINT)
            with pytest.raises(KeyboardInterrupt, match=f"kept in {tmp_path}") as stop:
                aiq.search(model, **arguments, cache=tmp_path)
        assert stop.value.plan is None
    finally:
        signal.signal(signal.SIGINT, before)


def batch_of(width):
    torch.manual_seed(0)
    return torch.randn(64, width), torch.arange(64) % 4


@pytest.mark.parametrize("method", ["greedy", "coordinate"])
def test_a_stopped_walk_has_the_best_plan_it_measured(monkeypatch, method):
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        after(monkeypatch, AccuracyMeter, "accuracy", 3, signal.SIGINT)
        with pytest.raises(Interrupted, match="of those measured") as stop:
            aiq.search(
                model,
                "xeon_2vcpu_roofs",
                [batch_of(16)],
                formats="fp32,w8a8",
                method=method,
                max_drop=0.9,
                confidence=0.5,
            )
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.value.plan.accuracy is not None


def test_a_stopped_calibration_keeps_its_samples(monkeypatch, tmp_path):
    roofs = {"threads": 1, "peaks": {"fp32": 50.0}, "kib": [64, 1024, 65536], "gbps": [90, 60, 9]}
    monkeypatch.setattr("aiq.calibrate.calibration.roofs_by_threads", lambda threads, report: roofs)
    monkeypatch.setattr(programs, "samples", stop_at_once)
    path = tmp_path / "times.json"
    with pytest.raises(Interrupted, match=r"0 times are kept in .*times.json"):
        calibrate.calibrate("eager", threads=1, samples=path, count=1)
    assert json.loads(path.read_text())["values"]["roofs"]["peaks"] == {"fp32": 50.0}


def stop_at_once(*arguments, **named):
    raise KeyboardInterrupt


CHILD = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from aiq.cli import main, search
real = search.run_search
def slow(*args, **kwargs):
    try:
        print("ready", flush=True)  # within: the signal may come before the next line
        time.sleep(60)
    finally:
        if os.environ.get("STUCK"):
            print("stopping", flush=True)
            time.sleep(60)
search.run_search = slow
sys.argv = ["aiq", *sys.argv[1:]]
main()
"""


def test_the_first_signal_ends_in_order_and_the_second_at_once(folder):
    def start(**environment):
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, *SEARCH],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | environment,
        )

    orderly, stuck = start(), start(STUCK="1")
    for process, number in ((orderly, signal.SIGTERM), (stuck, signal.SIGINT)):
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
    _, told = orderly.communicate(timeout=60)
    assert orderly.returncode == 130
    assert "interrupted" in told
    assert "Traceback" not in told
    assert stuck.stdout.readline() == "stopping\n"
    stuck.send_signal(signal.SIGINT)
    stuck.communicate(timeout=60)
    assert stuck.returncode == -signal.SIGINT
    assert not list(Path(folder).glob("*.json"))


COMPILES_TWO = """
import signal
import torch
from aiq import runtimes

x = torch.zeros(1, 4)
engine = runtimes.get("openvino")
programs = [engine.compile(torch.nn.Linear(4, 2).eval(), x, {}) for _ in range(2)]
while programs:
    programs.pop(0)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("stopped")
"""


def test_ctrl_c_reaches_a_process_whose_openvino_programs_are_gone():
    child = [sys.executable, "-c", COMPILES_TWO]
    done = subprocess.run(child, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr
