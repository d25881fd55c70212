"""Every layer alone in every format, on the user's data.

A single layer costs a fraction of a percentage point, which drowns in the noise of a few thousand
samples. The divergence of the network's softmax from the float32 network's does not: it grows with
every sample whose logits move, and adds up over layers as independent errors do. So drops are
divergences times one slope, the accuracy lost per nat, fitted where it matters: on whole networks.
"""

import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from aiq.drops import Array, DropTable
from aiq.evaluate import Evaluation, Evaluator
from aiq.formats import FP32, REFERENCE, Format, parse_all
from aiq.progress import Progress
from aiq.sensitivity import drop_scale


def measure(
    evaluator: Evaluator,
    formats: str | Iterable[str | Format],
    *,
    joint: bool | None = None,
    precision: float = 2e-4,
    seed: int = 0,
    progress: Progress | None = None,
) -> DropTable:
    """Measure the divergence that each layer alone causes in each format, and what it costs.

    Parameters
    ----------
    evaluator
        Of the model on the user's data.
    formats
        Columns of the table.
    joint
        Whether every ``wNaM`` is measured as it is. Otherwise its divergence is the sum of those of
        its weights alone and of its activations alone, which are independent errors: 14 instead of
        49 measurements a layer for all widths of 2 to 8. Default: whichever measures less.
    precision
        Standard error of a drop (as a fraction) at which a measurement may stop before it has seen
        all samples; it also may at a tenth of the drop. 0: never.
    seed
        Of the mixed plans that are measured as a whole.
    progress
        Called with what is going on, steps done, steps in all.
    """
    started, evaluations = time.perf_counter(), evaluator.evaluations
    columns = parse_all(formats)
    kernels_of: dict[Format, tuple[Format, ...]] = {
        f: (f.kernel,) for f in columns if f != REFERENCE
    }
    parts = {f: _parts(f.kernel) for f in kernels_of}
    atoms = tuple(dict.fromkeys(atom for pair in parts.values() for atom in pair))
    kernels = tuple(dict.fromkeys(f.kernel for f in kernels_of))
    joint = len(atoms) >= len(kernels) if joint is None else joint
    if joint:
        parts, atoms = kernels_of, kernels
    layers = tuple(layer.name for layer in evaluator.trace.graph.quantizable)
    plans = [{layer: atom} for layer in layers for atom in atoms]
    tolerance = precision / drop_scale.guess(evaluator)

    def enough(evaluation: Evaluation) -> bool:
        wanted = max(tolerance, evaluation.kl / 10)
        return evaluation.samples >= drop_scale.FEWEST_SAMPLES and evaluation.kl_error <= wanted

    found = evaluator.evaluate_many(
        plans, enough if precision else None, _named(progress, "single layers")
    )
    shape = (len(layers), len(atoms))

    def column(name: str) -> dict[Format, Array]:
        values = np.array([getattr(evaluation, name) for evaluation in found]).reshape(shape)
        return dict(zip(atoms, values.T, strict=True))

    kl, kl_error, drop = column("kl"), column("kl_error"), column("drop")
    zero = np.zeros(len(layers))
    divergence = np.stack([sum((kl[a] for a in parts.get(f, ())), zero) for f in columns], 1)
    variance = np.stack(
        [sum((kl_error[a] ** 2 for a in parts.get(f, ())), zero) for f in columns], 1
    )
    fitted = drop_scale.fit(
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
        drop=fitted.slope * divergence,
        error=np.hypot(fitted.slope * np.sqrt(variance), fitted.slope_error * divergence),
        divergence=divergence,
        measured=np.stack([sum((drop[a] for a in parts.get(f, ())), zero) for f in columns], 1),
        method="measured" if joint else "measured, weights and activations apart",
        slope=fitted.slope,
        baseline=evaluator.baseline.accuracy,
        samples=evaluator.baseline.samples,
        evaluations=evaluator.evaluations - evaluations,
        seconds=time.perf_counter() - started,
        measured_plans=fitted.measured_plans,
    )


def _parts(chosen: Format) -> tuple[Format, ...]:
    """Return formats that round only the weights and only the activations of `chosen`."""
    if not (chosen.quantizes_weights and chosen.quantizes_activations):
        return (chosen,)
    weights = replace(chosen, name=f"w{chosen.weight.bits}", activation=FP32, compute=FP32)
    activations = replace(chosen, name=f"a{chosen.activation.bits}", weight=FP32, compute=FP32)
    return weights, activations


def _named(progress: Progress | None, part: str) -> Progress | None:
    if progress is None:
        return None
    return lambda stage, done, total: progress(f"sensitivity: {part}", done, total)
