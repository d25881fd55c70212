"""Executors: whoever runs the chunks, the results are equal."""

import os
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import dying
import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import aiq
from aiq import graph
from aiq.cli import app
from aiq.cli import search as search_command
from aiq.errors import DataError, InputError
from aiq.evaluate import Evaluator, remote
from aiq.evaluate.executor import opened
from aiq.evaluate.remote import Arithmetic
from aiq.formats import parse


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).eval()


@pytest.fixture(scope="module")
def net(model, data):
    return graph.trace(model, data[0][0])  # traced once for all tests


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 2, 8, 8, generator=generator), torch.arange(n) % 3) for n in (70, 30, 11)
    ]


PLANS = [
    {},
    {"5": parse("w2")},
    {"0": parse("w4a4"), "2": parse("w3")},
    dict.fromkeys(("0", "2", "5"), parse("w2a2")),
]


def evaluations(net, data, executor, **options):
    evaluator = Evaluator(net, data, memory=20_000, executor=executor, **options)
    assert evaluator.chunks > 3
    single = [evaluator.evaluate(plan) for plan in PLANS]
    many = evaluator.evaluate_many(PLANS)
    part = evaluator.evaluate(PLANS[-1], lambda e: e.samples > 30)
    parts = evaluator.evaluate_many(PLANS, lambda e: e.samples > 30)
    assert all(e.samples < 111 for e in (part, *parts))
    return [*single, *many, part, *parts]


def same(one, other):
    fields = ("scores", "baseline", "divergence")
    return all(np.array_equal(getattr(one, f), getattr(other, f)) for f in fields)


@pytest.fixture(scope="module")
def expected(net, data):
    return evaluations(net, data, None)


def test_threads(net, data, expected):
    with ThreadPoolExecutor(3) as executor:
        found = evaluations(net, data, executor, metric=lambda y, t: (y.argmax(1) == t).double())
    assert all(map(same, found, expected))


class Backwards(Executor):
    """Runs the last of the tasks that wait, in this process; every third one is `disturbed`."""

    _max_workers = 3

    def __init__(self, disturbed=None):
        self.waiting, self.thread, self.count = [], ThreadPoolExecutor(1), 0
        self.disturbed, self.payloads = disturbed, 0

    def submit(self, function, /, *arguments):
        self.payloads += arguments[1] is not None
        future = Future()
        self.waiting.append((future, function, arguments))
        self.thread.submit(self.run)
        return future

    def run(self):
        time.sleep(0.001)  # so that others wait
        future, function, arguments = self.waiting.pop()
        if not future.set_running_or_notify_cancel():
            return
        self.count += 1
        try:
            if self.disturbed is not None and self.count % 3 == 0:
                self.disturbed()
            future.set_result(function(*arguments))
        except BrokenExecutor as error:
            future.set_exception(error)


def test_in_any_order(net, data, expected):
    executor = Backwards()
    assert all(map(same, evaluations(net, data, executor), expected))
    assert 3 <= executor.payloads <= 9, "once for each worker, and for tasks that came too early"
    assert executor.count > 30


def test_workers_that_forget_the_model(net, data, expected):
    executor = Backwards(remote._KEPT.clear)
    assert all(map(same, evaluations(net, data, executor), expected))
    assert 3 < executor.payloads < executor.count


def die():
    raise BrokenExecutor("a worker ended")


def test_tasks_of_dead_workers_are_run_again(net, data, expected, tmp_path):
    with pytest.warns(UserWarning, match=r"failed \(BrokenExecutor: a worker ended\); its tasks"):
        found = evaluations(net, data, Backwards(die), cache=tmp_path)
    assert all(map(same, found, expected))
    with warnings.catch_warnings(action="error"):  # nothing is missing, so nothing is run
        assert all(map(same, evaluations(net, data, Dead(), cache=tmp_path), expected))


class Dead(Executor):
    def submit(self, function, /, *arguments):
        die()


def test_this_process_goes_on_where_the_executor_ends(net, data, expected):
    with pytest.warns(UserWarning, match="takes no more tasks .* this process runs the rest"):
        found = evaluations(net, data, Dead())
    assert all(map(same, found, expected))


def test_a_pool_that_breaks_at_once(net, data):
    with (
        ProcessPoolExecutor(1, get_context("spawn"), initializer=os._exit, initargs=(1,)) as pool,
        pytest.warns(UserWarning, match="BrokenProcessPool"),
    ):
        evaluator = Evaluator(net, data, executor=pool)
    assert same(evaluator.baseline, Evaluator(net, data).baseline)


@pytest.fixture(scope="module")
def deadly(tmp_path_factory):
    """Name the file whose existence kills the next worker that computes a metric."""
    path = tmp_path_factory.mktemp("deadly") / "dies"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIQ_TEST_DIES", str(path))
        yield path


@pytest.fixture(scope="module")
def processes(deadly):
    with opened(1) as executor:
        yield executor


@pytest.fixture(scope="module")
def dask(deadly):
    """Yield the client of a cluster of two worker processes of this machine."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


EXECUTORS = ["processes", "dask"]


@pytest.mark.parametrize("kind", EXECUTORS)
def test_other_processes(kind, net, data, expected, tmp_path, request):
    executor = request.getfixturevalue(kind)
    found = evaluations(net, data, executor, cache=tmp_path)
    assert all(map(same, found, expected))
    here = evaluations(net, data, Dead(), cache=tmp_path)
    assert all(map(same, here, expected)), "one journal serves all"


def test_a_search_on_a_cluster(model, data, dask):
    options = {"max_drop": 0.05, "confidence": 0.5, "formats": "fp32,w2a2,w8a8", "runtime": None}
    options |= {"objective": "intensity", "frontier": True, "cache": False, "progress": None}
    options |= {"sensitivity": "measured"}
    plan = aiq.search(model, "xeon_2vcpu_roofs", data, executor=dask, **options)
    alone = aiq.search(model, "xeon_2vcpu_roofs", data, **options)
    assert plan.accuracy == alone.accuracy
    assert plan.layers == alone.layers
    assert plan.tables == alone.tables  # with the sensitivities


@pytest.mark.parametrize("kind", EXECUTORS)
def test_workers_take_over_the_number_of_threads(kind, net, data, request):
    executor, threads = request.getfixturevalue(kind), torch.get_num_threads()
    few = [(x[:4], y[:4]) for x, y in data[:1]]
    torch.set_num_threads(threads + 1)
    try:
        found = Evaluator(net, few, metric=dying.threads, executor=executor)
    finally:
        torch.set_num_threads(threads)
    assert found.baseline.scores.tolist() == [threads + 1] * 4


@pytest.mark.filterwarnings("ignore:A worker of the executor failed")
@pytest.mark.parametrize("kind", EXECUTORS)
def test_a_worker_that_is_killed_loses_nothing(kind, net, data, deadly, request):
    executor = request.getfixturevalue(kind)
    metric = dying.right_answers
    expected = evaluations(net, data, None, metric=metric)
    evaluator = Evaluator(net, data, memory=20_000, executor=executor, metric=metric)
    deadly.touch()
    found = evaluator.evaluate_many(PLANS)
    assert not deadly.exists(), "a worker died"
    assert all(map(same, found, expected[len(PLANS) :]))


PARENT = """
import os, time
from aiq.evaluate.processes import Processes

if __name__ == "__main__":
    print(Processes(1).submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_processes_end_with_one_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while runs(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(worker)


def runs(process):
    """Return whether a process runs; one that ended may still be listed as a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_errors_of_workers_arrive(net, data):
    x, y = data[0]
    with ThreadPoolExecutor(2) as executor, pytest.raises(DataError, match="NaN or infinite"):
        Evaluator(net, [(x * 1e30 * 1e9, y)], calibration=[x], executor=executor)


def test_the_executor_stays_open(net, data):
    with ThreadPoolExecutor(1) as executor:
        Evaluator(net, data, executor=executor)
        assert executor.submit(threading.get_ident).result()


@pytest.mark.parametrize("fact", [*Arithmetic.here().facts])
def test_other_machines_are_refused(fact):
    here = Arithmetic.here()
    here.adopt()
    other = replace(here, facts={**here.facts, fact: "another"})
    with pytest.raises(InputError, match=f"A worker has the {fact} .* and the process that asks"):
        other.adopt()


def test_what_cannot_be_pickled(net, data):
    lock = threading.Lock()

    def metric(output, targets):
        with lock:
            return dying.right_answers(output, targets)

    with (
        opened(2) as executor,
        pytest.raises(InputError, match=r"cannot be sent to the workers .* top level of a module"),
    ):
        Evaluator(net, data, metric=metric, executor=executor)


class Strange:
    def submit(self, function, /, *arguments):
        return "a future"


@pytest.mark.parametrize("executor", [0, -1, True, "dask", 2.0])
def test_what_is_no_executor(model, data, executor):
    with pytest.raises(InputError, match=r"executor is .*; give a number of processes"):
        aiq.search(model, "xeon_2vcpu_roofs", data, executor=executor, progress=None)


def test_a_submit_without_futures(net, data):
    with pytest.raises(InputError, match="executor is Strange, whose submit returns no future"):
        Evaluator(net, data, executor=Strange())


def test_asynchronous_clients_are_refused(net, data):
    class Client:
        asynchronous = True
        submit = get_executor = nthreads = scatter = die

    with pytest.raises(InputError, match="asynchronous client of Dask"):
        Evaluator(net, data, executor=Client())


@pytest.mark.parametrize(
    ("nthreads", "said"),
    [(dict, "has no workers; start some"), (die, "does not reach its scheduler .*a worker ended")],
)
def test_clients_without_a_cluster_are_refused(nthreads, said, net, data):
    class Client:
        asynchronous = False
        submit = get_executor = scatter = die

    Client.nthreads = staticmethod(nthreads)
    with pytest.raises(InputError, match=said):
        Evaluator(net, data, executor=Client())


def test_the_command_line_takes_a_number_of_processes(monkeypatch):
    given = {}

    def search(*arguments, **options):
        given.update(options)
        raise InputError("This is far enough.")

    monkeypatch.setattr(search_command, "run_search", search)
    command = ["search", "resnet20", "--hw", "xeon_2vcpu", "--data", "sample", "--no-cache"]
    CliRunner().invoke(app, [*command, "--workers", "3"])
    assert given["executor"] == 3
    assert CliRunner().invoke(app, [*command, "--workers", "0"]).exit_code == 2
