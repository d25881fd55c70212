"""Calibration: roofs, chains, samples that survive a kill, and a fit that finds what made them."""

import itertools
import json
import math
from dataclasses import replace

import hostile
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from aiq import _core, calibrate, machine, runtimes
from aiq.calibrate import brief_calibration, calibration, chains, programs, roofs, this_machine
from aiq.calibrate.fit import Coefficients, Prior, fit
from aiq.calibrate.samples import Sample, Store
from aiq.cost import calibrated_table, rows, shape
from aiq.cost.pieces import Piece
from aiq.errors import HardwareError, InputError
from aiq.formats import KERNEL_DTYPES, parse, parse_all
from aiq.graph import trace
from aiq.hardware import Hardware, MemoryLevel
from aiq.hardware.runtime_profile import Correction, Fit, KernelProfile
from aiq.runtimes.eager import Eager

NAMES = ("pointwise/fp32/0", "linear/bf16/0", "residual/fp32+bf16/0", "attention/fp32/0")


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


def test_programs_are_the_same_every_time_and_no_layer_is_idle():
    names = [*chains.program_names(["fp32", "bf16", "w8a8"], 3), "thumbnails/w8a8/1"]
    assert len(names) == len(set(names))
    families = {name.partition("/")[0] for name in names}
    for name in (next(n for n in names if n.startswith(family)) for family in sorted(families)):
        one, two = chains.program(name), chains.program(name)
        assert one.formats == two.formats
        assert torch.equal(one.inputs, two.inputs)
        for a, b in zip(one.module.parameters(), two.module.parameters(), strict=True):
            assert torch.equal(a, b)
        assert torch.isfinite(one.module(one.inputs)).all()
        graph = trace(one.module.to("meta"), one.inputs.to("meta")).graph
        assert {layer.name for layer in graph.quantizable} == set(one.formats)


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


def test_integer_layers_with_bfloat16_between_them_are_timed_where_there_are_both():
    for formats, expected in ((("fp32", "bf16", "w8a8"), True), (("fp32", "w8a8"), False)):
        names = chains.program_names(formats, 1)
        assert any("/w8a8bf16/" in name for name in names) is expected
        assert any("+w8a8bf16/" in name for name in names) is expected


def test_one_format_needs_no_mixed_programs():
    assert not any("+" in name for name in chains.program_names(["fp32"], 4))


TOY = Hardware(
    name="toy",
    description="known",
    threads=1,
    peak_gflops={"fp32": 100.0, "bf16": 200.0, "int8": 400.0},
    memory=(MemoryLevel("L2", 1024, 100), MemoryLevel("DRAM", 1e7, 20)),
    provenance={"method": "spec", "date": "2026-01-01", "sources": ["none"]},
)
KERNELS = {
    "conv.fp32": KernelProfile(12, 0.7, 0.1, compute=0.8),
    "conv.int8": KernelProfile(14, 0.9, 0.2, compute=0.6),
    "linear.fp32": KernelProfile(5, 0.5, 0.05, compute=0.9),
    "add.fp32": KernelProfile(2, 0.8, 0.02),
    "fp32_to_int8": KernelProfile(3, 0.9, 0.03),
}
RUN = 6e-6


@pytest.fixture(scope="module")
def samples():
    """Random programs of known kernels, with the times that these would take."""
    rng = np.random.default_rng(0)
    return [sample(str(index), rng) for index in range(150)]


RANGE = dict.fromkeys(shape.FEATURES, (0.0, 20.0))
SHAPES = {"conv.fp32": Correction({"rows": 0.2, "taps": -0.15}, RANGE)}


def sample(name, rng):
    found, seconds = [], RUN
    machine = rows.machine(TOY, tuple(KERNEL_DTYPES.values()))
    for key in rng.choice(list(KERNELS), size=rng.integers(1, 8)):
        dtype = ["fp32", "bf16", "int8"].index(key.partition(".")[2] or "fp32")
        inputs, outputs = (int(10 ** rng.uniform(3, 6)) for _ in range(2))
        weights = int(10 ** rng.uniform(2, 6)) if dtype or key[0] in "cl" else 0
        flops = 20 * weights * int(rng.integers(1, 200))
        work = rows.Work(flops, weights, inputs=inputs, outputs=outputs)
        bits = 8 if dtype else 32
        form = tuple(rng.uniform(0, 8, len(shape.FEATURES))) if weights else ()
        storage = rows.Storage(bits, bits, bits, False, dtype)
        piece = Piece(key, work, storage, 5e6 * rng.random(), (), (), shape=form)
        (picoseconds,) = _core.calibrated_times(
            [rows.LayerRow(work, piece.storage, rows.kernel(KERNELS[key]), piece.resident)], machine
        )
        found.append(piece)
        seconds += picoseconds / 1e12 * shape.factor(SHAPES.get(key), form)
    return Sample(name, seconds, tuple(found))


def test_the_fit_finds_the_machine_that_made_the_samples(samples):
    found = fit(samples, TOY, noise=0.01)
    assert (found.fit.samples, found.fit.noise) == (len(samples), 0.01)
    assert found.fit.mape < 0.05
    assert 0.85 < found.fit.low <= 1 <= found.fit.high < 1.15
    rng = np.random.default_rng(1)
    for key in ("conv.fp32", "conv.int8", "linear.fp32"):
        for _ in range(20):  # its coefficients may differ from the makers' and come to the same
            form = tuple(rng.uniform(1, 7, len(shape.FEATURES)))
            times = [
                kernel.compute / shape.factor(correction, form)
                for kernel, correction in (
                    (KERNELS[key], SHAPES.get(key)),
                    (found.kernels[key], found.kernels[key].correction),
                )
            ]
            assert times[1] == pytest.approx(times[0], rel=0.25)


def test_of_noisy_samples_less_is_learned(samples):
    rng = np.random.default_rng(2)
    loud = [replace(s, seconds=s.seconds * np.exp(rng.normal(0, 0.3))) for s in samples]
    taken, doubted = (fit(loud, TOY, noise=noise).fit.mape for noise in (0.0, 0.3 * 2.56))
    assert doubted < taken


def test_of_a_kernel_that_no_sample_has_the_fit_says_what_it_knew_before(samples):
    without = fit(samples, TOY, noise=0.0).kernels
    found = fit(samples, TOY, noise=0.0, needed={"pool.fp32", "add.bf16"}).kernels
    assert found["pool.fp32"] == KernelProfile(3, 1.0, 0.03, compute=0.6667)
    assert found == {**found, **without}
    assert found.keys() - without.keys() == {"pool.fp32"}  # "add" is known by its like


def test_the_fit_does_without_singular_values(samples, monkeypatch):
    # LAPACK's threaded gesdd gave up on the finite matrix of a real calibration.
    def gives_up(*_, **__):
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr("scipy.optimize._lsq.trf.svd", gives_up)
    assert fit(samples, TOY, noise=0.01).fit.mape < 0.05


def test_layers_settle_what_whole_programs_leave_open(samples):
    keys = ("conv.fp32", "conv.int8", "linear.fp32")
    few, machine = samples[:25], rows.machine(TOY, tuple(KERNEL_DTYPES.values()))
    layers = []
    for program in few:
        for index, piece in enumerate(program.pieces):
            if piece.shape:
                (picoseconds,) = _core.calibrated_times(
                    [
                        rows.LayerRow(
                            piece.work,
                            piece.storage,
                            rows.kernel(KERNELS[piece.kernel]),
                            piece.resident,
                        )
                    ],
                    machine,
                )
                seconds = picoseconds / 1e12
                seconds *= shape.factor(SHAPES.get(piece.kernel), piece.shape)
                name = f"{program.name}#{index}"
                layers.append(Sample(name, seconds, (piece,), is_whole=False))
    assert layers[0].program == few[0].name

    def error(given):
        found, form = fit(given, TOY, noise=0.0), (4.0,) * len(shape.FEATURES)
        assert found.fit.samples == len(few)
        return max(
            abs(
                np.log(found.kernels[key].compute / KERNELS[key].compute)
                - np.log(shape.factor(found.kernels[key].correction, form))
                + np.log(shape.factor(SHAPES.get(key), form))
            )
            for key in keys
        )

    assert error([*few, *layers]) < error(few)


def test_a_program_is_believed_more_than_its_layers(samples):
    slow = [
        replace(s, name=f"{s.name}#layer", seconds=3 * (s.seconds - RUN), is_whole=False)
        for s in samples
        if len(s.pieces) == 1
    ]
    assert len(slow) > 10
    found = fit([*samples, *slow], TOY, noise=0.0).fit.mape
    alike = Prior(layer_error=Prior().program_error)
    assert found < 0.8 * fit([*samples, *slow], TOY, noise=0.0, prior=alike).fit.mape


def test_a_layer_is_cut_in_its_own_format():
    # Layers of these families do not run in the order in which their modules list them.
    drawn = [chains.program(f"{f}/fp32+w8a8/{i}") for f in ("branches", "inverted") for i in (1, 3)]
    ends, seen = {"fp32": ".fp32", "w8a8": ".int8"}, set()
    engine = runtimes.get("onnxruntime")
    for program, part in zip(drawn, programs.compile_programs(engine, drawn), strict=True):
        made_of = programs.cut(engine, part.graph, program.formats)
        assert made_of.layers
        for name, piece in made_of.layers.items():
            assert piece.kernel.endswith(ends[program.formats[name]])
            seen.add(program.formats[name])
    assert seen == set(ends)


def test_no_layer_is_followed_by_one_that_skips_most_of_its_results():
    # OpenVINO moves the stride of such a layer into the one before.
    for name in (f"{family}/fp32/{i}" for family in ("pointwise", "chain") for i in range(12)):
        convs = [m for m in chains.program(name).module.modules() if isinstance(m, nn.Conv2d)]
        assert all(conv.stride[0] <= conv.kernel_size[0] for conv in convs)


def test_layers_are_timed_inside_their_programs():
    names = ["conv/w8a8/1", "conv/fp32/1"]
    engine = runtimes.get("onnxruntime")
    found, noise = programs.samples(engine, names, calibrate.anchor(engine))
    assert noise >= 0
    assert len({sample.anchor for sample in found}) == 1
    for name in names:
        whole, *layers = [sample for sample in found if sample.program == name]
        assert whole.is_whole
        assert len(layers) > 1
        assert not any(layer.is_whole for layer in layers)
        assert sum(layer.seconds for layer in layers) <= whole.seconds
        assert {piece for layer in layers for piece in layer.pieces} <= set(whole.pieces)


def test_what_stands_between_layers_is_timed_where_a_profiler_tells_it_from_them():
    names = ["pool/w8a8/0", "chain/fp32/1", "attention/fp32/0"]  # the last fuses GELU into layers
    engine = runtimes.get("openvino")
    found, _ = programs.samples(engine, names, calibrate.anchor(engine))
    by_name = {sample.name: sample for sample in found}
    rests = [name for name in names if f"{name}#{programs.REST}" in by_name]
    assert rests == names[:2]
    for name in rests:
        whole, rest = by_name[name], by_name[f"{name}#{programs.REST}"]
        assert rest.pieces == tuple(piece for piece in whole.pieces if not piece.shape)
        assert 0 < rest.seconds < whole.seconds


def test_the_layers_of_a_plan_alternate_are_scattered_or_stand_in_runs():
    formats = "fp32+bf16+w8a8+w8a8bf16"
    plans = [list(chains.program(f"chain/{formats}/{i}").formats.values()) for i in range(40)]
    assert all(set(plan) <= set(formats.split("+")) for plan in plans)
    long = [plan for plan in plans if len(plan) > 3]
    alternate = [
        len(set(plan[::2])) == len(set(plan[1::2])) == 1 and plan[0] != plan[1] for plan in long
    ]
    assert 0.2 < sum(alternate) / len(long) < 0.8
    changes = [sum(a != b for a, b in itertools.pairwise(plan)) for plan in long]
    assert 1 in changes  # two runs
    wanted = itertools.combinations(("fp32", "bf16", "w8a8"), 2)
    assert set(map(frozenset, wanted)) <= set(map(frozenset, plans))


def test_one_bad_sample_does_not_spoil_the_fit(samples):
    spoiled = [replace(samples[0], seconds=5 * samples[0].seconds), *samples[1:]]
    good, bad = (fit(given, TOY, noise=0.0).kernels for given in (samples, spoiled))
    form = (4.0,) * len(shape.FEATURES)
    for key in ("conv.fp32", "conv.int8", "linear.fp32"):
        speeds = [k[key].compute / shape.factor(k[key].correction, form) for k in (good, bad)]
        assert speeds[1] == pytest.approx(speeds[0], rel=0.1)


def cut(name):
    program = chains.program(name)
    graph = trace(program.module.to("meta"), program.inputs.to("meta")).graph
    planned = {layer: parse(fmt) for layer, fmt in program.formats.items()}
    return graph, planned


ROOFS = {"threads": 2, "peaks": {"fp32": 10.0}, "kib": [8.0], "gbps": [100.0]}


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
