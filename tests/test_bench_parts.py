"""A benchmark that runs in part changes the rows that it measured, and no others."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import common
import pytest

BENCHES = Path(__file__).parent.parent / "benches"
ONE_FILE_A_NETWORK = {"sensitivity", "train"}
MARK = {"measured now": 1}
OF_THE_RUN = {"description", "images", "batch", "steps", "float32_accuracy", "intensities", "peers"}
"""Entries that say how a run was made, as its command does, and hold no rows."""


@dataclass(frozen=True)
class Part:
    """A call of a script that measures one row, and what stands in for its measurements."""

    script: str
    words: str
    row: tuple[str, ...]
    fakes: Callable[[dict], dict]
    file: str = ""


def given(value):
    """Return a function that returns a value, whatever it gets."""
    return lambda *_, **__: value


PLAN = SimpleNamespace(
    evaluations=1,
    baseline=SimpleNamespace(seconds=2.0),
    predicted=SimpleNamespace(seconds=1.0, intensity=3.0),
    accuracy=None,
    proof=SimpleNamespace(cheapest=True),
    formats={},
)
SILENT = given(None)
PARTS = [
    Part("ablation", "--network", ("stopwatch", "posterior"), lambda row: {
        "timed": SILENT, "show": SILENT, "show_timed": SILENT,
        "summary": given({"without": {"cases": 1}}), "timed_summary": given({"posterior": row}),
    }),
    Part("calibration", "--runtime onnxruntime", ("runtimes", "onnxruntime", "as it is"),
        lambda row: {
            "profile": given(SimpleNamespace(name="epyc_zen5_1thread", threads=1, description="")),
            "machine": SimpleNamespace(threads=given(nullcontext())),
            "calibrate": SimpleNamespace(
                open_store=given(SimpleNamespace(samples=[1], noise=0)), fitted=SILENT
            ),
            "variants": given([SimpleNamespace(name="as it is", samples=[], prior=None)]),
            "said": given(row),
        }, "calibration/epyc_zen5_1thread"),
    Part("channels", "--network vit", ("networks", "vit"), lambda row: {
        "measure": given(row), "show": SILENT}),
    Part("channels", "--stopwatch", ("stopwatch", "1"), lambda row: {
        "channels_split": SimpleNamespace(measure=given({"1": row}))}),
    Part("deployments", "--only torchvision/alexnet --runtime openvino",
        ("rows", "torchvision/alexnet", "runtimes", "openvino"), lambda row: {
        "in_processes": given([("torchvision/alexnet", {"runtimes": {"openvino": row}})])}),
    Part("encoder", "TEXT --batch 1", ("batches", "1"), lambda row: {"measured": given(row)}),
    Part("equal_size", "--packages . --network resnet20 --only aiq --bits 3",
        ("networks", "resnet20", "nearest", "3.0 aiq"), lambda row: {
        "run": given({}), "judge": given(False), "show": SILENT,
        "rows": lambda network, found, how: [row] if how == "nearest" else []}),
    Part("integer", "--network resnet20", ("networks", "resnet20"), lambda row: {
        "measure": given(row)}),
    Part("llm", "TEXT --part speed", ("speed",), lambda row: {
        "Setup": SILENT, "_parts": given({"speed": given(row)})}),
    Part("memory_share", "TEXT --network vit", ("networks", "vit"), lambda row: {
        "NETWORKS": {"vit": given(SimpleNamespace(method=row["sensitivity"]))},
        "correlation": given(row), "gains": given({})}),
    Part("peers", "--hw xeon_emerald_no_amx --only vit_s/1/onnx", ("rows", "vit_s/1/onnxruntime"),
        lambda row: {"row": given(row)}, "peers/xeon_emerald_no_amx"),
    Part("prediction", "", ("mixed", "resnet20/16/openvino/level 2"), lambda row: {
        "profile": given(SimpleNamespace(name="epyc_zen5_1thread", threads=1,
            description="AMD EPYC (Zen 5), one thread, as measured by aiq calibrate.")),
        "machine": SimpleNamespace(threads=given(nullcontext())),
        "digest": given(""), "jobs": given([]),
        "of_networks": given({"openvino/level 2": {"rows": 1}}),
        "of_mixed": given({"resnet20/16/openvino/level 2": row})}, "prediction/epyc_zen5_1thread"),
    Part("qat", "", ("searches", "weights"), lambda row: {
        "data": MagicMock(SPLITS=range(3)), "models": MagicMock(), "graph": MagicMock(),
        "Images": MagicMock(), "soft_targets": SILENT, "SEARCHES": {"weights": None},
        "Evaluator": given(SimpleNamespace(baseline=SimpleNamespace(accuracy=0.9))),
        "intensities": given({}), "row": lambda one, *_: one,
        "search": given(SimpleNamespace(rounds=row["rounds"], stopped="as the test says")),
        "qat_report": MagicMock()}),
    Part("rounding", "--network resnet20", ("networks", "resnet20", "w3a8 gptq"), lambda row: {
        "measure": given([row])}),
    Part("search_cost", "resnet50 --images 512", ("rows", "resnet50/512/auto"), lambda row: {
        "given": given((None, [], {})), "aiq": SimpleNamespace(search=given(PLAN))}),
    Part("solver", "--only subset-sum", ("classes", "pisinger subset-sum"), lambda row: {
        "ProcessPoolExecutor": MagicMock(), "version": given("1"), "run_class": given(([], {})),
        "summary": given(row)}),
    Part("throughput", "--hw xeon_2vcpu --network resnet20 --batch 128 --runtime openvino",
        ("rows", "resnet20/128/openvino"), lambda row: {
        "row": given(row), "brief": lambda row: row, "report": SILENT, "summary": SILENT},
        "throughput/xeon_2vcpu"),
]  # fmt: skip


def tables(value):
    """Return a document with its lists of named rows as tables."""
    if isinstance(value, dict):
        return {key: tables(each) for key, each in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        names = [" ".join(str(row[k]) for k in common.NAMES if k in row) for row in value]
        if len({*names}) == len(names):
            return dict(zip(names, value, strict=True))
    return value


def differences(before, after, path=()) -> Iterator[tuple[str, ...]]:
    """Yield where two documents differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from differences(before.get(key), after.get(key), (*path, key))
    elif before != after:
        yield path


def at(document, path):
    for key in path:
        document = document[key]
    return document


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.script} {part.row[0]}")
def test_a_part_changes_the_rows_that_it_measures_and_no_others(part, tmp_path, monkeypatch):
    for module in (
        "matplotlib",
        "matplotlib.pyplot",
        "llm_native",
    ):  # they measure and draw nothing
        monkeypatch.setitem(sys.modules, module, MagicMock())
    script, name = import_module(part.script), part.file or part.script
    shutil.copytree(BENCHES / "results", tmp_path / "results")
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(common, "RAW", tmp_path / "raw")  # a checkout without raw rows
    monkeypatch.setattr(sys, "argv", [part.script, *part.words.split()])
    file = tmp_path / "results" / f"{name}.json"
    before = tables(json.loads(file.read_text()))
    row = {k: v for k, v in at(before, part.row).items() if k not in common.STAMP}
    for attribute, fake in part.fakes({**row, **MARK}).items():
        monkeypatch.setattr(script, attribute, fake)
    script.main()
    after = tables(json.loads(file.read_text()))
    found = at(after, part.row)
    assert found != at(before, part.row)
    assert found["date"] == datetime.now(UTC).date().isoformat()
    assert found["cpu"]
    others = {path for path in differences(before, after) if path[: len(part.row)] != part.row}
    assert {path[0] for path in others} <= {*common.ABOUT, *OF_THE_RUN}, others


def test_every_script_that_runs_in_part_is_tested():
    options = r'"(--only|--network|--batch|--runtime|--part|--stopwatch)"'
    texts = {path.stem: path.read_text() for path in BENCHES.glob("*.py")}
    found = {name for name, text in texts.items() if re.search(options, text)}
    found &= {name for name, text in texts.items() if re.search(r"\bsave\(|\bupdate\(", text)}
    assert found - ONE_FILE_A_NETWORK - {"architectures"} <= {part.script for part in PARTS}


def test_a_row_with_the_published_numbers_keeps_its_date_and_processor():
    known = {"one": {"ms": 1.0, "date": "2026-01-31", "cpu": "a"}, "two": {"ms": 3}}
    found = common.joined(known, {"one": {"ms": 1.0}, "two": {"ms": 4}, "three": {"ms": 5}})
    assert found["one"] == known["one"]
    assert [found[name]["ms"] for name in ("two", "three")] == [4, 5]
    assert all(found[name]["cpu"] for name in ("two", "three"))


def test_a_sum_over_less_replaces_no_sum_over_more():
    known, more = {"all": {"rows": 12, "MAPE": 0.1}}, {"all": {"rows": 13, "MAPE": 0.2}}
    assert common.joined(known, {"all": {"rows": 2, "MAPE": 0.0}}, count="rows") == known
    assert common.joined(known, more, count="rows")["all"]["MAPE"] == 0.2
