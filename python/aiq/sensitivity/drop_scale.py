"""From estimates of harm to accuracy drops: one number, measured where it matters.

What a way of estimating calls harm adds up over layers, but has a unit of its own, and what a nat
of divergence costs in accuracy depends on the network. Both follow from plans measured as a whole:
the divergence of a uniform one gives nats per unit of harm, the drops of several, uniform and
mixed, give accuracy per nat. So the sum of a plan's drops is about what the plan loses, whatever
the way.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aiq.drops import Array, MeasuredPlan
from aiq.evaluate import Evaluation, Evaluator
from aiq.evaluate.confidence import covariance
from aiq.formats import Format
from aiq.progress import Progress

SLOPES: Mapping[str, float] = {"top1": 0.35, "perplexity": 1.0, "cosine": 0.5}
"""Score lost per nat (for ``cosine``: per unit of relative squared error), as first guessed."""

SLOPE_ERROR = 1.0
"""Relative standard error of that guess."""

MODEL_ERROR = 0.3
"""Relative error of a drop predicted by a slope: it bends where drops are large."""

FIT_DROPS = (0.003, 0.006, 0.012, 0.025, 0.05)
"""Predicted drops of the plans on which the slope is fitted: around the usual budgets."""

FEWEST_SAMPLES = 256
"""Samples behind every measurement that stops early."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What a unit of harm is.

    Attributes
    ----------
    nats
        Divergence per unit of harm.
    slope, slope_error
        Score lost per nat, and its standard error.
    measured_plans
        Plans that were measured as a whole, uniform and mixed.
    """

    nats: float
    slope: float
    slope_error: float
    measured_plans: tuple[MeasuredPlan, ...]


def guess(evaluator: Evaluator) -> float:
    """Return what a nat may cost: for the user's own metric the spread of its scores."""
    if isinstance(evaluator.metric, str):
        return SLOPES[evaluator.metric]
    return float(evaluator.baseline.scores.std()) or 1.0


def fit(
    evaluator: Evaluator,
    layers: Sequence[str],
    formats: Sequence[Format],
    harm: Array,
    *,
    in_nats: bool,
    seed: int = 0,
    progress: Progress | None,
) -> Unit:
    """Return the unit of `harm`, (L, K), by evaluating at most eleven plans.

    Generalised least squares through the origin; drops are uncertain by their samples, which all
    plans share, and by the model, and a prior keeps the slope positive where nothing drops.

    Parameters
    ----------
    evaluator
        Of the network on data.
    layers, formats
        Of the rows and columns.
    harm
        Of each layer alone; a format that rounds nothing has none.
    in_nats
        Whether harm is a divergence already.
    seed
        Of the mixed plans.
    progress
        Called with what is going on, steps done, steps in all.
    """
    sums = harm.sum(0)
    columns = [k for k in range(len(formats)) if sums[k] > 0]
    slope = guess(evaluator)
    if not columns:
        return Unit(1.0, slope, slope, ())

    def plan(chosen: Sequence[int]) -> dict[str, Format]:
        return {name: formats[k] for name, k in zip(layers, chosen, strict=True)}

    nats = 1.0
    if not in_nats:
        anchor = sorted(columns, key=lambda k: sums[k])[len(columns) // 2]
        found = evaluator.evaluate(plan([anchor] * len(layers)), _precise)
        nats = found.kl / sums[anchor] or 1.0
    rng = np.random.default_rng(seed)
    chosen: dict[tuple[int, ...], None] = {}  # a set that keeps its order
    for drop in FIT_DROPS:
        total = drop / (slope * nats)
        uniform = min(columns, key=lambda k: abs(math.log(sums[k] / total)))
        chosen |= {(uniform,) * len(layers): None, _mixed(harm, total, rng): None}
    plans = [plan(c) for c in chosen]
    evaluations = evaluator.evaluate_many(plans, progress=progress)
    divergence = nats * np.array([harm[range(len(layers)), c].sum() for c in chosen])
    drops = np.array([e.drop for e in evaluations])
    error = np.array([math.hypot(e.drop_error, 1 / e.samples) for e in evaluations])
    model = np.diag((MODEL_ERROR * slope * divergence) ** 2)
    weighted = np.linalg.solve(covariance(error) + model, divergence)
    prior = (SLOPE_ERROR * slope) ** -2
    weight = prior + float(weighted @ divergence)
    moment = prior * slope + float(weighted @ drops)
    measured_plans = tuple(
        MeasuredPlan({name: f.name for name, f in formats_of.items()}, evaluation.drop, float(e))
        for formats_of, e, evaluation in zip(plans, error, evaluations, strict=True)
    )
    return Unit(nats, max(moment / weight, slope / 10), weight**-0.5, measured_plans)


def _mixed(harm: Array, total: float, rng: np.random.Generator) -> tuple[int, ...]:
    """Return a plan in which each layer does at most its random share of the harm.

    Of the formats that do, a layer has the most harmful one: it is the smallest, usually.
    """
    shares = rng.dirichlet(np.ones(len(harm))) * total
    return tuple(
        int(np.where(row <= max(share, row.min()), row, -1.0).argmax())
        for row, share in zip(harm, shares, strict=True)
    )


def _precise(evaluation: Evaluation) -> bool:
    return evaluation.samples >= FEWEST_SAMPLES and evaluation.kl_error <= evaluation.kl / 20
