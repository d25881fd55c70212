"""Estimates for all layers, and measurements of those that decide.

Derivatives give the divergence of every layer in every format in the time of a few runs, on part of
the samples (`aiq.sensitivity.curvature`). They are wrong by a factor where errors are large.
Formats whose drop is far below the budget are chosen anyway, and those whose drop exceeds it are
not, so only the largest drops within the budget are measured: the divergence of the layer alone.
"""

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import numpy as np

from aiq.drops import DropTable
from aiq.evaluate import Evaluation, Evaluator
from aiq.formats import Format
from aiq.progress import Progress
from aiq.sensitivity.drop_scale import SLOPE_ERROR
from aiq.sensitivity.estimated import estimate

MOST = 16
"""Largest number of layers and formats that are measured."""

SHARE = 0.25
"""A drop decides if it exceeds this part of a layer's equal share of the budget."""

ESTIMATED = 128
"""Number of samples from whose derivatives divergences are estimated."""

SAMPLES, PRECISION = 64, 0.2
"""Fewest samples of such a measurement, and the relative standard error at which it stops."""


def estimate_and_measure(
    evaluator: Evaluator,
    formats: str | Iterable[str | Format],
    max_drop: float,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> DropTable:
    """Estimate the drop of each layer alone in each format, and measure the drops that decide.

    Parameters
    ----------
    evaluator
        Evaluator of the model on the user's data.
    formats
        Columns of the table.
    max_drop
        Largest drop of a plan, as a fraction; if it is infinite, nothing is measured.
    seed
        Seed of the random draws.
    progress
        Called with the name of the stage, the steps done, and the number of steps.
    """
    quick = estimate_quickly(evaluator, formats, seed=seed, progress=progress)
    return measure_what_decides(evaluator, quick, max_drop, progress=progress)


def estimate_quickly(
    evaluator: Evaluator,
    formats: str | Iterable[str | Format],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> DropTable:
    """Return estimates from derivatives, or of ``kl`` if derivatives do not reach some layer.

    They do not depend on a budget. The parameters are those of `estimate_and_measure`.
    """
    quick = partial(
        estimate, evaluator, formats, fit=False, samples=ESTIMATED, seed=seed, progress=progress
    )
    try:
        table = quick("curvature")
    except RuntimeError:  # of PyTorch: an operator has no derivative
        return quick("kl")
    reached = bool((table.divergence.max(1) > 0).all())
    return table if reached else quick("kl")


def measure_what_decides(
    evaluator: Evaluator, table: DropTable, max_drop: float, *, progress: Progress | None = None
) -> DropTable:
    """Measure the drops that decide, in a table of estimates by `estimate_quickly`."""
    started, before = time.perf_counter(), evaluator.evaluations
    least = SHARE * max_drop / len(table.layers)
    pairs = [
        (i, k)
        for i in range(len(table.layers))
        for k in range(len(table.formats))
        if least < table.drop[i, k] <= max_drop
    ]
    pairs = sorted(pairs, key=lambda pair: -table.drop[pair])[:MOST]
    plans = [{table.layers[i]: table.formats[k]} for i, k in pairs]
    found = evaluator.evaluate_many(plans, _precise, progress) if plans else []
    drop, error, divergence = table.drop.copy(), table.error.copy(), table.divergence.copy()
    for pair, evaluation in zip(pairs, found, strict=True):
        divergence[pair] = evaluation.kl
        drop[pair] = table.slope * evaluation.kl
        error[pair] = table.slope * np.hypot(evaluation.kl_error, SLOPE_ERROR * evaluation.kl)
    return replace(
        table,
        drop=drop,
        error=error,
        divergence=divergence,
        method="auto",
        evaluations=table.evaluations + evaluator.evaluations - before,
        seconds=table.seconds + time.perf_counter() - started,
    )


def _precise(evaluation: Evaluation) -> bool:
    wanted = PRECISION * evaluation.kl
    return evaluation.samples >= SAMPLES and evaluation.kl_error <= wanted
