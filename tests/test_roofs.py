"""The roofs of a machine: peaks, levels of memory, and the profile that has only these."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from known_machine import TOY

from aiq import calibrate
from aiq.calibrate import roofs, this_machine
from aiq.errors import HardwareError


def test_levels_are_found_where_the_bandwidth_falls():
    sizes = roofs.working_sets(2, 256 * 1024)
    speed = [400 if s <= 60 else 150 if s <= 2048 else 60 if s <= 40_000 else 20 for s in sizes]
    rng = np.random.default_rng(0)
    noisy = tuple(v * float(1 - 0.08 * rng.random()) for v in speed)
    found = roofs.levels(roofs.Sweep(tuple(sizes), noisy), memory_kib=16 * 2**20)
    assert [level.level for level in found] == ["L1", "L2", "L3", "DRAM"]
    for level, size, gbps in zip(
        found, (60, 2048, 40_000, 16 * 2**20), (400, 150, 60, 20), strict=True
    ):
        assert level.read_gbps == pytest.approx(gbps, rel=0.1)
        assert level.size_kib == pytest.approx(size, rel=0.45)  # sweep steps are 41 % apart


def test_a_flat_sweep_is_one_level():
    sizes = tuple(roofs.working_sets(1, 1024))
    (only,) = roofs.levels(roofs.Sweep(sizes, (30.0,) * len(sizes)), memory_kib=512)
    assert (only.level, only.size_kib, only.read_gbps) == ("DRAM", 512, 30.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_products_in_floating_point_are_that_of_two_square_matrices(dtype):
    if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bfloat16 here")
    for kernel, is_layer in ((roofs._float_product(dtype), False), (roofs._linear(dtype), True)):
        torch.manual_seed(0)
        left, right = (torch.rand(64, 64).to(dtype) for _ in range(2))
        torch.manual_seed(0)
        expected = left.double() @ (right.T if is_layer else right).double()
        assert torch.allclose(kernel(64)().double(), expected, rtol=2e-2)


def test_the_roofs_of_this_machine():
    fp32 = roofs.peak_gflops("fp32")
    assert fp32 is not None
    assert 0.1 < fp32 < 1e6
    assert 0.1 < roofs.read_gbps(64, 1) < 1e5


def test_best_of_many():
    looks = map(float, itertools.count())  # a clock that advances by one at every look
    assert roofs.best_seconds(lambda: None, seconds=0, clock=lambda: next(looks)) == 1.0


def test_a_profile_names_the_limits_that_it_was_measured_under(monkeypatch):
    found = {"threads": 1, "peaks": {"fp32": 9.0}, "kib": [16.0, 1024.0], "gbps": [80.0, 20.0]}
    monkeypatch.setattr(this_machine, "_roofs", lambda threads, report: found)
    assert "AVX2" not in calibrate.quick().description
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    profile = calibrate.quick()
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in profile.description
    assert profile.provenance["machine"]["limits"] == {"ONEDNN_MAX_CPU_ISA": "AVX2"}


def test_differences_between_a_profile_and_this_machine(monkeypatch):
    here = replace(
        TOY,
        peak_gflops={"fp32": 50.0, "int8": 400.0},
        memory=(replace(TOY.memory[0], read_gbps=90.0), replace(TOY.memory[1], read_gbps=30.0)),
    )
    monkeypatch.setattr(this_machine, "quick", lambda progress, force: here)
    found = {difference.key: difference.ratio for difference in calibrate.compare_roofs(TOY)}
    assert found == {
        "compute.fp32.peak_gflops": 0.5,
        "compute.int8.peak_gflops": 1.0,
        "memory.L2.read_gbps": 0.9,
        "memory.DRAM.read_gbps": 1.5,
    }


def test_an_impossible_profile_is_not_written(tmp_path):
    path = tmp_path / "bad.yaml"
    with pytest.raises(HardwareError, match="compute"):
        replace(TOY, peak_gflops={"fp32": -1.0}).save(path)
    assert not path.exists()
