"""The report in a browser: it reacts, fits any screen, and asks for nothing outside its file."""

import dataclasses
import re
import shutil

import pytest
import torch
from reports import searched, shown
from torch import nn

from aiq.plan import Shortlist, TimedPlan
from aiq.report import drawing

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


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
