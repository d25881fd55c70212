"""Fit the coefficients of kernels to timed programs.

The time of a program is the overhead of a run plus, summed over its pieces, ``loads x
coefficients`` of the kernel of the piece times the correction for the shape of the layer.
Coefficients are positive, so the unknowns are their logarithms and the slopes of the corrections.
The estimate is the maximum of the posterior. Its likelihood is a robust loss of relative errors.
Its prior pulls every kernel towards a plain one and every correction towards none, and decides
where the samples say little. A layer that the runtime's profiler timed is a sample of one piece
without the overhead of a run, and so are all operators between the layers.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from aiq import _core
from aiq.calibrate.roofs import four_digits
from aiq.calibrate.samples import Sample
from aiq.cost import rows, shape
from aiq.formats import KERNEL_DTYPES
from aiq.hardware import Hardware
from aiq.hardware.runtime_profile import Correction, Fit, KernelProfile

Matrix = NDArray[np.float64]

ALIKE = ("add", "mul", "activation", "embedding", "other")
"""Operator classes that share one kernel in the fit."""

_PLAIN = (3e-6, 1.5, 1.0, 3e-11)  # seconds to start, 1 / compute, 1 / memory, seconds per output
_RUN = 1e-5  # seconds of overhead of a run
_MOST = 3.0  # natural logarithm of the largest correction
_LEAST = 1e-3  # smaller coefficients of a correction are left out of the profile
_FOLDS = 5
_COVERED = 1.96  # standard deviations that contain 95 % of a normal distribution


@dataclass(frozen=True, slots=True)
class Prior:
    """The prior of the fit: standard deviations, of natural logarithms unless said otherwise.

    `benches/calibration.py` shows the effect of each.

    Attributes
    ----------
    program_error
        Relative error of the model for a program, in addition to the noise of its time.
    layer_error
        Relative error of the model for a layer. It is larger than that for a program, because
        errors do not average out, and because profilers add the time for waking the threads and
        for the unfinished work of the layer before.
    coefficients
        Standard deviations of the four coefficients of a kernel: start, 1 / compute, 1 / memory and
        seconds per output. That of the start holds for the overhead of a run, too. Shares of the
        peak and of the bandwidth have the smallest: few samples are larger than the caches, so a
        time per element could pass for a low share of the bandwidth, and layers beyond the caches
        would be predicted several times too slow.
    slope
        Standard deviation of the slopes of the corrections for shapes.
    """

    program_error: float = 0.15
    layer_error: float = 0.6
    coefficients: tuple[float, float, float, float] = (1.5, 0.7, 0.5, 1.5)
    slope: float = 0.3


PRIOR = Prior()
"""The prior of every shipped profile."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """A fitted runtime: overhead of a run in seconds, kernels by group, and errors of the fit."""

    run: float
    kernels: Mapping[str, KernelProfile]
    fit: Fit


def group(key: str) -> str:
    """Return the group of a kernel; the kernels of a group are fitted together."""
    return "elementwise" if key.partition(".")[0] in ALIKE else key


def fit(
    samples: Sequence[Sample],
    hardware: Hardware,
    noise: float,
    needed: Collection[str] = (),
    prior: Prior = PRIOR,
) -> Coefficients:
    """Return the coefficients that fit `samples` best, with the errors of a cross-validation.

    Parameters
    ----------
    samples
        Timed programs and layers.
    hardware
        Profile with the roofs of the machine.
    noise
        Relative difference that 95 % of all pairs of times of one program stay below. The higher
        it is, the less a sample counts against the prior.
    needed
        Kernels to return in any case; one that no sample has gets the coefficients of the prior.
    prior
        The prior.

    Returns
    -------
    Coefficients
        The estimate, and the errors on programs that were left out of the fit.
    """
    problem = _Problem(samples, hardware, noise, prior)
    order = np.random.default_rng(0).permutation(int(problem.is_whole.sum()))
    ratios = []
    for fold in range(_FOLDS):
        out = problem.of_programs(order[fold::_FOLDS])  # with their layers
        predicted, _ = problem.predict(problem.solve(np.flatnonzero(~out)))
        tested = out & problem.is_whole
        ratios += list(problem.seconds[tested] / predicted[tested])
    low, high = np.quantile(ratios, (0.05, 0.95))
    solution = problem.solve(np.arange(len(samples)))
    return Coefficients(
        run=_RUN * float(np.exp(solution[0])),
        kernels={**{group(key): _kernel(*_PLAIN) for key in needed}, **problem.kernels(solution)},
        fit=Fit(
            samples=len(order),
            noise=four_digits(noise),
            mape=four_digits(float(np.mean(np.abs(1 / np.array(ratios) - 1)))),
            low=four_digits(min(float(low), 1.0)),
            high=four_digits(max(float(high), 1.0)),
        ),
    )


class _Problem:
    """The least-squares problem behind a calibration.

    The vector of unknowns holds the logarithm of the overhead of a run over `_RUN`, the logarithms
    of four coefficients per kernel over `_PLAIN`, and the slopes of the correction of each kernel
    that computes layers with weights.
    """

    def __init__(
        self, samples: Sequence[Sample], hardware: Hardware, noise: float, prior: Prior
    ) -> None:
        self.seconds = np.array([sample.seconds for sample in samples])
        self.is_whole = np.array([sample.is_whole for sample in samples])
        programs = list(dict.fromkeys(sample.program for sample in samples))
        self._program = np.array([programs.index(sample.program) for sample in samples])
        own = np.where(self.is_whole, prior.program_error, prior.layer_error)
        self._error = np.hypot(own, noise / _COVERED)
        placed = [(row, piece) for row, sample in enumerate(samples) for piece in sample.pieces]
        self._groups = sorted({group(piece.kernel) for _, piece in placed})
        position = {name: index for index, name in enumerate(self._groups)}
        self._row = np.array([row for row, _ in placed])
        self._group = np.array([position[group(piece.kernel)] for _, piece in placed])
        self._limits = self._ranges([piece.shape for _, piece in placed])
        self._shaped = sorted(self._limits)
        nothing = [0.0] * len(shape.FEATURES)
        self._features = np.array(
            [
                list(shape.scaled(piece.shape, self._limits[index]).values())
                if piece.shape
                else nothing
                for index, (_, piece) in zip(self._group, placed, strict=True)
            ]
        )
        known = [dtype for dtype in KERNEL_DTYPES.values() if dtype.name in hardware.peak_gflops]
        compute = {dtype.name: index for index, dtype in enumerate(known)}
        loads = _core.calibrated_loads(
            [
                rows.LayerRow(
                    piece.work,
                    piece.storage._replace(
                        compute=compute[piece.kernel.partition(".")[2] or "fp32"]
                    ),
                    rows.KernelRow(start=0.0, compute=1.0, memory=1.0, output=0.0),
                    piece.resident,
                )
                for _, piece in placed
            ],
            rows.machine(hardware, known),
        )
        starts = [float(piece.starts) for _, piece in placed]
        share = np.array([piece.share for _, piece in placed])
        self._loads = np.column_stack([starts, loads]) * share[:, None] * np.array(_PLAIN)
        self._prior = np.concatenate(
            [
                prior.coefficients[:1],
                np.tile(prior.coefficients, len(self._groups)),
                np.full(len(shape.FEATURES) * len(self._shaped), prior.slope),
            ]
        )

    def _ranges(
        self, shapes: Sequence[tuple[float, ...]]
    ) -> dict[int, dict[str, tuple[float, float]]]:
        """Return the lowest and highest value of each feature and of the work, by group."""
        found = {}
        for index in range(len(self._groups)):
            mine = [s for g, s in zip(self._group, shapes, strict=True) if g == index and s]
            if mine:
                values = np.array([[*s, shape.log_work(s)] for s in mine])
                names = (*shape.FEATURES, shape.WORK)
                found[index] = {
                    name: (round(float(column.min()), 3), round(float(column.max()), 3))
                    for name, column in zip(names, values.T, strict=True)
                }
        return found

    def of_programs(self, programs: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return which samples belong to `programs`, given by their order of appearance."""
        return np.isin(self._program, programs)

    def solve(self, kept: NDArray[np.intp]) -> Matrix:
        """Return the unknowns that maximise the posterior given the samples `kept`."""
        target, spread = np.log(self.seconds[kept]), self._error[kept]

        def residuals(unknowns: Matrix) -> Matrix:
            predicted, _ = self.predict(unknowns)
            error = (np.log(predicted[kept]) - target) / spread
            return np.concatenate([_robust(error)[0], unknowns / self._prior])

        def slopes(unknowns: Matrix) -> Matrix:
            predicted, slope = self.predict(unknowns)
            error = (np.log(predicted[kept]) - target) / spread
            data = (_robust(error)[1] / spread)[:, None] * slope[kept]
            return np.vstack([data, np.diag(1 / self._prior)])

        start = np.zeros(len(self._prior))
        # LSMR needs no singular values; LAPACK failed to find those of such a problem.
        found: Matrix = least_squares(
            residuals, start, slopes, tr_solver="lsmr", max_nfev=60, ftol=1e-6
        ).x
        return found

    def predict(self, unknowns: Matrix) -> tuple[Matrix, Matrix]:
        """Return the predicted seconds of every sample, and the derivatives of their logarithms."""
        coefficients, corrections = self._split(unknowns)
        exponent = (self._features * corrections[self._group]).sum(axis=1)
        factor = np.exp(np.clip(exponent, -_MOST, _MOST))
        parts = self._loads * np.exp(coefficients[self._group]) * factor[:, None]
        whole = parts.sum(axis=1)
        run = _RUN * np.exp(unknowns[0]) * self.is_whole
        count, groups = len(self.seconds), len(self._groups)
        seconds = run + np.bincount(self._row, whole, minlength=count)
        slope = np.zeros((count, len(unknowns)))
        slope[:, 0] = run
        for index in range(4):
            np.add.at(slope, (self._row, 1 + 4 * self._group + index), parts[:, index])
        by_group = np.zeros((groups, count, len(shape.FEATURES)))
        np.add.at(by_group, (self._group, self._row), whole[:, None] * self._features)
        slope[:, 1 + 4 * groups :] = np.concatenate(by_group[self._shaped], axis=1)
        return seconds, slope / seconds[:, None]

    def kernels(self, unknowns: Matrix) -> dict[str, KernelProfile]:
        """Return the kernel of each group."""
        coefficients, corrections = self._split(unknowns)
        found = {}
        for index, name in enumerate(self._groups):
            correction = None
            if index in self._limits:
                terms = zip(shape.FEATURES, corrections[index], strict=True)
                correction = Correction(
                    MappingProxyType(
                        {key: round(float(v), 4) for key, v in terms if abs(v) > _LEAST}
                    ),
                    MappingProxyType(self._limits[index]),
                )
            start, compute, memory, output = _PLAIN * np.exp(coefficients[index])
            found[name] = _kernel(start, compute, memory, output, correction)
        return found

    def _split(self, unknowns: Matrix) -> tuple[Matrix, Matrix]:
        groups = len(self._groups)
        corrections = np.zeros((groups, len(shape.FEATURES)))
        corrections[self._shaped] = unknowns[1 + 4 * groups :].reshape(-1, len(shape.FEATURES))
        return unknowns[1 : 1 + 4 * groups].reshape(groups, 4), corrections


def _kernel(
    start: float,
    compute: float,
    memory: float,
    output: float,
    correction: Correction | None = None,
) -> KernelProfile:
    return KernelProfile(
        start_us=four_digits(start * 1e6),
        compute=four_digits(min(1 / compute, 4.0)),
        memory=four_digits(min(1 / memory, 100.0)),
        output_ns=four_digits(output * 1e9),
        correction=correction,
    )


def _robust(error: Matrix) -> tuple[Matrix, Matrix]:
    """Return residuals whose squares are the pseudo-Huber loss of `error`, and their slopes."""
    root = np.sqrt(1 + error**2)
    residual = np.sign(error) * np.sqrt(2 * (root - 1))
    small = np.abs(error) < 1e-4
    slope = np.where(small, 1.0, error / (root * np.where(small, 1.0, residual)))
    return residual, slope
