"""Measure every layer alone in every format, on the user's data.

The drop of a single layer is a fraction of a percentage point, which a few thousand samples cannot
measure. They can measure the divergence of the network's softmax from that of the float32 network:
every sample whose logits change contributes to it, and it adds up over layers as independent errors
do. A drop is therefore the divergence times one slope, the drop per nat, which is fitted to whole
networks.
"""

import time
from collections.abc import Iterable

import numpy as np

from aiq.drops import Array, DropTable
from aiq.evaluate import Evaluation, Evaluator
from aiq.formats import Format, parse_all
from aiq.progress import Progress
from aiq.sensitivity import drop_scale
from aiq.sensitivity.parts import distinct, parts_of


def measure(
    evaluator: Evaluator,
    formats: str | Iterable[str | Format],
    *,
    joint: bool | None = None,
    precision: float = 2e-4,
    seed: int = 0,
    progress: Progress | None = None,
) -> DropTable:
    """Measure the divergence that each layer alone causes in each format, and the drop per nat.

    Parameters
    ----------
    evaluator
        Evaluator of the model on the user's data.
    formats
        Columns of the table.
    joint
        Whether every ``wNaM`` is measured as it is, or as the sum of its weights and its
        activations (see `aiq.sensitivity.parts`). By default, whichever takes fewer measurements.
    precision
        Standard error of a drop, as a fraction, at which a measurement may stop before it has seen
        all samples. It may also stop at a tenth of the drop. With 0 it sees all samples.
    seed
        Seed of the random mixed plans that are measured as a whole.
    progress
        Called with the name of the stage, the steps done, and the number of steps.
    """
    started, evaluations = time.perf_counter(), evaluator.evaluations
    columns = parse_all(formats)
    parts, joint = parts_of(columns, joint)
    measured = distinct(parts)
    layers = tuple(layer.name for layer in evaluator.trace.graph.quantizable)
    plans = [{layer: part} for layer in layers for part in measured]
    slope, _ = drop_scale.guess(evaluator, layers, columns)
    tolerance = precision / slope if precision else 0.0

    def enough(evaluation: Evaluation) -> bool:
        wanted = max(tolerance, evaluation.kl / 10)
        return evaluation.samples >= drop_scale.FEWEST_SAMPLES and evaluation.kl_error <= wanted

    found = evaluator.evaluate_many(
        plans, enough if precision else None, _named(progress, "single layers")
    )

    def total(values: list[float]) -> Array:
        """Return the sum over the parts of each format, (L, K), of one value for each plan."""
        rows = np.reshape(values, (len(layers), len(measured))).T
        of = dict(zip(measured, rows, strict=True))
        zero = np.zeros(len(layers))
        return np.stack([sum((of[part] for part in parts.get(f, ())), zero) for f in columns], 1)

    divergence = total([e.kl for e in found])
    variance = total([e.kl_error**2 for e in found])
    scale = drop_scale.fit_scale(
        evaluator,
        layers,
        columns,
        divergence,
        in_nats=True,
        seed=seed,
        progress=_named(progress, "whole networks"),
    )
    return DropTable(
        layers=layers,
        formats=columns,
        drop=scale.slope * divergence,
        error=np.hypot(scale.slope * np.sqrt(variance), scale.slope_error * divergence),
        divergence=divergence,
        measured=total([e.drop for e in found]),
        method="measured" if joint else "measured, weights and activations apart",
        slope=scale.slope,
        baseline=evaluator.baseline.accuracy,
        samples=evaluator.baseline.samples,
        evaluations=evaluator.evaluations - evaluations,
        seconds=time.perf_counter() - started,
        measured_plans=scale.measured_plans,
    )


def _named(progress: Progress | None, part: str) -> Progress | None:
    if progress is None:
        return None
    return lambda stage, done, total: progress(f"sensitivity: {part}", done, total)
