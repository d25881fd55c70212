"""Drop tables survive the disk to the byte, and what is no table is refused."""

import json

import hostile
import numpy as np
import pytest
from hypothesis import given

from aiq.drops import DropTable, MeasuredPlan
from aiq.errors import InputError
from aiq.formats import parse

TABLE = DropTable(
    layers=("a", "b", "c"),
    formats=(parse("w8a8"), parse("w4")),
    drop=np.arange(6.0).reshape(3, 2) / 100,
    error=np.full((3, 2), 0.001),
    divergence=np.arange(6.0).reshape(3, 2),
    measured=None,
    method="measured",
    slope=2,
    baseline=0.9,
    samples=100,
    evaluations=7,
    seconds=1.5,
    measured_plans=(MeasuredPlan({"a": "w4", "b": "w8a8"}, 0.01, 0.002),),
)
DOCUMENT = json.loads(TABLE.to_json())
WHOLE = {"drop": 0, "error": 0}


def read(**changes):
    return DropTable.from_json(json.dumps(DOCUMENT | changes))


def test_round_trip_to_the_byte(tmp_path):
    TABLE.save(tmp_path / "drops.json")
    again = DropTable.load(tmp_path / "drops.json")
    assert again.to_json() == TABLE.to_json() == (tmp_path / "drops.json").read_text()
    assert again.predict({"a": parse("w8a8"), "c": parse("w4")}) == TABLE.drop[2, 1]
    assert again.measured_plans == TABLE.measured_plans
    assert read(measured=DOCUMENT["drop"]).measured.tolist() == TABLE.drop.tolist()


def test_a_table_of_version_2_loads():
    document = DOCUMENT | {"schema": "aiq/loss-table/v2"}
    document["loss"] = document.pop("drop")
    document["whole"] = document.pop("measured_plans")
    assert DropTable.from_json(json.dumps(document)).to_json() == TABLE.to_json()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": "aiq/loss-table/v1"}, "schema is not aiq/drop-table/v3"),
        ({"drop": [[0, 0], [0, 0]]}, "a row for each layer"),
        ({"drop": [[0, 0, 0], [0, 0, 0]]}, "a row for each layer"),
        ({"drop": [0] * 6}, r"drop\[0\]"),
        ({"drop": [[0, 0], [0, 0], [0, "0.5"]]}, r"drop\[2\]\[1\]"),
        ({"drop": [[0, 0], [0, 0], [0, True]]}, r"drop\[2\]\[1\]"),
        ({"drop": [[0, 0], [0, 0], [0, 1e308]]}, r"drop\[2\]\[1\]"),
        ({"error": [[0, 0], [0, 0], [0, -1]]}, r"error\[2\]\[1\]"),
        ({"divergence": [[0, 0], [0, 0], [0, float("nan")]]}, "invalid character"),
        ({"measured": [[0, 0]]}, "a row for each layer"),
        ({"layers": ["a", "b", "a"]}, "each layer and each format once"),
        ({"layers": [1, 2, 3]}, r"layers\[0\]"),
        ({"formats": ["w8a8", "W8A8"]}, "each layer and each format once"),
        ({"formats": ["w8a8", "w9"]}, "Unknown format 'w9'"),
        ({"samples": -1}, "samples"),
        ({"slope": None}, "slope"),
        (
            {"measured_plans": [{"formats": {"a": "zz"}, "drop": 0, "error": 0}]},
            "Unknown format 'zz'",
        ),
        (
            {"measured_plans": [{"formats": "x", "drop": 0, "error": 0}]},
            r"measured_plans\[0\].formats",
        ),
        ({"surprise": 1}, "'surprise' is unknown"),
    ],
)
def test_broken_tables(changes, words):
    with pytest.raises(InputError, match=rf"is not a drop table \(.*{words}"):
        read(**changes)


@given(hostile.documents(DOCUMENT))
def test_a_hostile_table_is_refused_or_can_be_used(document):
    try:
        found = DropTable.from_json(json.dumps(document))
    except InputError:
        return
    shape = len(found.layers), len(found.formats)
    for values in (found.drop, found.error, found.divergence):
        assert values.shape == shape
        assert np.isfinite(values).all()
    again = found.to_json()
    assert DropTable.from_json(again).to_json() == again
