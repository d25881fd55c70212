"""The code of the documentation runs as it stands."""

import re
from functools import partial
from pathlib import Path

import pytest

import aiq
from aiq import data

ROOT = Path(__file__).parent.parent


def run(page, count):
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", (ROOT / page).read_text())
    assert len(blocks) == count
    names = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)  # noqa: S102
    return names


def test_the_guide_for_contributors_runs_from_top_to_bottom(monkeypatch):
    monkeypatch.setenv("AIQ_HW_PROFILES", "")  # the guide sets it; the test puts it back
    run("docs/extending.md", 6)


def test_the_first_lines_of_the_readme_run(monkeypatch, tmp_path, capsys):
    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    sample = data.sample
    monkeypatch.setattr(data, "sample", lambda name: sample(name).take(25))  # one batch
    monkeypatch.setattr(aiq, "search", partial(aiq.search, confidence=0.5))  # it shows too little
    names = run("README.md", 1)
    assert len(names["plan"].layers) == 22
    inputs, _ = next(iter(names["loader"]))
    assert names["fast"](inputs).shape == (250, 10)
    assert (tmp_path / "plan.json").exists()
    printed = capsys.readouterr().out
    output = re.search(
        r"(?ms)^```python\n.*?^```\n\n```\n(.*?)^```$", (ROOT / "README.md").read_text()
    )
    predicted = [line for line in output[1].splitlines() if re.match(r" +(int|tra|wei|time)", line)]
    assert len(predicted) == 4
    assert all(line in printed for line in predicted)
    assert output[1].partition(", accuracy")[0] in printed
