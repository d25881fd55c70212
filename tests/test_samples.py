"""The file of a calibration's samples: what it keeps, and what it refuses."""

import json
import math

import hostile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_machine import random_samples

from aiq.calibrate.samples import Sample, Store
from aiq.errors import InputError

ROOFS = {"threads": 2, "peaks": {"fp32": 10.0}, "kib": [8.0], "gbps": [100.0]}


@pytest.fixture(scope="module")
def samples():
    return random_samples()


def test_samples_survive_and_only_for_what_they_hold(tmp_path, samples):
    path = tmp_path / "samples.json"
    signature = {"threads": 2, "versions": ("a", "b")}
    store = Store(path, signature)
    store.add(samples[:1])
    store.set("roofs", ROOFS)
    again = Store(path, signature)
    assert again.samples == {samples[0].name: samples[0]}
    assert again.values == {"roofs": ROOFS}
    before = path.read_bytes()
    again.add([])
    assert path.read_bytes() == before, "the same to the byte"
    with pytest.raises(InputError, match="another threads; name another file"):
        Store(path, signature | {"threads": 1})
    with pytest.raises(InputError, match="has no noise of its times yet"):
        _ = again.noise
    path.write_text(path.read_text()[:-20])
    with pytest.raises(InputError, match="is not a file of a calibration's samples"):
        Store(path, signature)
    path.write_text('{"schema": "other"}')
    with pytest.raises(InputError, match="schema"):
        Store(path, signature)
    with pytest.raises(InputError, match=r"cannot be written .*name another file"):
        Store(path / "below", signature)


def test_two_calibrations_at_once_keep_the_samples_of_both(tmp_path, samples):
    path = tmp_path / "samples.json"
    one, two = Store(path, {}), Store(path, {})
    one.add(samples[:2])
    one.set("noise", {"0": 0.1})
    two.add(samples[2:4])
    two.set("noise", {"1": 0.3})
    one.add(samples[4:5])
    found = Store(path, {})
    assert found.samples == {sample.name: sample for sample in samples[:5]}
    assert found.noise == pytest.approx(0.2)


@settings(max_examples=30)  # each writes several files
@given(data=st.data())
def test_a_hostile_store_is_refused_or_can_be_used(samples, data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "hostile.json"
    path.unlink(missing_ok=True)
    store = Store(path, {"threads": 2})
    for key, value in (("roofs", ROOFS), ("noise", {"0": 0.1}), ("steal", 0.0)):
        store.set(key, value)
    store.add(samples[:2])
    document = data.draw(hostile.documents(json.loads(path.read_text())))
    path.write_text(json.dumps(document))
    try:
        again = Store(path, {"threads": 2})
    except InputError:
        return
    again.add(samples[:3])
    for found in again.samples.values():
        assert math.isfinite(found.seconds)
        assert 0 < found.anchor < math.inf
    assert Store(path, {"threads": 2}).samples == again.samples


def test_of_several_passes_the_mean_counts(tmp_path):
    def timed(seconds, anchor):
        return [
            Sample("chain/fp32/0", seconds, (), anchor),
            Sample("chain/fp32/0#0", seconds / 4, (), anchor, is_whole=False),
        ]

    path = tmp_path / "samples.json"
    for found in (timed(1.0, 3.0), timed(4.0, 3.0), timed(16.0, 24.0)):
        Store(path, {}).add(found)
    whole, layer = Store(path, {}).samples.values()
    assert (whole.passes, layer.passes) == (3, 3)
    assert whole.seconds == pytest.approx(4.0)
    assert whole.anchor == pytest.approx(6.0)
    assert layer.seconds == pytest.approx(1.0)
