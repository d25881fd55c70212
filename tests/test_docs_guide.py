"""The code of the documentation runs as it stands."""

import re
from pathlib import Path

import pytest

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
    monkeypatch.setattr(data, "sample", lambda name: sample(name).take(2))
    names = run("README.md", 1)
    assert len(names["plan"].layers) == 22
    inputs, _ = next(iter(names["loader"]))
    assert names["fast"](inputs).shape == (20, 10)
    assert (tmp_path / "plan.json").exists()
    assert "ResNet20 on epyc_zen4_2vcpu" in capsys.readouterr().out
