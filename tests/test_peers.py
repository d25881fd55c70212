"""The table of the runtimes' own tools says what was measured."""

import copy

import numpy as np
import peers
import peers_report
import pytest
import torch
from torch import nn

INTERVAL = {"value": 0.95, "low": 0.9, "high": 1.01}
ROW = {
    "candidates": {
        "aiq": {
            "produced_s": 8.2,
            "seconds": {"value": 0.001},
            "ratio": {"value": 1.0, "low": 1.0, "high": 1.0},
            "accuracy": 0.93,
        },
        "nncf": {
            "produced_s": 21.7,
            "seconds": {"value": 0.00095},
            "ratio": INTERVAL,
            "accuracy": 0.931,
            "aiq_is_worse_by": 0.001,
            "aiq_is_worse_by_error": 0.0004,
        },
    },
    "noise": 0.012,
    "failures": {"nncf, accuracy control": "ValueError: no | there"},
}


def test_a_line_for_each_candidate():
    lines = peers_report.markdown({"zen": {"resnet20/1/openvino": ROW}}).splitlines()[2:]
    start = "| zen | resnet20, 1 | openvino |"
    assert lines == [
        f"{start} aiq | 1 | 1.2 % | 1.000 | 93.00 % |  | 8 |",
        f"{start} nncf | 0.950 (0.900 - 1.010) | 1.2 % | 0.950 | 93.10 % | 0.10 ± 0.04 pp | 22 |",
        f"{start} nncf, accuracy control | failed: ValueError: no / there |  |  |  |  |  |",
    ]
    only = peers_report.markdown({"zen": {"resnet20/1/openvino": ROW}}, peers_report.COMPARED)
    assert only.splitlines()[2:] == lines[1:]


def test_networks_of_random_weights_have_no_accuracy():
    row = copy.deepcopy(ROW)
    for found in row["candidates"].values():
        del found["accuracy"]
    assert "pp" not in peers_report.markdown({"zen": {"resnet50/1/openvino": row}})


def test_aiq_is_worse_by_the_images_that_only_the_tool_gets_right():
    exact, mine, theirs = np.ones(8), np.array([1.0] * 6 + [0, 0]), np.array([1.0] * 7 + [0])
    found = peers.accuracy(theirs, mine, exact)
    assert found["drop"] == pytest.approx(1 / 8)
    assert found["aiq_is_worse_by"] == pytest.approx(1 / 8)
    assert found["aiq_is_worse_by_error"] == pytest.approx(np.sqrt(1 / 8 * 7 / 8 / 8))


def test_rows_are_all_runtimes_and_batches():
    names = {"/".join(map(str, row)) for row in peers.rows()}
    assert len(names) == 6 * 2 * 3
    assert {"resnet20/128/openvino", "bert_base/16/inductor"} <= names


def test_tools_get_whole_batches_of_the_same_samples():
    network = peers.Network((2, 3))
    given = peers.inputs(network, nn.Identity(), 5, "auto")
    assert [len(x) for x in given.batches()] == [5, 5, 5, 5]
    assert torch.equal(torch.cat(given.batches())[:16], given.calibration)
    assert torch.equal(given.x, given.calibration[:5])
