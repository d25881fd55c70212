"""Sensitivity: how much accuracy each layer loses, alone, in each format.

A single layer costs a fraction of a percentage point, which drowns in the noise of a few thousand
samples. The divergence of the network's softmax from the float32 network's does not: it grows with
every sample whose logits move, and adds up over layers as independent errors do. So losses are
divergences times one slope, the accuracy lost per nat, fitted where it matters: on whole networks.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from aiq.evaluate import Evaluation, Evaluator
from aiq.formats import FP32, REFERENCE, Format, parse_all
from aiq.graph import Trace
from aiq.graph.export import Inputs
from aiq.losses import Array, LossTable
from aiq.progress import Progress
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe

SLOPE, SLOPE_ERROR = 0.35, 0.35
"""Accuracy lost per nat of divergence before anything is known, and how sure we are of it."""

MODEL_ERROR = 0.3
"""Relative error of a drop predicted by a slope: it bends where drops are large."""

FIT_DROPS = (0.003, 0.006, 0.012, 0.025, 0.05)
"""Predicted drops of the uniform plans on which the slope is fitted: around the usual budgets."""

FEWEST_SAMPLES = 256
"""Samples behind every measurement that stops early."""

NOISE_SLOPE = 0.5
"""Accuracy lost per unit of noise-to-signal ratio at the output: a rule of thumb."""


def measure(
    evaluator: Evaluator,
    formats: str | Iterable[str | Format],
    *,
    joint: bool | None = None,
    precision: float = 2e-4,
    progress: Progress | None = None,
) -> LossTable:
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
        Standard error of a loss (as a fraction) at which a measurement may stop before it has seen
        all samples; it also may at a tenth of the loss. 0: never.
    progress
        Called with what is going on, steps done, steps in all.
    """
    started, evaluations = time.perf_counter(), evaluator.evaluations
    columns = parse_all(formats)
    whole = [(f,) for f in columns if f != REFERENCE]
    parts = {f: _parts(f) for f in columns if f != REFERENCE}
    atoms = tuple(dict.fromkeys(atom for pair in parts.values() for atom in pair))
    joint = len(atoms) >= len(whole) if joint is None else joint
    if joint:
        parts = {f: (f,) for f in parts}
        atoms = tuple(parts)
    layers = tuple(layer.name for layer in evaluator.trace.graph.quantizable)
    plans = [{layer: atom} for layer in layers for atom in atoms]

    def enough(evaluation: Evaluation) -> bool:
        tolerance = max(precision / SLOPE, evaluation.kl / 10)
        return evaluation.samples >= FEWEST_SAMPLES and evaluation.kl_error <= tolerance

    found = evaluator.evaluate_many(plans, enough if precision else None, _named(progress))
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
    slope, slope_error = _fit(evaluator, layers, columns, divergence, progress)
    return LossTable(
        layers=layers,
        formats=columns,
        loss=slope * divergence,
        error=np.hypot(slope * np.sqrt(variance), slope_error * divergence),
        divergence=divergence,
        measured=np.stack([sum((drop[a] for a in parts.get(f, ())), zero) for f in columns], 1),
        method="measured" if joint else "measured, weights and activations apart",
        slope=slope,
        baseline=evaluator.baseline.accuracy,
        samples=evaluator.baseline.samples,
        evaluations=evaluator.evaluations - evaluations,
        seconds=time.perf_counter() - started,
    )


def _parts(chosen: Format) -> tuple[Format, ...]:
    """Return formats that round only the weights and only the activations of `chosen`."""
    if not (chosen.quantizes_weights and chosen.quantizes_activations):
        return (chosen,)
    weights = replace(chosen, name=f"w{chosen.weight.bits}", activation=FP32, compute=FP32)
    activations = replace(chosen, name=f"a{chosen.activation.bits}", weight=FP32, compute=FP32)
    return weights, activations


def _fit(
    evaluator: Evaluator,
    layers: Sequence[str],
    columns: Sequence[Format],
    divergence: Array,
    progress: Progress | None,
) -> tuple[float, float]:
    """Return accuracy lost per nat, and its standard error, from uniform plans.

    Weighted least squares through the origin; a drop is uncertain by its samples and by the
    model, and a prior keeps the slope positive where nothing drops.
    """
    sums = divergence.sum(0)
    candidates = [k for k in range(len(columns)) if sums[k] > 0]
    chosen = {
        min(candidates, key=lambda k: abs(np.log(SLOPE * sums[k] / drop)))
        for drop in FIT_DROPS
        if candidates
    }
    plans = [dict.fromkeys(layers, columns[k]) for k in sorted(chosen)]
    weight, moment = SLOPE_ERROR**-2, SLOPE * SLOPE_ERROR**-2
    found = evaluator.evaluate_many(plans, progress=_named(progress, "whole networks"))
    for k, evaluation in zip(sorted(chosen), found, strict=True):
        noise = evaluation.drop_error**2 + evaluation.samples**-2
        variance = noise + (MODEL_ERROR * SLOPE * sums[k]) ** 2
        weight += sums[k] ** 2 / variance
        moment += sums[k] * evaluation.drop / variance
    return max(moment / weight, SLOPE / 10), weight**-0.5


def _named(progress: Progress | None, part: str = "single layers") -> Progress | None:
    if progress is None:
        return None
    return lambda stage, done, total: progress(f"sensitivity: {part}", done, total)


def sqnr(
    trace: Trace,
    example_inputs: Inputs,
    formats: str | Iterable[str | Format],
    progress: Progress | None = None,
) -> LossTable:
    """Estimate losses without data: noise-to-signal ratios of the network's output.

    Each layer alone is rounded to each format, and the network run on the example inputs; the loss
    is the power of the error of the output over the power of the output, centred per sample, times
    a slope that is a rule of thumb: ranks are meaningful, sizes are guesses.

    Parameters
    ----------
    trace
        Of the model, not folded.
    example_inputs
        Arguments of one call, best real ones; ranges of activations are observed on them too.
    formats
        Columns of the table.
    progress
        Called with what is going on, steps done, steps in all.
    """
    started = time.perf_counter()
    columns = parse_all(formats)
    folded = fold(trace)
    layers = tuple(layer.name for layer in folded.graph.quantizable)
    ratio = np.zeros((len(layers), len(columns)))
    with torch.inference_mode():
        simulator = Simulator(folded, observe(folded, [example_inputs]))
        exact = simulator.run(example_inputs, {})
        for (i, k), _ in np.ndenumerate(ratio):
            if columns[k] != REFERENCE:
                rounded = simulator.run(example_inputs, {layers[i]: columns[k]})
                ratio[i, k] = _noise_to_signal(rounded, exact)
            if progress is not None:
                progress("sensitivity: noise", i * len(columns) + k + 1, ratio.size)
    return LossTable(
        layers=layers,
        formats=columns,
        loss=NOISE_SLOPE * ratio,
        error=NOISE_SLOPE * ratio,  # a rule of thumb: as uncertain as it is large
        divergence=ratio,
        measured=None,
        method="sqnr",
        slope=NOISE_SLOPE,
        baseline=None,
        samples=trace.graph.batch,
        evaluations=1 + ratio.size,
        seconds=time.perf_counter() - started,
    )


def _noise_to_signal(rounded: object, exact: object) -> float:
    """Return the power of the difference of two outputs over the power of the exact one."""
    noise = signal = 0.0
    for a, b in zip(pytree.tree_leaves(rounded), pytree.tree_leaves(exact), strict=True):
        if isinstance(b, Tensor) and b.is_floating_point():
            centred = b - b.mean(-1, keepdim=True)
            noise += float((a - b).double().square().sum())
            signal += float(centred.double().square().sum())
    return noise / signal if signal else 0.0
