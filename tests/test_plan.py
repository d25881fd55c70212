"""Plans survive the disk, and what is not a plan is refused."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import aiq
from aiq.errors import InputError
from aiq.formats import parse


@pytest.fixture(scope="module")
def plan():
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(50, 64, generator=generator), torch.arange(50) % 10)]
    return aiq.search(net, "xeon_2vcpu", data, formats="fp32,w8a8,w4", max_drop=0.5)


def test_round_trip(plan, tmp_path):
    path = tmp_path / "deep" / "plan.json"
    plan.save(path)
    assert aiq.Plan.load(path) == plan
    assert aiq.Plan.from_json(plan.to_json()) == plan
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


def broken(plan, **changes):
    return json.dumps(json.loads(plan.to_json()) | changes)


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


def test_broken_plans(plan):
    row = dataclasses.asdict(plan.layers[0])
    for changes in (
        {"schema": "aiq/plan/v9"},
        {"layers": [row | {"format": "w99"}]},
        {"layers": [row | {"extra": 1}]},
        {"surprise": 1},
        {"proof": None},
    ):
        with pytest.raises(InputError, match="is not a plan"):
            aiq.Plan.from_json(broken(plan, **changes))


def test_unreadable(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        aiq.Plan.load(tmp_path / "none.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        aiq.Plan.load(tmp_path / "binary")
