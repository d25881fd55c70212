"""What the prediction benchmark makes of timing a row again."""

import numpy as np
import pytest
from prediction import mean


def row(times, noise, plans=(0, 1)):
    return {
        "measured": times,
        "anchor": 1.0,
        "noise": noise,
        "steal": 0.0,
        "passes": 1,
        "plans": plans,
    }


def test_quiet_passes_count_most():
    passes = [([2.0, 1.0], 0.02), ([8.0, 2.0], 0.04), ([5.0, 5.0], 0.1)]
    found = row(*passes[0])
    for again in passes[1:]:
        found = mean(found, row(*again))
    times, noise = np.log([t for t, _ in passes]), np.array([n for _, n in passes])
    expected = np.exp(np.average(times, axis=0, weights=1 / noise**2))  # whatever their order
    assert found["measured"] == pytest.approx(expected.tolist())
    assert found["noise"] == pytest.approx(np.sum(1 / noise**2) ** -0.5)
    assert found["passes"] == 3


def test_a_pass_without_noise_is_not_all():
    found = mean(row([4.0], 0.0), row([1.0], 0.0))
    assert found["measured"] == pytest.approx([2.0])


def test_other_plans_are_another_row():
    now = row([1.0, 1.0], 0.1, plans=(1, 1))
    assert mean(row([4.0, 4.0], 0.1), now) == now
