"""What the prediction benchmark makes of timing a row again."""

from types import SimpleNamespace

import pytest
from prediction import nearest


def row(measured, anchor, plans=(0, 1)):
    return {"measured": measured, "anchor": anchor, "passes": 1, "plans": plans}


def profile(anchor_us):
    runtime = SimpleNamespace(fit=SimpleNamespace(anchor_us=anchor_us))
    return SimpleNamespace(runtimes={"openvino": runtime})


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_of_several_timings_the_one_at_the_speed_of_the_calibration_counts(order):
    timings = [row([4.0], 1.1e-3), row([2.0], 0.98e-3), row([3.0], 0.9e-3)]
    first, *others = (timings[index] for index in order)
    for again in others:
        first = nearest(first, again, profile(1000.0), "openvino")
    assert first == {**timings[1], "passes": 3}


def test_other_plans_are_another_row_and_without_an_anchor_the_last_counts():
    now = row([1.0, 1.0], 9.0, plans=(1, 1))
    assert nearest(row([4.0, 4.0], 1e-3), now, profile(1000.0), "openvino") == now
    before, now = row([4.0], 1.0), row([3.0], 2.0)
    assert nearest(before, now, profile(None), "openvino") == now
