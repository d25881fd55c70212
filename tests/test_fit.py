"""The fit of kernels finds the machine that made the samples."""

from dataclasses import replace

import numpy as np
import pytest
from known_machine import KERNELS, RUN, SHAPES, TOY, random_samples

from aiq import _core
from aiq.calibrate.fit import Prior, fit
from aiq.calibrate.samples import Sample
from aiq.cost import rows, shape
from aiq.formats import KERNEL_DTYPES
from aiq.hardware.runtime_profile import KernelProfile


@pytest.fixture(scope="module")
def samples():
    return random_samples()


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


def test_one_bad_sample_does_not_spoil_the_fit(samples):
    spoiled = [replace(samples[0], seconds=5 * samples[0].seconds), *samples[1:]]
    good, bad = (fit(given, TOY, noise=0.0).kernels for given in (samples, spoiled))
    form = (4.0,) * len(shape.FEATURES)
    for key in ("conv.fp32", "conv.int8", "linear.fp32"):
        speeds = [k[key].compute / shape.factor(k[key].correction, form) for k in (good, bad)]
        assert speeds[1] == pytest.approx(speeds[0], rel=0.1)
