"""The options of a search: one list for Python and the command line, checked at the door."""

import inspect
from dataclasses import fields

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import aiq
from aiq.cli import app
from aiq.cli.commands import load
from aiq.errors import AiqError, Interrupted
from aiq.hardware import Hardware
from aiq.planning import stopwatch
from aiq.planning.options import SearchOptions

KEPT_FOR_PYTHON = {"pin", "cache"}  # the command line writes these in its own way


def test_search_takes_every_option_with_its_default():
    arguments = inspect.signature(aiq.search).parameters
    for option in fields(SearchOptions):
        assert arguments[option.name].default == option.default, option.name


def test_the_command_line_has_every_option_with_its_default():
    shown = {p.name: p for p in load("search").params}
    for option in fields(SearchOptions):
        if option.name not in KEPT_FOR_PYTHON:
            assert shown[option.name].default == option.default, option.name
            assert shown[option.name].help == option.metadata["help"]


class Untouched(nn.Module):
    def forward(self, x):
        pytest.fail("the work began")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runtime": "openvin"}, "did you mean 'openvino'"),
        ({"runtime": "ort"}, "did you mean 'onnxruntime'"),
        ({"runtime": "tensorrt"}, "use one of eager, inductor, onnxruntime, openvino"),
        ({"method": "exhaustiv"}, "did you mean 'exhaustive'"),
        ({"objective": "latency"}, "did you mean 'throughput'"),
        ({"sensitivity": "hesian"}, "did you mean 'hessian'"),
        ({"metric": "accuracy"}, "did you mean 'top1'"),
        ({"metric": "perplexty"}, "did you mean 'perplexity'"),
        ({"formats": "fp32,int9"}, "did you mean 'int8'"),
        ({"seed": -1}, "seed is -1"),
        ({"max_size": 1.5}, "max_size is 1.5"),
        ({"hw": "xeon_2vcp"}, "did you mean 'xeon_2vcpu'"),
    ],
)
def test_a_wrong_option_is_named_before_any_work(options, words):
    def data():
        pytest.fail("the data was read")
        yield

    call = {"hw": "xeon_2vcpu_roofs", "data": data()} | options
    with pytest.raises(AiqError) as caught:
        aiq.search(Untouched(), **call)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)

    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    found = CliRunner().invoke(app, ["search", "nowhere:net", *arguments])
    assert words in str(found.exception)


def test_validated_options_say_how_the_search_goes():
    hardware = Hardware.load("xeon_2vcpu_roofs")
    options = SearchOptions(method="greedy", runtime=None, formats="int8,int4")
    options.validate(hardware)
    assert options.measures_candidates(has_data=True)
    assert not options.measures_candidates(has_data=False)
    assert options.runtime_name is None
    assert options.engine is None


def test_the_seed_reaches_the_stopwatch(monkeypatch):
    seen = []

    def measured(task, found, bench, meter, **options):
        seen.append(options["seed"])
        return found, None

    monkeypatch.setattr(stopwatch, "fastest", measured)
    net = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(Interrupted):  # nothing was timed
        aiq.search(
            net, "xeon_2vcpu_roofs", example_inputs=torch.ones(1, 4), runtime="eager",
            formats="fp32", measure_top=1, seed=7,
        )  # fmt: skip
    assert seen == [7]
