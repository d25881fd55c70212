"""What the prediction benchmark says of plans, on rows made by hand."""

import pytest
from prediction_report import of_plans, over_all, per_program


@pytest.fixture
def row():
    """Float32 twice, once disturbed; a plan; float32 for the third time; another plan."""
    return {
        "plans": [[0, 0], [0, 0], [0, 1], [0, 0], [1, 1]],
        "measured": [4.0, 6.0, 2.5, 5.0, 2.0],
        "level 2": [5.0, 5.0, 2.5, 5.0, 2.0],
        "noise": 0.1,
    }


def test_plan_drawn_again_is_one_program(row):
    assert per_program(row).tolist() == [5.0, 5.0, 2.5, 5.0, 2.0]


def test_speed_ups_are_over_the_median_of_float32(row):
    said = of_plans(row, "level 2")
    assert said["MAPE"] == 0
    assert said["decided"] == 2
    assert said["sign"] == 1
    assert said["regret"] == 0


def test_a_slower_plan_chosen_is_regretted(row):
    row["level 2"][-1] = 3.0  # so that the other plan is chosen
    said = of_plans(row, "level 2")
    assert said["regret"] == pytest.approx(2.5 / 2.0 - 1)
    assert said["worst"] == pytest.approx(1 - (5 / 3) / (5 / 2))


def test_of_several_networks_the_plans_count_and_the_worst_ranks():
    common = {"noise": 0.02, "regret": 0.0}
    found = over_all(
        [
            {"rows": 30, "MAPE": 0.1, "sign": 1.0, "decided": 5, "Spearman": 0.9, **common},
            {"rows": 10, "MAPE": 0.5, "sign": 0.8, "decided": 15, "Spearman": 0.95, **common},
            {"rows": 10, "MAPE": 0.2, "sign": 1.0, "decided": 0, "Spearman": None, **common},
        ]
    )
    assert found["rows"] == 50
    assert found["MAPE"] == pytest.approx((3 + 5 + 2) / 50)
    assert found["sign"] == pytest.approx(17 / 20)
    assert found["Spearman"] == 0.0  # no ranks at all: all predicted alike
    assert found["noise"] == 0.02
