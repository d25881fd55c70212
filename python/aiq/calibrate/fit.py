"""From timed programs to the coefficients of kernels.

The time of a program is linear in the coefficients: the overhead of a run, and per kernel its start
and the reciprocals of its shares, times what its pieces amount to. Relative errors are minimised
with a robust loss, and a weak pull towards a plain machine settles what the samples leave open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from aiq import _core
from aiq.calibrate.samples import Sample
from aiq.cost import rows
from aiq.cost.pieces import DTYPES
from aiq.hardware import Hardware
from aiq.hardware.runtime_profile import Fit, Kernel

Matrix = NDArray[np.float64]

MULTIPLES = (1, 8, 16, 32)
"""Channels that kernels may compute at once, to choose from."""

_ELEMENTWISE = ("add", "mul", "activation", "concat", "embedding", "layout", "other")
_PLAIN = (5e-6, 1.2, 1.0, 5e-11)  # start, 1 / compute, 1 / memory, seconds per output
_LEAST = (0.0, 1 / 1.5, 0.1, 0.0)
_RUN = 5e-6  # plain overhead of a run
_PULL = 0.01  # relative error of a sample that a coefficient off by its whole size is worth
_SMALL = 0.01  # relative error below which samples weigh the same
_ROUNDS = 8
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Coefficients:
    """A fitted runtime: overhead of a run in seconds, kernels by key, and how well they fit."""

    run: float
    kernels: Mapping[str, Kernel]
    fit: Fit


def group(key: str) -> str:
    """Return the name under which kernels that are alike are fitted together."""
    op = key.partition(".")[0]
    if op in _ELEMENTWISE:
        return "elementwise"
    return op if op in {"norm", "softmax", "pool"} else key


def fit(samples: Sequence[Sample], hardware: Hardware, noise: float) -> Coefficients:
    """Return the coefficients that fit `samples` best, with the error on samples left out.

    Parameters
    ----------
    samples
        Timed programs.
    hardware
        Roofs of the machine.
    noise
        Relative spread of one program timed again and again, noted in the result.
    """
    groups = sorted({group(piece.kernel) for sample in samples for piece in sample.pieces})
    seconds = np.array([sample.seconds for sample in samples])
    designs = {m: _design(samples, groups, hardware, m) for m in MULTIPLES}
    multiple = min(MULTIPLES, key=lambda m: _solve(designs[m], seconds)[1])
    design = designs[multiple]
    solution, _ = _solve(design, seconds)
    ratios = np.empty(len(samples))
    for fold in range(_FOLDS):
        out = np.arange(len(samples)) % _FOLDS == fold
        part, _ = _solve(design[~out], seconds[~out])
        ratios[out] = seconds[out] / (design[out] @ part)
    low, high = np.quantile(ratios, (0.05, 0.95))
    kernels = {}
    for index, name in enumerate(groups):
        start, compute, memory, output = solution[1 + 4 * index : 5 + 4 * index]
        kernels[name] = Kernel(
            start_us=_short(start * 1e6),
            compute=_short(1 / compute),
            memory=_short(1 / memory),
            output_ns=_short(output * 1e9),
            channel_multiple=multiple,
        )
    return Coefficients(
        run=float(solution[0]),
        kernels=kernels,
        fit=Fit(
            samples=len(samples),
            noise=_short(noise),
            mape=_short(float(np.mean(np.abs(1 / ratios - 1)))),
            low=_short(min(float(low), 1.0)),
            high=_short(max(float(high), 1.0)),
        ),
    )


def _design(
    samples: Sequence[Sample], groups: Sequence[str], hardware: Hardware, multiple: int
) -> Matrix:
    """Return what each sample asks of each coefficient: one row a sample."""
    known = [dtype for dtype in DTYPES if dtype.name in hardware.peak_gflops]
    machine = rows.machine(hardware, known)
    position = {dtype.name: index for index, dtype in enumerate(known)}
    pieces, places = [], []
    for row, sample in enumerate(samples):
        for piece in sample.pieces:
            dtype = piece.kernel.partition(".")[2] or "fp32"
            storage = (*piece.storage[:4], position[dtype])
            pieces.append((piece.work, storage, (0.0, 1.0, 1.0, 0.0, multiple), piece.resident))
            places.append((row, 1 + 4 * groups.index(group(piece.kernel)), piece))
    design = np.zeros((len(samples), 1 + 4 * len(groups)))
    design[:, 0] = 1
    for (row, column, piece), load in zip(
        places, _core.calibrated_loads(pieces, machine), strict=True
    ):
        design[row, column : column + 4] += piece.share * np.array([float(piece.starts), *load])
    return design


def _solve(design: Matrix, seconds: Matrix) -> tuple[Matrix, float]:
    """Return the coefficients and the mean absolute relative error.

    Least absolute errors by iteratively reweighted non-negative least squares (Lawson and Hanson,
    Solving Least Squares Problems, 1974).
    """
    kernels = (design.shape[1] - 1) // 4
    plain = np.array([_RUN, *_PLAIN * kernels])
    least = np.array([0.0, *_LEAST * kernels])
    # In units of the plain machine: a sample by its relative error, a coefficient pulled by _PULL.
    relative = design * (plain / seconds[:, None])
    floor = least / plain
    error = np.ones(len(seconds))
    solution = floor
    for _ in range(_ROUNDS):
        weights = 1 / np.sqrt(np.maximum(error, _SMALL))
        matrix = np.vstack([relative * weights[:, None], np.eye(len(plain)) * _PULL])
        target = np.concatenate([weights, np.full(len(plain), _PULL)])
        excess, _residual = nnls(matrix, target - matrix @ floor)
        solution = floor + excess
        error = np.abs(relative @ solution - 1)
    return solution * plain, float(error.mean())


def _short(value: float) -> float:
    return float(f"{value:.4g}")
