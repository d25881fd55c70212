"""Plans survive the disk, and what is not a plan is refused."""

import dataclasses
import json

import hostile
import pytest
import reports
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import aiq
from aiq.errors import InputError
from aiq.formats import parse


@pytest.fixture(scope="module")
def plan():
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(50, 64, generator=generator), torch.arange(50) % 10)]
    return aiq.search(net, "xeon_2vcpu_roofs", data, formats="fp32,w8a8,w4", max_drop=0.5)


def test_round_trip(plan, tmp_path):
    path = tmp_path / "deep" / "plan.json"
    plan.save(path)
    assert aiq.Plan.load(path) == plan
    assert aiq.Plan.from_json(plan.to_json()) == plan
    assert aiq.Plan.load(path).to_json() == path.read_text()
    assert [p.name for p in path.parent.iterdir()] == ["plan.json"]


def test_formats_name_every_layer(plan):
    assert plan.formats == {layer.name: parse(layer.format) for layer in plan.layers}
    assert list(plan.formats) == ["0", "2"]


def test_text_tells_the_story(plan):
    text = str(plan)
    for word in ("FLOP/byte", "accuracy", "measured", "proof", "optimal", *plan.formats):
        assert word in text


def test_provenance_is_enough_to_repeat(plan):
    assert plan.provenance["formats"] == ["fp32", "w8a8", "w4"]
    assert plan.provenance["max_drop"] == 0.5
    assert torch.__version__.startswith(plan.provenance["machine"]["packages"]["torch"])


def test_a_plan_of_version_1_loads(plan):
    old = reports.version_1(plan)
    assert aiq.Plan.from_json(old) == dataclasses.replace(plan, workload=None, tables=None)
    document = json.loads(old)
    document["layers"][0]["drop"] = 0.0
    with pytest.raises(InputError, match="is not a plan"):
        aiq.Plan.from_json(json.dumps(document))


def broken(plan, **changes):
    return json.dumps(json.loads(plan.to_json()) | {"tables": None} | changes)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"schema": "aiq/plan/v1"}', "[" * 100_000],
)
def test_not_a_plan(text, tmp_path):
    with pytest.raises(InputError, match="is not a plan"):
        aiq.Plan.from_json(text)
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.json"):
        aiq.Plan.load(path)


TIMED = {
    "name": "w8a8", "layers": {"w8a8": 2}, "predicted": 1.0, "seconds": 1.0, "against": "w8a8",
    "speedup": 1.0, "low": 1.0, "high": 1.0, "verdict": "indistinguishable", "drop_limit": None,
    "mismatches": 0,
}  # fmt: skip
SHORTLIST = {
    "runtime": "inductor", "batch": 1, "threads": 1, "plans": [TIMED], "best_uniform": "w8a8",
    "chosen": "w8a8", "noise": 0.0, "confidence": 0.95, "steal": None, "interrupted": False,
}  # fmt: skip


def test_broken_plans(plan):
    row = dataclasses.asdict(plan.layers[0])
    for changes, words in (
        ({"schema": "aiq/plan/v9"}, "schema is not aiq/plan/v2"),
        ({"layers": [row | {"format": "w99"}]}, "Unknown format 'w99'"),
        ({"layers": [row | {"format": "W8A8\n"}]}, r"layers\[0\].format"),
        ({"layers": [row | {"format": " w8a8"}]}, "not written as aiq writes it"),
        ({"layers": [row | {"extra": 1}]}, "'extra' is unknown at `layers\\[0\\]`"),
        ({"layers": [row | {"flops": -1}]}, r"layers\[0\].flops"),
        ({"layers": [row | {"flops": 10**400}]}, "layers"),
        ({"layers": [row | {"flops": True}]}, r"layers\[0\].flops"),
        ({"layers": [row | {"drop": float("nan")}]}, "invalid character"),
        ({"layers": [row | {"name": "\x1b[31m"}]}, r"layers\[0\].name"),
        ({"layers": [row, row]}, "repeats '0'"),
        ({"surprise": 1}, "'surprise' is unknown"),
        ({"proof": None}, "at `proof`"),
        ({"seconds": "1"}, "at `seconds`"),
        ({"shortlist": SHORTLIST | {"chosen": "w4"}}, "lack the chosen one"),
        ({"shortlist": SHORTLIST | {"plans": [TIMED, TIMED]}}, "repeat a name"),
        ({"shortlist": SHORTLIST | {"plans": []}}, "lack the chosen one"),
    ):
        with pytest.raises(InputError, match=rf"is not a plan \(.*{words}"):
            aiq.Plan.from_json(broken(plan, **changes))
    twice = broken(plan)[:-1] + ', "layers": []}'
    with pytest.raises(InputError, match="repeats the key 'layers'"):
        aiq.Plan.from_json(twice)


def test_a_plan_of_layers_without_work_can_be_shown(plan):
    nothing = json.loads(plan.to_json())["baseline"] | {"intensity": 0}
    assert "1.00x" in str(aiq.Plan.from_json(broken(plan, baseline=nothing)))


def test_plans_written_before_there_was_a_shortlist_are_read(plan):
    document = json.loads(plan.to_json())
    del document["shortlist"]
    assert aiq.Plan.from_json(json.dumps(document)) == plan


@given(data=st.data())
def test_a_hostile_plan_is_refused_or_can_be_used(plan, data):
    document = json.loads(plan.to_json()) | {"shortlist": SHORTLIST}
    text = json.dumps(data.draw(hostile.documents(document)))
    try:
        found = aiq.Plan.from_json(text)
    except InputError:
        return
    assert str(found)
    assert set(found.formats) == {layer.name for layer in found.layers}
    again = found.to_json()
    assert aiq.Plan.from_json(again).to_json() == again


def test_unreadable(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        aiq.Plan.load(tmp_path / "none.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        aiq.Plan.load(tmp_path / "binary")
