"""The command line: data on stdout, mistakes in one line on stderr."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import aiq
from aiq.cli import app
from aiq.losses import LossTable

runner = CliRunner()

MODEL = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))

def loader():
    torch.manual_seed(1)
    return [(torch.randn(20, 16), torch.arange(20) % 4) for _ in range(2)]

def number():
    return 5
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "mymodel.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("mymodel", None)


def run(*arguments):
    result = runner.invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_profiles():
    found = json.loads(run("profiles", "--json").stdout)
    assert {"xeon_2vcpu"} <= {profile["name"] for profile in found}
    assert "32.7 GB/s" in run("profiles", "xeon_2vcpu").stdout


def test_graph(here):
    document = json.loads(run("graph", "mymodel:net", "--input", "3x16", "--json").stdout)
    assert document["batch"] == 3
    assert [layer["name"] for layer in document["layers"]] == ["0", "2"]
    assert "linear" in run("graph", "mymodel:net", "--input", "3x16").stdout


def test_search(here):
    arguments = ("search", "mymodel:net", "--input", "1x16", "--data", "mymodel:loader")
    arguments += ("--max-drop", "0.9", "--formats", "fp32,w8a8", "--pin", "2=fp32")
    document = json.loads(run(*arguments, "--json", "-o", "plan.json").stdout)
    assert [layer["format"] for layer in document["layers"]] == ["w8a8", "fp32"]
    assert document["accuracy"]["samples"] == 40
    saved = aiq.Plan.load(here / "plan.json")
    assert saved == aiq.Plan.from_json(json.dumps(document))
    assert "FLOP/byte" in run(*arguments).stdout


def test_search_with_the_stopwatch(here):
    arguments = ("search", "mymodel:net", "--input", "8x16", "--runtime", "eager")
    arguments += ("--formats", "fp32,bf16", "--max-drop", "1", "--measure-top", "1", "--json")
    document = json.loads(run(*arguments).stdout)
    assert document["shortlist"]["chosen"] in [p["name"] for p in document["shortlist"]["plans"]]


def test_sensitivity(here):
    arguments = ("sensitivity", "mymodel:net", "--input", "1x16", "--data", "mymodel:loader")
    document = json.loads(run(*arguments, "--formats", "w8,w2", "--json", "-o", "t.json").stdout)
    assert document["layers"] == ["0", "2"]
    losses = LossTable.load(here / "t.json")
    assert (losses.loss[:, 1] > losses.loss[:, 0]).all()
    assert "Accuracy loss" in run(*arguments, "--formats", "w8,w2").stdout


def test_compare(here):
    run("search", "mymodel:net", "--input", "8x16", "--formats", "bf16", "-o", "plan.json")
    arguments = ("compare", "plan.json", "mymodel:net", "--input", "8x16", "--runtime", "eager")
    document = json.loads(run(*arguments, "--seconds", "0.1", "--json").stdout)
    assert [timing["name"] for timing in document["timing"]["timings"]] == ["fp32", "plan"]
    assert document["mismatches"] == []


def test_measure(here):
    run("search", "mymodel:net", "--input", "8x16", "--formats", "bf16", "-o", "plan.json")
    arguments = ("measure", "mymodel:net", "--input", "8x16", "--runtime", "eager")
    arguments += ("--formats", "fp32,bf16", "--plan", "plan.json", "--seconds", "0.1")
    document = json.loads(run(*arguments, "--json").stdout)
    assert [timing["name"] for timing in document["timings"]] == ["fp32", "bf16", "plan"]
    assert {"noise", "steal", "threads", "machine", "again"} <= document.keys()
    for timing in document["timings"]:
        assert timing["throughput"] == pytest.approx(8 / timing["seconds"]["value"])
        assert timing["latency"]["0.99"] >= timing["latency"]["0.5"] > 0
        assert timing["peak_bytes"] > 10 * 2**20
    assert "noise" in run(*arguments, "--no-memory").stdout


def test_quick_calibration_writes_a_profile_that_loads(here):
    run("calibrate", "--quick", "-o", "mine.yaml")
    mine = aiq.Hardware.load("mine.yaml")
    assert mine.peak_gflops["fp32"] > 0
    assert mine.dram_gbps > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["profiles", "cray"], "no hardware profile 'cray'"),
        (["graph", "resnet99"], "resnet99"),
        (["graph", "nowhere:net"], "cannot be imported"),
        (["graph", "mymodel:number"], "returned a int"),
        (["graph", "mymodel:net", "--input", "1,16"], "is not a shape"),
        (["graph", "mymodel:net", "--input", "1x17"], "1x17|shape"),
        (["measure", "mymodel:net", "--input", "1x16", "--runtime", "gpu"], "Unknown runtime"),
        (["measure", "mymodel:net", "--input", "1x16", "--plan", "a/fp32.json"], "Two candidates"),
        (["search", "mymodel:net", "--input", "1x16", "--pin", "fc"], "PATTERN=FORMAT"),
        (["search", "mymodel:net", "--input", "1x16", "--formats", "w1"], "Unknown format"),
        (["search", "mymodel:net", "--input", "1x16", "--data", "mymodel:number"], "iterable"),
    ],
)
def test_mistakes_are_one_line_and_status_2(here, arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["aiq", *arguments])
    with pytest.raises(SystemExit) as stop:
        aiq.cli.main()
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error:" in captured.err
    assert any(word in captured.err.replace("\n", " ") for word in words.split("|"))


def test_the_installed_command_and_module_start():
    help_ = subprocess.run(
        [sys.executable, "-m", "aiq", "--help"], capture_output=True, text=True, check=True
    )
    assert "search" in help_.stdout
    assert help_.stderr == ""
