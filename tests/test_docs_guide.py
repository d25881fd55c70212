"""The code of the documentation runs as it stands."""

import html
import json
import re
from functools import partial
from pathlib import Path

import pytest
import qat_report

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
    picture = (ROOT / "docs" / "first_plan.svg").read_text()
    output = [
        html.unescape(line).replace("\xa0", " ").rstrip()
        for line in re.findall(r"<text[^>]*>(.*?)</text>", picture, re.DOTALL)
    ]
    predicted = [line for line in output if re.match(r" +(int|tra|wei|time)", line)]
    assert len(predicted) == 4
    assert all(line in printed for line in predicted)
    (sentence,) = [line for line in output if "faster than float32" in line]
    assert sentence.partition(", accuracy")[0] in printed


def test_the_six_numbers_of_the_readme_are_those_of_the_results():
    text = (ROOT / "README.md").read_text()
    results = (ROOT / "docs" / "results.md").read_text()  # its tables are held by test_docs.py
    numbers = text.partition("## Six numbers")[2].partition("##")[0]
    paper = json.loads((ROOT / "benches" / "results" / "paper.json").read_text())
    by_name = {row["name"]: row for row in paper["searches"]}

    def cells(start):
        (row,) = [line for line in results.splitlines() if line.startswith(f"| {start} |")]
        return [cell.strip(" *") for cell in row.split("|")[1:-1]]

    plan = cells("epyc_zen5_2vcpu | mobilenet_v2, 128 | openvino")[5]
    assert f"**{float(plan):.1f}x** faster" in numbers
    decoder = json.loads((ROOT / "benches" / "results" / "llm.json").read_text())["speed, gptq"]
    assert f"**{decoder['speedup_of_the_plan_over']['Q4_K_M']['16']:.1f}x** faster" in numbers
    assert decoder["kl_over_Q4_K_M"] <= 1
    both, weights = (
        by_name[f"aiq: most AI, {what} 2-8 bits"] for what in ("weights and activations", "weights")
    )
    assert f"**{both['intensity']:.0f} FLOP/byte**" in numbers
    assert f"drop of {100 * both['drop']:.2f} pp; float32" in numbers
    assert f"reaches {weights['intensity']:.1f} with a drop of" in numbers
    assert f"{100 * weights['drop']:.2f} pp." in numbers
    training = json.loads((ROOT / "benches" / "results" / "qat.json").read_text())
    trained = qat_report.best(training, "weights")
    assert f"reaches {trained['intensity']:.1f} with a drop of" in numbers
    assert f"{100 * trained['trained']['drop']:.2f} pp." in numbers
    assert f"reach {by_name['paper: greedy']['intensity']:.1f}." in numbers
    mixed = cells("resnet20 | mixed, 3 bits")[4]
    assert f"**{float(mixed.split()[0]):.1f} pp** accuracy drop" in numbers
    nearest = cells("resnet20 | w3a8")[2]
    assert f"it is {float(nearest.split()[0]):.1f} pp." in numbers
    plans = cells("epyc_zen5_1thread | openvino")[9]  # after that of the roofline
    assert f"**{plans}** mean error" in numbers
    solved = cells("one budget, 1,000 layers")
    assert f"**{float(solved[1].split()[0]):.1f} ms**" in numbers
    assert f", {solved[4].split()[0]} times faster" in numbers
