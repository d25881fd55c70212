"""The commands of hardware profiles: list, show, compare, validate, calibrate."""

import json
from dataclasses import replace

import pytest
from command_line import run

import aiq
from aiq import hardware
from aiq.hardware import plausible

CALIBRATED = """
schema: aiq/hw-profile/v1
name: toy
description: "[bold] is no markup"
provenance: {method: measured, date: 2026-01-31, sources: [none]}
threads: 1
compute: {fp32: {peak_gflops: 100}, int8: {peak_gflops: 400}}
memory: [{level: DRAM, size_kib: 1e6, read_gbps: 9}]
runtimes:
  inductor:
    version: "1"
    run_overhead_us: 7
    formats: {fp32: {support: native, runs_as: fp32}, wN: {support: dequant, runs_as: fp32}}
    kernels: {conv: {fp32: {start_us: 2, compute: 0.5, memory: 0.5, output_ns: 1}}}
    boundaries: {fp32_to_int8: {start_us: 10, memory: 1, output_ns: 0}}
    fuses: [pool]
    fit: {samples: 10, noise: 0.01, mape: 0.05, low: 0.9, high: 1.2}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_profiles_are_listed_and_a_broken_one_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "broken.yaml").write_text("schema: [")
    monkeypatch.setenv("AIQ_HW_PROFILES", str(tmp_path))
    listed = run("profiles")
    assert "xeon_2vcpu" in listed.stdout
    assert "left out" in listed.stderr
    assert "broken.yaml" in listed.stderr.replace("\n", "")
    found = json.loads(run("profiles", "list", "--json").stdout)
    assert found == json.loads(run("profiles", "--json").stdout)
    assert {"xeon_2vcpu", "t4"} <= {profile["name"] for profile in found}


def test_profiles_show():
    assert "32.7 GB/s" in run("profiles", "show", "xeon_2vcpu_roofs").stdout
    document = json.loads(run("profiles", "show", "xeon_2vcpu_roofs", "--json").stdout)
    assert document["compute"]["fp32"]["peak_gflops"] == 480
    assert document["memory"][-1]["read_gbps"] == 32.7


def test_profiles_show_what_a_runtime_makes_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "toy.yaml"
    path.write_text(CALIBRATED)
    shown = run("profiles", "show", str(path)).stdout
    for words in ("wN dequant (as fp32)", "10 programs, error 5.0 %", "conv fp32", "fp32_to_int8"):
        assert words in shown


def test_profiles_compare():
    document = json.loads(run("profiles", "compare", "t4", "l4", "--json").stdout)
    assert (document["first"], document["second"]) == ("t4", "l4")
    rows = {row["key"]: (row["first"], row["second"], row["ratio"]) for row in document["numbers"]}
    assert rows["compute.fp16.peak_gflops"] == (65000, 121000, 121000 / 65000)
    assert rows["memory.DRAM.read_gbps"] == (320, 300, 300 / 320)
    assert rows["compute.bf16.peak_gflops"] == (None, 121000, None)
    assert "1.86x" in run("profiles", "compare", "t4", "l4").stdout


def test_profiles_validate(here):
    (here / "toy.yaml").write_text(CALIBRATED)
    assert "toy.yaml: valid" in run("profiles", "validate", "toy.yaml").stdout
    assert json.loads(run("profiles", "validate", "toy.yaml", "--json").stdout)["valid"]


def test_quick_calibration_writes_a_profile_that_loads(here, monkeypatch):
    monkeypatch.setattr(plausible, "problems", lambda document: ())  # a busy machine may be odd
    shown = run("calibrate", "--quick", "--threads", "1", "-o", "mine.yaml", "--json").stdout
    mine = hardware.validate("mine.yaml")
    assert hardware.to_document(mine) == json.loads(shown)
    assert mine.threads == 1
    assert mine.peak_gflops["fp32"] > 0
    assert mine.dram_gbps > 0


def test_calibration_measures_each_runtime_into_one_profile(here, monkeypatch):
    toy = hardware.parse_profile(CALIBRATED, "toy.yaml")
    asked = []

    def measure(runtime, *, name, threads, again, force, add_to=None, progress=None):
        assert again
        assert not force
        asked.append((runtime, name, threads, add_to and sorted(add_to.runtimes)))
        known = {**(add_to.runtimes if add_to else {}), runtime: toy.runtimes["inductor"]}
        return replace(toy, name=name, runtimes=known)

    monkeypatch.setattr(aiq.calibrate, "calibrate", measure)
    arguments = ("--runtime", "eager", "--runtime", "inductor", "--threads", "1", "--again")
    assert "saved mine.yaml" in run("calibrate", "-o", "mine.yaml", *arguments).stderr
    assert asked == [("eager", "mine", 1, None), ("inductor", "mine", 1, ["eager"])]
    assert sorted(hardware.validate("mine.yaml").runtimes) == ["eager", "inductor"]


def test_calibration_compares_this_machine_with_a_profile(here, monkeypatch):
    (here / "toy.yaml").write_text(CALIBRATED)
    quick = hardware.parse_profile(
        CALIBRATED.replace("peak_gflops: 100", "peak_gflops: 80"), "toy.yaml"
    )
    monkeypatch.setattr("aiq.calibrate.this_machine.quick", lambda progress, force: quick)
    document = json.loads(run("calibrate", "--compare", "toy.yaml", "--json").stdout)
    rows = {row["key"]: row["ratio"] for row in document["numbers"]}
    assert rows["compute.fp32.peak_gflops"] == 0.8
    assert rows["memory.DRAM.read_gbps"] == 1
    assert "0.80x" in run("calibrate", "--compare", "toy.yaml").stdout
