"""Calibrations: whole, brief, limited, disturbed, and stopped on their way."""

import json

import pytest
from known_machine import RUN, TOY

from aiq import calibrate, machine, runtimes
from aiq.calibrate import brief_calibration, calibration, chains, programs, roofs
from aiq.calibrate.fit import Coefficients
from aiq.calibrate.samples import Sample
from aiq.cost import calibrated_table
from aiq.formats import parse, parse_all
from aiq.graph import trace
from aiq.hardware import Hardware
from aiq.hardware.runtime_profile import Fit
from aiq.runtimes.eager import Eager

NAMES = ("pointwise/fp32/0", "linear/bf16/0", "residual/fp32+bf16/0", "attention/fp32/0")


def test_a_brief_calibration_times_the_same_networks_in_every_format(monkeypatch):
    timed = []

    def sample(runtime, names, anchor, **_):
        for name in names:
            network = chains.program(name)
            made_of = programs.cut(
                runtime, trace(network.module, network.inputs).graph, network.formats
            )
            seconds = 1e-3 if "fp32" in name else 5e-4
            timed.append(Sample(name, seconds, made_of.pieces, anchor=1e-3))
        return timed, 0.01

    monkeypatch.setattr(programs, "samples", sample)
    monkeypatch.setattr(brief_calibration, "anchor", lambda runtime: None)
    profile = calibrate.brief("inductor", TOY, "thumbnails", count=2, force=True)
    floats, integers = timed[::2], timed[1::2]
    assert len(floats) == len(integers) == 2
    for one, two in zip(floats, integers, strict=True):
        shapes = [[piece.shape for piece in part.pieces if piece.shape] for part in (one, two)]
        assert shapes[0] == shapes[1]
    section = profile.runtimes["inductor"]
    assert section.fit.samples == 4
    assert {"fp32", "int8"} <= set(section.kernels["conv"])


def test_a_brief_calibration_of_all_kinds_ends_in_time(monkeypatch):
    asked, now = [], [0.0]

    def sample(runtime, names, anchor, **_):
        asked.append(names)
        now[0] += 40
        samples = []
        for name in names:
            network = chains.program(name)
            graph = trace(network.module, network.inputs).graph
            pieces = programs.cut(runtime, graph, network.formats).pieces
            samples.append(Sample(name, 1e-3, pieces, anchor=1e-3))
        return samples, 0.01 * len(asked)

    monkeypatch.setattr(programs, "BUNDLE", 3)
    monkeypatch.setattr(programs, "samples", sample)
    monkeypatch.setattr(brief_calibration, "anchor", lambda runtime: None)
    monkeypatch.setattr(brief_calibration.time, "monotonic", lambda: now[0])
    section = calibrate.brief("eager", TOY, force=True).runtimes["eager"]
    assert [*asked[0], *asked[1]] == chains.program_names(("fp32", "bf16"), 1)[:6]
    assert section.fit.samples == 6
    assert (len(asked), section.fit.noise) == (2, 0.02)


def cut(name):
    program = chains.program(name)
    graph = trace(program.module.to("meta"), program.inputs.to("meta")).graph
    planned = {layer: parse(fmt) for layer, fmt in program.formats.items()}
    return graph, planned


class StoppedError(Exception):
    pass


@pytest.fixture
def bundles(monkeypatch):
    """Four programs, timed in two bundles: collects the names in each."""
    monkeypatch.setattr(chains, "program_names", lambda formats, count: list(NAMES))
    monkeypatch.setattr(runtimes, "get", lambda name: Eager())
    monkeypatch.setattr(
        roofs, "working_sets", lambda threads, largest: [16.0, 64.0, 256.0, 1024.0, 4096.0]
    )
    monkeypatch.setattr(programs, "BUNDLE", 2)
    monkeypatch.setattr(programs, "_ROUNDS", 2)
    monkeypatch.setattr(programs, "_LEAST_SECONDS", 0.0)
    found, real = [], programs.samples

    def samples(engine, names, anchor, **options):
        found.append(list(names))
        return real(engine, names, anchor, **options)

    monkeypatch.setattr(programs, "samples", samples)
    return found


def test_a_machine_that_slows_down_changes_no_sample(tmp_path, monkeypatch, bundles):
    def fitted(*speeds):
        """Return what the fit is given when the machine slows bundles down."""
        left, found = list(speeds), []

        def samples(engine, names, anchor, **options):
            slow = left.pop(0)
            times = [slow * 1e-4 * (NAMES.index(name) + 1) for name in names]
            return [Sample(n, t, (), slow * 2e-4) for n, t in zip(names, times, strict=True)], 0.01

        monkeypatch.setattr(programs, "samples", samples)
        monkeypatch.setattr(
            calibration,
            "fit",
            lambda samples, *_: (
                found.extend(s.seconds for s in samples)
                or Coefficients(RUN, {}, Fit(4, 0.01, 0.1, 0.9, 1.1))
            ),
        )
        path = tmp_path / f"{speeds}.json"
        section = calibrate.calibrate("eager", threads=1, samples=path).runtimes["eager"]
        assert section.fit.anchor_us == pytest.approx(200)
        return found

    assert fitted(1.0, 3.0) == pytest.approx(fitted(1.0, 1.0))


def test_a_limit_waits_for_one_program_of_each_kind(tmp_path, monkeypatch, bundles):
    monkeypatch.setattr(chains, "program_names", lambda formats, count: list(NAMES[: 2 * count]))
    found = calibrate.calibrate(
        "eager", threads=1, samples=tmp_path / "samples.json", count=2, limit=0
    ).runtimes["eager"]
    assert found.fit.samples == 2
    # Two programs have few kernels, yet a network of many others can be predicted.
    assert {"pool", "softmax", "depthwise", "gelu", "mean", "residual"} <= found.kernels.keys()
    assert found.boundaries.keys() == {"fp32_to_bf16", "bf16_to_fp32"}


def test_a_profile_names_the_most_time_that_was_stolen_in_any_call(tmp_path, monkeypatch, bundles):
    def sources(steal):
        monkeypatch.setattr(machine, "steal", lambda before, after: steal)
        found = calibrate.calibrate("eager", threads=1, samples=tmp_path / "samples.json", limit=0)
        return found.provenance["sources"][-1]

    assert [sources(steal)[-5:] for steal in (0.02, None, 0.03)] == ["0.020", "0.020", "0.030"]


def test_a_calibration_that_is_killed_goes_on_where_it_was(tmp_path, monkeypatch, bundles):
    real = programs.samples

    def samples(*given, **named):
        if len(bundles) == 1:
            bundles.append([])
            raise StoppedError
        return real(*given, **named)

    monkeypatch.setattr(programs, "samples", samples)
    path = tmp_path / "samples.json"
    with pytest.raises(StoppedError):
        calibrate.calibrate("eager", threads=1, samples=path)
    assert len(json.loads(path.read_text())["samples"]) == 2
    seen = []
    found = calibrate.calibrate(
        "eager", threads=1, samples=path, progress=lambda *event: seen.append(event)
    )
    assert bundles == [list(NAMES[:2]), [], list(NAMES[2:])]
    calibrate.calibrate("eager", threads=1, samples=path)
    assert len(bundles) == 3
    with machine.threads(1):
        engine = runtimes.get("eager")
        store = calibrate.open_store(engine, path)
        taken = store.samples.values()
        assert calibrate.fitted(engine, taken, store.noise, found) == found.runtimes["eager"]
    calibrate.calibrate("eager", threads=1, samples=path, again=True)
    assert bundles[3:] == [list(NAMES[:2]), list(NAMES[2:])]
    assert ("time chains in eager", 4, 4) in seen
    assert not any(stage == "measure this machine" for stage, _, _ in seen)
    found.save(tmp_path / "mine.yaml")
    again = Hardware.load(tmp_path / "mine.yaml")
    assert again == found
    section = again.runtimes["eager"]
    assert section.fit.samples == 4
    assert section.formats["bf16"].support == "native"
    assert section.formats["w8a8"].support == "none"
    graph, planned = cut("linear/bf16/0")
    table = calibrated_table(graph, parse_all("fp32,bf16"), again, "eager")
    low, high = table.spread
    assert 0 < low <= 1 <= high
    assert table.total(planned) > 0
