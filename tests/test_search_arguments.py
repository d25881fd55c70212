"""The arguments of a search: mistakes are named, and what is left out is chosen."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import aiq
from aiq.errors import (
    DataError,
    FormatError,
    GraphError,
    HardwareError,
    InfeasibleError,
    InputError,
)
from aiq.evaluate import Evaluator
from aiq.formats import parse
from aiq.machine import describe
from aiq.runtimes import instructions


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else self.fc(-x)


def net(**changes):
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        for name, value in changes.items():
            module.get_parameter(name.replace("_", ".")).fill_(value)
    return module


X, Y = torch.rand(6, 4), torch.tensor([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"hw": "cray"}, HardwareError, "no hardware profile 'cray'"),
        ({"formats": "w17"}, FormatError, "Unknown format 'w17'"),
        ({"formats": []}, FormatError, "empty"),
        ({"data": []}, DataError, "no batches"),
        ({"data": 5}, DataError, "cannot be iterated"),
        ({"data": [X]}, DataError, "pair"),
        ({"data": [(X, Y[:3])]}, DataError, "target"),
        ({"data": [(X, torch.rand(6, 2))]}, DataError, "target"),
        ({"data": None}, InputError, "example_inputs"),
        ({"max_drop": -0.1}, InputError, "max_drop"),
        ({"max_drop": float("nan")}, InputError, "max_drop"),
        ({"lam": 2}, InputError, "lam"),
        ({"confidence": 1.0}, InputError, "confidence"),
        ({"objective": "weighted", "method": "exhaustive"}, InputError, "use method exact"),
        ({"objective": "speed"}, InputError, "throughput, intensity, weighted"),
        ({"method": "magic"}, InputError, "exact, greedy, coordinate, exhaustive"),
        ({"sensitivity": "guess"}, InputError, "measured, sqnr"),
        ({"pin": {"conv*": "fp32"}}, InputError, "matches no layer"),
        ({"pin": {"0": "w99"}}, FormatError, "w99"),
        ({"pin": {"layer": "fp32"}}, InputError, "Pin 'layer' matches no layer"),
        ({"max_size": 3}, InfeasibleError, "nearest feasible max_size"),
        ({"model": net(**{"0_weight": float("nan")})}, GraphError, "0.weight"),
        ({"model": Branches()}, GraphError, "torch.cond"),
        ({"model": nn.ReLU()}, GraphError, "nothing to quantise|no convolution"),
        ({"model": "resnet"}, GraphError, "Module"),
    ],
)
def test_mistakes_are_named(arguments, error, words):
    call = {"model": net(), "hw": "xeon_2vcpu_roofs", "data": [(X, Y)]} | arguments
    with pytest.raises(error, match=words) as caught:
        aiq.search(**call)
    assert "\n" not in str(caught.value)


def test_defaults_are_what_the_machine_computes():
    plan = aiq.search(net(), "t4", [(X, Y)], max_drop=1.0)
    assert plan.provenance["formats"] == ["fp32", "w8a8"]


def test_a_generator_is_enough():
    plan = aiq.search(net(), "xeon_2vcpu_roofs", ((X, Y) for _ in range(3)), formats="fp32,w8a8")
    assert plan.accuracy.samples == 18


def test_progress_is_reported():
    seen = []
    aiq.search(
        net(),
        "xeon_2vcpu_roofs",
        [(X, Y)],
        formats="fp32,w8",
        progress=lambda stage, done, total: seen.append((stage, done, total)),
    )
    assert ("export the model", 1, 1) in seen
    assert all(0 <= done <= total for _, done, total in seen)
    assert len({stage for stage, _, _ in seen}) >= 3


@pytest.mark.parametrize(
    ("cpu", "options", "bits"),
    [
        ("this", {}, 5),
        ("another", {}, 8),
        ("another", {"measure_top": 1}, 5),
        ("this", {"runtime": None}, 8),
    ],
)
def test_a_plan_for_this_machine_is_judged_by_the_bits_of_its_kernels(
    monkeypatch, cpu, options, bits
):
    monkeypatch.setattr(instructions, "weight_bits", lambda: 5)
    machine = describe() | ({} if cpu == "this" else {"cpu": cpu})
    hardware = aiq.Hardware.load("xeon_2vcpu_roofs")
    hardware = replace(hardware, provenance={**hardware.provenance, "machine": machine})
    model = net()
    plan = aiq.search(
        model, hardware, [(X, Y)], metric="cosine", formats="w8a8", max_drop=1.0, **options
    )
    executed = dict.fromkeys(plan.formats, parse(f"w{bits}a8"))
    exact = Evaluator(model, [(X, Y)], metric="cosine").evaluate(executed)
    assert plan.accuracy.plan == exact.accuracy
