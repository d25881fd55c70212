"""Which fits the benchmark of calibrations makes of kept samples."""

from calibration import variants

from aiq.calibrate.fit import PRIOR
from aiq.calibrate.samples import Sample, Store


def test_first_programs_come_with_their_layers_and_all_else_with_one_change():
    store = Store(None, {})
    for anchor, name in enumerate("abc", 3):
        parts = (0, "rest")
        layers = [Sample(f"{name}#{i}", 1.0, (), anchor, is_whole=False) for i in parts]
        store.add([Sample(name, 4.0, (), anchor), *layers])
    whole, first, *others = variants(store, [2, 3, 400])
    every = list(store.samples.values())
    assert list(whole.samples) == every
    assert list(first.samples) == every[:6]
    for other in others:
        changed = [list(other.samples) != every, other.prior != PRIOR]
        assert sorted(changed) == [False, True], other.name
    assert len({fit.name for fit in (whole, first, *others)}) == 2 + len(others)
