"""The command line: data on stdout, mistakes in one line on stderr."""

import json
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import run, runner

import aiq
from aiq import bars, calibrate, hardware, machine
from aiq.cli import app
from aiq.drops import DropTable
from aiq.errors import AiqError, InputError
from aiq.hardware import plausible

SEARCH = ("search", "--hw", "xeon_2vcpu_roofs")
"""With a profile that is the same wherever the tests run."""

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


def test_the_profile_in_the_documentation_is_valid(here):
    readme = (Path(__file__).parent.parent / "docs" / "profiles.md").read_text()
    block = textwrap.dedent(re.search(r" *```yaml\n(.*?)```", readme, re.DOTALL)[1])
    (here / "my_board.yaml").write_text(block)
    run("profiles", "validate", "my_board.yaml")
    arguments = ("search", "--hw", "my_board.yaml", "mymodel:net", "--input", "1x16")
    assert json.loads(run(*arguments, "--json").stdout)["hardware"] == "my_board"


def test_graph(here):
    document = json.loads(run("graph", "mymodel:net", "--input", "3x16", "--json").stdout)
    assert document["batch"] == 3
    assert [layer["name"] for layer in document["layers"]] == ["0", "2"]
    assert "linear" in run("graph", "mymodel:net", "--input", "3x16").stdout
    found = run("graph", "mymodel:net", "--data", "mymodel:loader", "--json").stdout
    assert json.loads(found)["batch"] == 20


@pytest.mark.parametrize(
    "arguments",
    [
        [*SEARCH, "mymodel:loaded", "--input", "1x16"],
        ["sensitivity", "mymodel:loaded"],
        ["calibrate", "--quick"],
    ],
)
def test_outputs_are_checked_before_the_work(here, arguments, monkeypatch):
    def loaded(*given, **named):
        pytest.fail("the work began")

    monkeypatch.setattr("aiq.cli.search.load_model", loaded)
    monkeypatch.setattr("aiq.cli.model.load_model", loaded)
    monkeypatch.setattr(calibrate, "quick", loaded)
    (here / "file").write_text("")
    (here / "folder.yaml").mkdir()
    for output in ("folder.yaml", "file/below.yaml", "/proc/none/x.yaml"):
        with pytest.raises(InputError, match=r"cannot be written .*; name another file\."):
            run(*arguments, "-o", output)
    assert not (here / "file").read_text()


def test_what_needs_no_evaluation_is_refused_before_any(here, monkeypatch):
    run(*SEARCH, "mymodel:net", "--input", "8x16", "--formats", "bf16", "-o", "plan.json")

    def work(*given, **named):
        pytest.fail("the work began")

    for name in ("loaded", "graph.trace", "calibrate.calibration.open_store"):
        if name != "loaded":
            monkeypatch.setattr(f"aiq.{name}", work)
    for arguments, words in [
        (["export", "plan.json", "mymodel:net", "-o", "m.onnx2"], "No runtime has files like"),
        (["export", "plan.json", "mymodel:net", "-o", "plan.json/m.onnx"], "cannot be written"),
        ([*SEARCH, "mymodel:net", "--input", "8x16", "--pin", "9=fp32"], "matches no layer"),
        (["calibrate", "--runtime", "eager", "--runtime", "openvinx"], "mean 'openvino'"),
        (["calibrate", "--quick", "--runtime", "eager"], "measures no runtime"),
        (["calibrate", "--compare", "t4", "-o", "a.yaml"], "writes no profile"),
        (["compare", "plan.json", "mymodel:net", "--hw", "cray"], "no hardware profile"),
        (["compare", "plan.json", "mymodel:net", "--runtime", "gpu"], "Unknown runtime"),
        (["sensitivity", "mymodel:net", "--formats", "w99"], "Unknown format"),
        (["report", "plan.json", "--comparison", "none.json"], "cannot be read"),
    ]:
        found = runner.invoke(app, arguments)
        assert words in str(found.exception), arguments

    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setattr("aiq.planning.stages.evaluator", work)
    data = [*SEARCH, "mymodel:net", "--data", "mymodel:loader"]
    for arguments, words in [
        (["--max-size", "10"], "nearest feasible max_size"),
        (["--method", "exhaustive", "--formats", "fp32,w8a8"], "the work began"),
    ]:
        with pytest.raises((AiqError, pytest.fail.Exception), match=words):
            run(*data, *arguments)


def test_a_saved_plan_is_shown_without_pytorch(here):
    run(*SEARCH, "mymodel:net", "--input", "8x16", "--formats", "bf16", "-o", "plan.json")
    code = (
        "import sys; sys.modules['torch'] = None; from aiq.cli import app; "
        "app(sys.argv[1:], standalone_mode=False)"
    )
    for words in (["show"], ["show", "--check"], ["frontier"], ["report", "-o", "page.html"]):
        command = [sys.executable, "-c", code, words[0], "plan.json", *words[1:]]
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
        assert found.stdout or "saved page.html" in found.stderr


def test_without_a_terminal_every_ten_seconds_have_a_line(here, monkeypatch):
    monkeypatch.setattr(bars, "EVERY", 0.01)
    found = run(*SEARCH, "mymodel:net", "--data", "mymodel:loader", "--max-drop", "1.0")
    stages = {line.partition("s: ")[2].partition(",")[0] for line in found.stderr.splitlines()}
    assert "export the model" in stages


def test_a_plan_that_cannot_be_saved_is_printed(here):
    arguments = [*SEARCH, "mymodel:net", "--input", "1x16", "--json", "-o", "/dev/full"]
    found = runner.invoke(app, arguments)
    assert aiq.Plan.from_json(found.stdout).formats
    assert isinstance(found.exception, InputError)
    assert "No space left on device" in str(found.exception)


def test_a_plan_that_cannot_be_printed_is_saved(here, monkeypatch):
    def broken(*given, **named):
        raise BrokenPipeError

    monkeypatch.setattr("aiq.cli.search.out.print", broken)
    arguments = [*SEARCH, "mymodel:net", "--input", "1x16", "-o", "plan [red].json"]
    found = runner.invoke(app, arguments)
    assert isinstance(found.exception, BrokenPipeError) or found.exit_code
    assert aiq.Plan.load(here / "plan [red].json").formats
    assert "saved plan [red].json" in found.stderr


def test_search(here):
    # Not one row: Inductor writes such small products as sums, in float32.
    arguments = (*SEARCH, "mymodel:net", "--input", "8x16", "--data", "mymodel:loader")
    arguments += ("--max-drop", "0.9", "--formats", "fp32,w8a8", "--pin", "2=fp32")
    document = json.loads(run(*arguments, "--json", "-o", "plan.json").stdout)
    assert [layer["format"] for layer in document["layers"]] == ["w8a8", "fp32"]
    assert document["accuracy"]["samples"] == 40
    saved = aiq.Plan.load(here / "plan.json")
    assert saved == aiq.Plan.from_json(json.dumps(document))
    assert "FLOP/byte" in run(*arguments).stdout


def test_search_with_the_stopwatch(here):
    arguments = (*SEARCH, "mymodel:net", "--input", "8x16", "--runtime", "eager")
    arguments += ("--formats", "fp32,bf16", "--max-drop", "1.0", "--measure-top", "1", "--json")
    document = json.loads(run(*arguments).stdout)
    assert document["shortlist"]["chosen"] in [p["name"] for p in document["shortlist"]["plans"]]


def test_sensitivity(here):
    arguments = ("sensitivity", "mymodel:net", "--data", "mymodel:loader")
    document = json.loads(run(*arguments, "--formats", "w8,w2", "--json", "-o", "t.json").stdout)
    assert document["layers"] == ["0", "2"]
    drops = DropTable.load(here / "t.json")
    assert (drops.drop[:, 1] > drops.drop[:, 0]).all()
    assert "Accuracy drop" in run(*arguments, "--formats", "w8,w2").stdout


def test_compare(here):
    run(*SEARCH, "mymodel:net", "--input", "8x16", "--formats", "bf16", "-o", "plan.json")
    arguments = ("compare", "plan.json", "mymodel:net", "--input", "8x16", "--runtime", "eager")
    document = json.loads(run(*arguments, "--seconds", "0.05", "--json").stdout)
    assert [timing["name"] for timing in document["timing"]["timings"]] == ["fp32", "plan"]
    assert document["mismatches"] == []
    assert "random numbers" in document["timed_on"]
    data = ("--data", "mymodel:loader")
    words = (
        "compare",
        "plan.json",
        "mymodel:net",
        *data,
        "--runtime",
        "eager",
        "--seconds",
        "0.05",
    )
    assert "timed on the first batch of the data" in run(*words).stdout
    assert document["differences"] == []  # nobody measured the default profile


def test_compare_with_a_profile_of_another_machine(here, monkeypatch):
    monkeypatch.setattr(plausible, "problems", lambda document: ())  # it mixes two machines
    arguments = ("compare", "plan.json", "mymodel:net", "--input", "8x16", "--runtime", "eager")
    run(*SEARCH, "mymodel:net", "--input", "8x16", "--formats", "bf16", "-o", "plan.json")
    used = len(machine.processors()) or 1
    roofs = hardware.Hardware.load("xeon_2vcpu_roofs")
    provenance = {**roofs.provenance, "machine": machine.describe()}
    profile = replace(roofs, threads=used, provenance=provenance)
    for different in ({"isa": ["avx99"]}, {"cpu": "abacus", "limits": {"ONEDNN_MAX_CPU_ISA": "X"}}):
        host = {**profile.provenance["machine"], **different}
        provenance = {**profile.provenance, "machine": host}
        replace(profile, name="other", provenance=provenance).save(here / "other.yaml")
        said = run(*arguments, "--hw", "other.yaml", "--seconds", "0.05").stdout
        assert f"measured where {' and '.join(different)} differed" in " ".join(said.split())


def test_compare_layer_by_layer(here):
    run(*SEARCH, "mymodel:net", "--input", "8x16", "--formats", "fp32,w8a8", "-o", "plan.json")
    arguments = ("compare", "plan.json", "mymodel:net", "--input", "8x16", "--seconds", "0.05")
    arguments += ("--runtime", "onnxruntime", "--layers")
    layers = json.loads(run(*arguments, "--json").stdout)["layers"]
    assert [layer["layer"] for layer in layers] == ["0", "2"]
    assert all(layer["measured"] > 0 and layer["predicted"] > 0 for layer in layers)
    assert "everything else" in run(*arguments).stdout


def test_measure(here):
    run(*SEARCH, "mymodel:net", "--input", "8x16", "--formats", "bf16", "-o", "plan.json")
    arguments = ("measure", "mymodel:net", "--input", "8x16", "--runtime", "eager")
    arguments += (
        "--formats",
        "fp32,bf16",
        "--plan",
        "plan.json",
        "--seconds",
        "0.05",
        "--threads",
        "1",
    )
    document = json.loads(run(*arguments, "--json").stdout)
    assert [timing["name"] for timing in document["timings"]] == ["fp32", "bf16", "plan"]
    assert {"noise", "steal", "threads", "machine", "again"} <= document.keys()
    for timing in document["timings"]:
        assert timing["throughput"] == pytest.approx(8 / timing["seconds"]["value"])
        assert timing["latency"]["0.99"] >= timing["latency"]["0.5"] > 0
        assert timing["peak_bytes"] > 10 * 2**20
    assert "noise" in run(*arguments, "--no-memory").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["profiles", "show", "cray"], "no hardware profile 'cray'"),
        (["profiles", "show", "[/red]"], "no hardware profile '[/red]'"),
        (["profiles", "compare", "t4", "cray"], "no hardware profile 'cray'"),
        (["profiles", "validate", "mymodel.py"], "no name for a profile"),
        (["profiles", "validate", "none.yaml"], "cannot be read"),
        (["calibrate", "-o", "My-Board.yaml"], "lower case letters"),
        (["calibrate", "--quick", "-o", "a.yaml", "--threads", "9999"], "9999 threads"),
        (["calibrate", "--compare", "epyc_genoa"], "96 threads"),
        (["graph", "resnet99"], "resnet99"),
        (["graph", "nowhere:net"], "cannot be imported"),
        (["graph", "mymodel:number"], "returned an int"),
        (["graph", "mymodel:net", "--input", "1,16"], "is not a shape"),
        (["graph", "mymodel:net", "--input", "1x17"], "1x17|shape"),
        (["measure", "mymodel:net", "--input", "1x16", "--runtime", "gpu"], "Unknown runtime"),
        (["measure", "mymodel:net", "--input", "1x16", "--plan", "a/fp32.json"], "Two candidates"),
        ([*SEARCH, "mymodel:net", "--input", "1x16", "--pin", "fc"], "PATTERN=FORMAT"),
        ([*SEARCH, "mymodel:net", "--input", "1x16", "--formats", "w1"], "Unknown format"),
        ([*SEARCH, "mymodel:net", "--input", "1x16", "--data", "mymodel:number"], "iterable"),
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


def test_a_misspelt_command_gets_a_suggestion():
    with pytest.raises(InputError, match="no command 'serch'; did you mean 'search'"):
        runner.invoke(app, ["serch", "resnet20"], catch_exceptions=False)


def test_runtimes_of_decoders_can_be_calibrated_and_are_named():
    with pytest.raises(AiqError, match="'openvino_decoders'; did you mean 'openvino_decoder'"):
        runner.invoke(app, ["calibrate", "--runtime", "openvino_decoders"], catch_exceptions=False)
    assert "llamacpp" in run("search", "--help").output
