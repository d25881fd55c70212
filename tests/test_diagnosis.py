"""What went wrong in a search is said first, on networks that were made to show it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import aiq
from aiq.hardware import Hardware

XEON = Hardware.load("xeon_2vcpu_roofs")


@pytest.fixture(scope="module")
def ruined():
    """Return the plan of a network that reads one huge number beside those that count."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 10, bias=False)).eval()
    x = torch.randn(400, 16)
    x[:, 0] *= 1e6
    with torch.no_grad():
        model[0].weight[:, 0] = 0
    data = [(x, model(x).argmax(1))]
    return aiq.search(
        model, XEON, data, runtime=None, formats="fp32,w8a8", cache=False, progress=None
    )


def test_a_collapse_is_named_with_its_cure(ruined):
    assert {layer.format for layer in ruined.layers} == {"fp32"}
    lines = str(ruined).splitlines()
    (warning,) = (line for line in lines[:3] if line.startswith("Warning"))
    assert "accuracy collapse: w8a8 everywhere loses" in warning
    assert "calibrate on data like that in use" in str(ruined)


def test_the_report_says_it_too(ruined, tmp_path):
    ruined.report(tmp_path / "plan.html")
    assert "Accuracy collapse: w8a8 everywhere" in (tmp_path / "plan.html").read_text()


def test_a_plan_that_collapses_itself_is_named(ruined):
    allowed = replace(ruined.accuracy, plan=0.1, baseline=0.9)
    assert "this plan loses 80 pp of 90 %" in str(replace(ruined, accuracy=allowed))


def of_large_matrices(hardware):
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)).eval()
    return aiq.search(
        model,
        hardware,
        example_inputs=torch.randn(512, 512),
        objective="intensity",
        formats="w8a8",
        max_drop=1.0,
        progress=None,
    )


def test_fewer_bytes_without_faster_arithmetic_are_named():
    float_peak = XEON.peak_gflops["fp32"]
    slow = replace(XEON, peak_gflops=dict.fromkeys(XEON.peak_gflops, float_peak))
    assert "bound by arithmetic: 2.7x fewer bytes" in str(of_large_matrices(slow))
    assert "bound by arithmetic" not in str(of_large_matrices(XEON))


def test_a_search_that_did_not_converge_is_named(ruined):
    proof = replace(ruined.proof, status="time_limit", gap=0.12)
    shown = str(replace(ruined, proof=proof))
    assert "not converged: the search ended (time limit)" in shown
    assert "a plan up to 12 % better was possible" in " ".join(shown.split())
    assert "not converged" not in str(replace(ruined, proof=replace(proof, gap=0.01)))


def test_a_plan_as_it_should_be_has_no_warning():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 10)).eval()
    x = torch.randn(400, 16)
    plan = aiq.search(
        model,
        XEON,
        [(x, model(x).argmax(1))],
        runtime=None,
        formats="fp32,w8a8",
        max_drop=0.2,
        cache=False,
        progress=None,
    )
    assert "Warning" not in str(plan)
