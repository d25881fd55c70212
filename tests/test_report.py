"""The report: what it says, that no name runs in it, and how it behaves in a browser."""

import dataclasses
import json
import re
import shlex
import shutil
from html.parser import HTMLParser

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import aiq
from aiq.cli import app
from aiq.cli.commands import load
from aiq.errors import InputError
from aiq.plan import Shortlist, TimedPlan
from aiq.report import drawing, html
from aiq.report.sentence import described

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>{{ data }}"


def network():
    torch.manual_seed(0)
    middle = [nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()) for _ in range(3)]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), *middle, nn.Flatten(), nn.Linear(16 * 16 * 16, 10)
    ).eval()


def searched(model, inputs, **options):
    settings = {"hw": "epyc_zen4_2vcpu", "runtime": "openvino", "max_drop": 0.002} | options
    return aiq.search(model, example_inputs=inputs, **settings)


@pytest.fixture(scope="module")
def plan():
    return searched(network(), torch.randn(8, 3, 16, 16))


def repeated(plan, times):
    """Return a plan of many layers: another one, again and again."""
    replace, tables, own = dataclasses.replace, plan.tables, len(plan.layers)
    starts = [turn * own for turn in range(times)]
    layers = tuple(
        replace(x, name=f"block{i // own}.{x.name}") for i, x in enumerate(plan.layers * times)
    )
    return replace(
        plan,
        layers=layers,
        tables=replace(
            tables,
            seconds=tables.seconds * times,
            bytes=tables.bytes * times,
            drop=tables.drop * times,
            allowed=tables.allowed * times,
            edges=tuple((s + a, s + b) for s in starts for a, b in tables.edges),
            conversions=tuple(
                replace(x, source=s + x.source, target=s + x.target)
                for s in starts
                for x in tables.conversions
            ),
            frontier=tuple(replace(p, formats=p.formats * times) for p in tables.frontier),
        ),
    )


@pytest.fixture(scope="module")
def plans(plan):
    """Plans of many shapes: name -> plan."""
    two = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    roofline = searched(two, torch.randn(4, 64), hw="xeon_2vcpu_roofs", runtime=None)
    data = [(torch.randn(40, 64), torch.arange(40) % 10)]
    walked = aiq.search(
        two, "xeon_2vcpu_roofs", data, method="greedy", formats="fp32,w8a8", max_drop=0.5
    )
    hostile = tuple(
        dataclasses.replace(layer, name=f"{HOSTILE}.{i}", why=HOSTILE)
        for i, layer in enumerate(plan.layers)
    )
    images = [(torch.randn(40, 3, 16, 16), torch.arange(40) % 10)]
    cheapest = searched(network(), None, data=images, max_drop=1.0)
    return {
        "plan": plan,
        "cheapest": cheapest,
        "sixty layers": repeated(plan, 12),
        "one layer": searched(nn.Sequential(nn.Linear(64, 10)), torch.randn(4, 64)),
        "one point": searched(two, torch.randn(4, 64), formats="fp32"),
        "lower bounds": roofline,
        "measured in the loop": walked,
        "bytes": searched(two, torch.randn(4, 64), hw="xeon_2vcpu_roofs", objective="intensity"),
        "old": aiq.Plan.from_json(version_1(plan)),
        "hostile": dataclasses.replace(plan, model=HOSTILE, layers=hostile),
    }


def version_1(plan):
    document = json.loads(plan.to_json()) | {"schema": "aiq/plan/v1"}
    del document["tables"], document["workload"]
    document["predicted_loss"] = document.pop("predicted_drop")
    for name in ("budget", "factor"):
        document["proof"][f"loss_{name}"] = document["proof"].pop(f"drop_{name}")
    for layer in document["layers"]:
        layer["loss"] = layer.pop("drop")
    return json.dumps(document)


@pytest.fixture
def comparison(plan, tmp_path):
    def candidate(name, seconds):
        interval = {"value": seconds, "low": 0.9 * seconds, "high": 1.1 * seconds}
        ratio = {"value": 0.002 / seconds, "low": 0.0019 / seconds, "high": 0.0021 / seconds}
        return {"name": name, "seconds": interval, "speedup": ratio, "verdict": "faster"}

    rows = [
        {"layer": layer.name, "format": layer.format, "predicted": 1e-5, "measured": 2e-5}
        for layer in plan.layers
    ]
    path = tmp_path / "comparison.json"
    timing = {"timings": [candidate("fp32", 0.002), candidate("plan", 0.0008)]}
    document = {
        "runtime": "openvino",
        "hardware": "epyc_zen4_2vcpu",
        "level": "calibrated",
        "predicted_seconds": {"fp32": 0.002, "plan": 0.001},
        "timing": timing | {"noise": 0.02, "confidence": 0.95},
        "layers": rows,
        "what a later version adds": 1,
    }
    path.write_text(json.dumps(document))
    return path


class Elements(HTMLParser):
    """Collects elements, attributes that name an address, and the text of scripts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.addresses, self.scripts = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in {"src", "href", "srcset", "action", "data"}]

    def handle_data(self, data):
        if self.tags[-1:] == ["script"]:
            self.scripts.append(data)


def shown(plan, comparison=None):
    return json.loads(Elements(html(plan, comparison)).scripts[0])


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


def test_a_measurement_replaces_the_prediction(plan, comparison):
    assert shown(plan)["answer"]["how"].startswith("predicted")
    answer = shown(plan, comparison)["answer"]
    assert (answer["figure"], answer["measured"]) == ("2.5x", True)
    assert len(shown(plan, comparison)["measured"]["layers"]) == len(plan.layers)


def timed(name, seconds):
    row = {"predicted": seconds, "seconds": seconds, "against": "fp32", "speedup": 0.004 / seconds}
    rest = {"low": 1.0, "high": 9.0, "verdict": "faster", "drop_limit": None, "mismatches": 0}
    return TimedPlan(name=name, layers={}, **row, **rest)


def test_what_the_search_timed_is_shown(plan, opened):
    rows = (timed("fp32", 0.004), timed("w8a8", 0.003), timed("mixed 1", 0.0016))
    settings = {"runtime": "openvino", "batch": 8, "threads": 2, "noise": 0.02, "confidence": 0.95}
    chosen = {"best_uniform": "w8a8", "chosen": "mixed 1", "steal": None, "interrupted": False}
    measured = dataclasses.replace(plan, shortlist=Shortlist(plans=rows, **settings, **chosen))
    answer = shown(measured)["answer"]
    assert (answer["figure"], answer["how"]) == ("2.5x", "measured in openvino")
    page = opened(measured)
    assert "1.6 ms" in page.inner_text("#measured-table")
    assert page.locator("#frontier rect.solid").count() == 3


def test_of_many_uniform_plans_the_beaten_are_left_out(opened):
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    grid = searched(model, torch.randn(4, 64), hw="xeon_2vcpu_roofs", objective="intensity")
    assert len(grid.tables.formats) == 50
    document = shown(grid)
    rows = [row["name"] for row in document["table"]]
    points = {p.name: p for p in grid.frontier() if p.name not in {"", "plan", "fp32"}}
    for name, point in points.items():
        beaten = any(
            (q.bytes, q.drop) != (point.bytes, point.drop)
            and q.bytes <= point.bytes
            and q.drop <= point.drop
            for q in points.values()
        )
        assert (name in rows) != beaten
    assert f"{len(points) + 2 - len(rows)} uniform" in document["tableNotes"][0]
    assert opened(grid).locator("#legend li").count() < 10


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


# In a browser


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("There is no chromium; install Debian's package of that name to test the page.")
    driver_module = pytest.importorskip("playwright.sync_api")
    with driver_module.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Open a plan's page: errors and requests that leave the file fail the test at its end."""
    problems, contexts = [], []

    def open_(plan, comparison=None, width=1200, scheme="light"):
        path = tmp_path / "report.html"
        plan.report(path, comparison)
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append("a dialog"), dialog.dismiss()))
        page.on("request", lambda r: r.url == path.as_uri() or problems.append(r.url))
        page.goto(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert problems == []


def colours(page):
    return page.eval_on_selector_all("#bars .bar", "bars => bars.map(b => b.getAttribute('fill'))")


@pytest.mark.parametrize("name", ["plan", "cheapest"])
def test_the_slider_recolours_the_layers(plans, name, opened):
    page = opened(plans[name])
    document = shown(plans[name])
    assert len(document["slider"]) >= 4
    costs = [document["points"][i]["cost"] for i in document["slider"]]
    assert costs == sorted(costs, reverse=True)
    for step in (0, 1, len(document["slider"]) - 1):
        page.eval_on_selector(
            "#slider",
            "(s, v) => { s.value = v; s.dispatchEvent(new Event('input', {bubbles: true})); }",
            str(step),
        )
        point = document["points"][document["slider"][step]]
        wanted = [document["formats"][k]["colour"] for k in point["formats"]]
        assert colours(page) == wanted
        boxes = page.eval_on_selector_all(
            "#graph rect[fill^='#']", "b => b.map(x => x.getAttribute('fill'))"
        )
        assert boxes == wanted
        assert point["words"]["time"] in page.inner_text("#readout")


def test_the_keyboard_does_all(plan, opened):
    page = opened(plan)
    before = colours(page)
    page.focus("#slider")
    page.keyboard.press("Home")
    accurate = colours(page)
    assert accurate != before
    page.focus("#reset")
    page.keyboard.press("Enter")
    assert colours(page) == before
    page.focus("#table button")
    page.keyboard.press("Space")
    assert set(colours(page)) == {drawing.GREY}  # the first row is float32
    page.focus("#layer")
    page.keyboard.press("ArrowDown")
    assert plan.layers[1].op in page.inner_text("#layer-words")
    assert page.eval_on_selector("#layer", "s => s.value") == "1"
    unnamed = "svg:not([aria-label]), input:not([id]), section:not([aria-labelledby])"
    assert page.locator(unnamed).count() == 0


def test_every_plan_fits_a_narrow_screen(plans, opened):
    for name, plan in plans.items():
        page = opened(plan, width=400)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, name
        assert page.title() != "owned"
        assert page.locator("#bars .bar").count() == len(plan.layers), name


def test_a_notebook_shows_the_page_in_a_frame(plan, browser, tmp_path):
    path, problems = tmp_path / "notebook.html", []
    path.write_text("<!doctype html><title>notebook</title>" + plan._repr_html_())
    page = browser.new_page()
    page.on("console", lambda message: problems.append(message.text))
    page.goto(path.as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("#bars .bar").first.wait_for()
    assert "faster" in frame.locator("h1").inner_text()
    page.close()
    assert problems == []


def test_dark_is_dark(plan, opened, comparison):
    def background(scheme):
        page = opened(plan, comparison, scheme=scheme)
        assert page.locator("#measured circle").count() == len(plan.layers)
        text = page.eval_on_selector("body", "b => getComputedStyle(b).backgroundColor")
        return sum(map(int, re.findall(r"\d+", text)))

    assert background("dark") < 150
    assert background("light") > 600


def test_what_is_missing_is_hidden(plans, opened):
    page = opened(plans["old"])
    for part in ("#frontier-section", "#graph-section", "#roofline-section", "#heat-part"):
        assert not page.is_visible(part)
    assert page.is_visible("#bars")
    assert not opened(plans["one point"]).is_visible("#slider")
    page = opened(plans["cheapest"])
    assert not page.is_visible("#heat-part")
    assert "aiq search --frontier" in page.inner_text("#heat-missing")
    assert "aiq compare --layers" in page.inner_text("#measured-section")
    assert "not known" in page.inner_text("#frontier")
    page = opened(plans["measured in the loop"])
    assert not page.is_visible("#heat-part")
    assert "not known" in page.inner_text("#layer-table")


# The commands


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
    }
    assert shown(dataclasses.replace(plan, provenance=odd))["facts"]
    assert shown(dataclasses.replace(plan, provenance={}))["facts"]


def test_an_old_plan_has_no_frontier(plans, tmp_path):
    with pytest.raises(InputError, match="search again"):
        plans["old"].frontier()
    with pytest.raises(InputError, match="cannot be written"):
        plans["old"].report(tmp_path)
