"""Executors: whoever runs the chunks, the results are equal."""

import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torch import nn

import aiq
from aiq.errors import DataError
from aiq.evaluate import Evaluator
from aiq.formats import parse


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).eval()


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
    assert part.samples < 111
    return [*single, *many, part]


def same(one, other):
    fields = ("scores", "baseline", "divergence")
    return all(np.array_equal(getattr(one, f), getattr(other, f)) for f in fields)


@pytest.fixture(scope="module")
def expected(net, data):
    return evaluations(net, data, None)


class Backwards(Executor):
    """Runs what it is given when the first result is asked for, last task first."""

    def __init__(self):
        self.waiting = []

    def submit(self, function, /, *arguments, **options):
        executor = self

        class Lazy(Future):
            def result(self, timeout=None):
                while executor.waiting:
                    future, call = executor.waiting.pop()
                    if not future.cancelled():
                        future.set_result(call())
                return super().result(timeout)

        future = Lazy()
        self.waiting.append((future, lambda: function(*arguments, **options)))
        return future


def test_threads(net, data, expected):
    with ThreadPoolExecutor(3) as executor:
        found = evaluations(net, data, executor)
    assert all(map(same, found, expected))


def test_in_any_order(net, data, expected):
    assert all(map(same, evaluations(net, data, Backwards()), expected))


def test_processes(net, data, expected, tmp_path):
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(
        2, get_context("forkserver"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as executor:
        found = evaluations(net, data, executor, cache=tmp_path)
        assert all(map(same, found, expected))
        plan = aiq.search(
            net, "xeon_2vcpu_roofs", data, max_drop=1.0, formats="fp32,w8a8", executor=executor
        )
    here = evaluations(net, data, None, cache=tmp_path)
    assert all(map(same, here, expected)), "one journal serves all"
    alone = aiq.search(net, "xeon_2vcpu_roofs", data, max_drop=1.0, formats="fp32,w8a8")
    assert plan.accuracy == alone.accuracy
    assert plan.layers == alone.layers


def test_errors_of_workers_arrive(net, data):
    x, y = data[0]
    with ThreadPoolExecutor(2) as executor, pytest.raises(DataError, match="NaN or infinite"):
        Evaluator(net, [(x * 1e30 * 1e9, y)], calibration=[x], executor=executor)


def test_the_executor_stays_open(net, data):
    with ThreadPoolExecutor(1) as executor:
        Evaluator(net, data, executor=executor)
        assert executor.submit(threading.get_ident).result()
