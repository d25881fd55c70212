"""The report: what it says, that no name runs in it, and the commands that write it."""

import dataclasses
import json
import re
import shlex

import pytest
from reports import Elements, shown
from typer.testing import CliRunner

from aiq.cli import app
from aiq.cli.commands import load
from aiq.errors import InputError
from aiq.report import drawing, html
from aiq.report.sentence import described


def test_one_small_file_without_addresses(plans):
    for name, plan in plans.items():
        page = html(plan)
        found = Elements(page)
        assert len(page.encode()) < 200_000, name
        assert found.addresses == []
        assert found.tags.count("script") == 2
        assert not {"img", "link", "iframe", "object", "base"} & set(found.tags)
        assert re.findall(r"https?://[^\"\s]+", page) == ["http://www.w3.org/2000/svg"]
        assert html(plan) == page


def test_hostile_names_stay_text(plans):
    page = html(plans["hostile"])
    assert "owned" in page
    assert "<script>document" not in page
    assert "onerror=alert(1)>" not in page
    names = [layer["name"] for layer in shown(plans["hostile"])["layers"]]
    assert names == [layer.name for layer in plans["hostile"].layers]
    assert Elements(plans["hostile"]._repr_html_()).tags == ["iframe"]


def test_points_say_what_the_tables_say(plan):
    document = shown(plan)
    assert document["points"][document["chosen"]]["formats"] == [
        layer["format"] for layer in document["layers"]
    ]
    for point in document["points"]:
        seconds = plan.tables.fixed_seconds
        for layer, k in zip(document["layers"], point["formats"], strict=True):
            seconds += layer["cost"][k]
        for edge in document["conversions"]:
            formats = point["formats"]
            seconds += edge["cost"][formats[edge["source"]]][formats[edge["target"]]]
        assert point["cost"] == pytest.approx(seconds, rel=1e-4)


def test_bit_operations_are_multiplications_times_bits(plan):
    rows = {row["name"]: row["operations"] for row in shown(plan)["table"]}
    multiplications = sum(layer.flops for layer in plan.layers) / 2
    assert rows["fp32"] == multiplications * 32 * 32
    assert rows["w8a8"] == multiplications * 8 * 8
    assert rows["bf16"] == multiplications * 16 * 16


def test_lower_bounds_are_not_divided(plans):
    document = shown(plans["lower bounds"])
    assert "fewer bytes" in document["answer"]["words"]
    assert any("lower bounds" in note for note in document["notes"])
    ratio = plans["lower bounds"].baseline.bytes / plans["lower bounds"].predicted.bytes
    assert document["points"][document["chosen"]]["words"]["gain"].startswith(f"{ratio:.2f}x fewer")
    assert "faster" not in json.dumps([document["answer"], document["points"], document["table"]])


def test_what_is_missing_is_said(plans):
    assert shown(plans["plan"])["notes"] == []
    assert "older version" in shown(plans["old"])["notes"][0]
    assert "no layer alone" in shown(plans["measured in the loop"])["notes"][0]
    cheapest = shown(plans["cheapest"])
    assert "`aiq search --frontier` evaluates them" in cheapest["notes"][0]
    assert [row["cells"][-1] for row in cheapest["table"]] == [
        "0 pp",
        "not evaluated",
        "not evaluated",
        f"{100 * plans['cheapest'].accuracy.drop:.2f} pp measured",
    ]
    assert "single plan" in shown(plans["one point"])["notes"][0]
    assert "Energy" in shown(plans["plan"])["tableNotes"][0]


def test_the_first_line_says_the_change_and_the_worst_one(plans):
    found = plans["cheapest"].accuracy
    drop, limit = (round(-100 * x, 2) + 0.0 for x in (found.drop, found.drop_limit))
    assert drop > limit
    words = f"accuracy {drop:+.2f} pp (at worst {limit:+.2f} pp with 95 %)"
    assert words in " ".join(str(plans["cheapest"]).split())
    assert ", the only layer " in str(plans["one layer"])


def test_a_measurement_replaces_the_prediction(plan, comparison):
    assert shown(plan)["answer"]["how"].startswith("predicted")
    answer = shown(plan, comparison)["answer"]
    assert (answer["figure"], answer["measured"]) == ("2.5x", True)
    assert len(shown(plan, comparison)["measured"]["layers"]) == len(plan.layers)


def test_a_plan_that_cannot_be_shown_is_refused(plan):
    with pytest.raises(InputError, match="no layers"):
        html(dataclasses.replace(plan, layers=(), tables=None))
    seconds = tuple(tuple(5e-324 for _ in row) for row in plan.tables.seconds)
    tiny = dataclasses.replace(plan, tables=dataclasses.replace(plan.tables, seconds=seconds))
    with pytest.raises(InputError, match="too large"):
        html(tiny)


def test_a_comparison_of_another_plan_is_refused(plans, comparison):
    with pytest.raises(InputError, match="another plan: it timed layer 0 in"):
        html(plans["sixty layers"], comparison)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"runtime": 1}', "[" * 100_000])
def test_what_is_no_comparison_is_refused(plan, tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(InputError, match=r"bad\.json is not a comparison"):
        plan.report(tmp_path / "report.html", tmp_path / "bad.json")
    with pytest.raises(InputError, match="cannot be read"):
        plan.report(tmp_path / "report.html", tmp_path / "none.json")
    with pytest.raises(InputError, match="The comparison is an int"):
        plan.report(tmp_path / "report.html", 3)
    assert not (tmp_path / "report.html").exists()


def test_formats_have_the_names_of_the_field():
    names = ("fp32", "bf16", "w8a8", "w4", "w4g64", "w4a8", "w8a8bf16")
    assert [described(name) for name in names] == [
        "float32",
        "bfloat16",
        "int8",
        "int4 weights",
        "int4 weights in groups of 64",
        "int4 weights, int8 activations",
        "int8, bfloat16 between",
    ]


def test_every_format_has_a_colour_of_its_own():
    grid = ["fp32", *(f"w{w}a{a}" for w in range(8, 1, -1) for a in range(8, 1, -1))]
    for names in (["fp32", "bf16", "w8a8"], grid):
        assert len(set(drawing.colours(names))) == len(names)


def test_a_layer_stands_behind_all_that_it_reads():
    edges = [(0, 1), (0, 2), (1, 3), (2, 3), (0, 4), (3, 4)]
    places = drawing.places(5, edges)
    assert places == [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0)]
    assert drawing.short(["a.b.x.1", "a.b.y"]) == ["x.1", "y"]
    assert drawing.short(["only.one"]) == ["only.one"]


def test_drops_have_the_unit_of_their_metric(plan):
    for metric, words in [("top1", "pp"), ("perplexity", "%"), ("cosine", "cosine drop")]:
        provenance = {**plan.provenance, "metric": metric}
        assert words in shown(dataclasses.replace(plan, provenance=provenance))["dropUnit"]["words"]


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_commands_read_a_saved_plan(plan, comparison, tmp_path):
    path, page = tmp_path / "plan.json", tmp_path / "page.html"
    plan.save(path)
    assert run("report", path, "-o", page, "--comparison", comparison).exit_code == 0
    assert page.read_text() == html(plan, comparison)
    assert json.loads(run("report", path, "--json").stdout) == shown(plan)
    assert run("show", path, "--json").stdout == path.read_text()
    assert plan.layers[0].name in run("show", path).stdout
    points = json.loads(run("frontier", path, "--json").stdout)["points"]
    assert len(points) == len(plan.frontier()) == len(plan.tables.frontier)
    assert "w8a8" in run("frontier", path).stdout


def test_the_frontier_names_the_formats_of_every_point(plan):
    frontier = plan.frontier()
    found = {point.name: point for point in frontier}
    chosen = {layer.name: layer.format for layer in plan.layers}
    assert frontier.plan(found["plan"]) == chosen
    assert set(frontier.plan(found["bf16"]).values()) == {"bf16"}
    assert len(str(frontier).splitlines()) >= len(frontier)


def test_the_commands_to_repeat_have_only_options_that_exist(plans):
    for plan in plans.values():
        for line in shown(plan)["commands"]:
            words = shlex.split(line)
            options = {option for found in load(words[1]).params for option in found.opts}
            assert {word for word in words if word.startswith("-")} <= options
    search = shlex.split(shown(plans["plan"])["commands"][0])
    assert search[search.index("--input") + 1] == "8x3x16x16"
    assert search[search.index("--runtime") + 1] == "openvino"


def test_a_provenance_of_other_types_is_shown(plan):
    odd = {key: [{"a": None}, 1] for key in plan.provenance} | {
        "undecided": [],
        "uncounted": [],
        "rounding": "nearest",
        "rounded_on_data": False,
    }
    assert shown(dataclasses.replace(plan, provenance=odd))["facts"]
    assert shown(dataclasses.replace(plan, provenance={}))["facts"]


def test_an_old_plan_has_no_frontier(plans, tmp_path):
    with pytest.raises(InputError, match="search again"):
        plans["old"].frontier()
    with pytest.raises(InputError, match="cannot be written"):
        plans["old"].report(tmp_path)
