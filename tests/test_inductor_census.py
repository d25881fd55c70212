"""Inductor's kernels and the profiler's calls are matched by what they multiply."""

from types import SimpleNamespace

import pytest
import torch

from aiq.runtimes import inductor_census
from aiq.runtimes.inductor_census import Census, OperandSizes, time_calls


def event(name, start, microseconds, shapes, parent=None):
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start),
        cpu_time_total=microseconds,
        input_shapes=shapes,
        cpu_parent=parent,
    )


class Profiler:
    """Stands for PyTorch's: what it saw is said beforehand."""

    def __init__(self, events):
        self._events = events

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def events(self):
        return self._events


def run(number):
    """One run of a program whose scheduler has put the second layer first."""
    start = 100 * number
    whole = event("## Call CompiledFxGraph", start, 90, [])
    linear = event(
        "mkldnn::_linear_pointwise", start + 9, 20 + number, [[4, 8], [32, 8], []], whole
    )
    return [
        whole,
        # A part of another multiplication is not a call of its own.
        event("aten::addmm", start + 10, 7, [[4, 8], [8, 32]], linear),
        linear,
        event("aten::sigmoid", start + 50, 5, [[4, 32]], whole),
        event("aten::cat", start + 55, 5, [[[4, 32], [4, 32]], []], whole),
        event(
            "onednn::qconv_pointwise", start + 1, 40 + number, [[1, 3, 9, 9], [6, 3, 3, 3]], whole
        ),
    ]


@pytest.fixture
def census():
    found = Census()
    found.operands = {
        "first": OperandSizes(32, 256),
        "second": OperandSizes(243, 162),
        "none": OperandSizes(1, 1),
    }
    return found


def test_calls_are_told_apart_by_their_operands(monkeypatch, census):
    events = [*run(1), *run(0)]
    monkeypatch.setattr(inductor_census, "profile", lambda **options: Profiler(events))
    found = time_calls(lambda x: None, [torch.zeros(1)], census, runs=2)
    assert found == {
        "first": pytest.approx([20e-6, 21e-6]),
        "second": pytest.approx([40e-6, 41e-6]),
    }


def test_every_run_of_a_real_program_is_timed(census):
    layers = [torch.nn.Linear(8, 32), torch.nn.Conv2d(3, 6, 3)]
    x, image = torch.rand(4, 8), torch.rand(1, 3, 9, 9)
    found = time_calls(
        lambda *inputs: [f(i) for f, i in zip(layers, inputs, strict=True)],
        [x, image],
        census,
        runs=3,
    )
    assert {node: len(seconds) for node, seconds in found.items()} == {"first": 3, "second": 3}
    assert all(seconds > 0 for values in found.values() for seconds in values)
