"""Convert estimated harm to accuracy drops, by plans that are measured as a whole.

The harm that an estimate returns adds up over layers, but each estimate has its own unit. The drop
of accuracy per nat of divergence depends on the network. Both are measured. The divergence of one
uniform plan gives the nats per unit of harm; the drops of several plans, uniform and mixed, give
the drop per nat. With any estimate, the sum of the drops of a plan's layers is then about the
drop of the plan.
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
"""First guess of the drop per nat; for ``cosine``, per unit of relative squared error."""

SLOPE_ERROR = 1.0
"""Relative standard error of that guess."""

MODEL_ERROR = 0.3
"""Relative error of a drop that is predicted as slope times divergence."""

FIT_DROPS = (0.003, 0.006, 0.012, 0.025, 0.05)
"""Predicted drops of the plans to which the slope is fitted: around the usual budgets.

Drops of a user's metric may have any unit. The largest is then that of the coarsest plan.
"""

FEWEST_SAMPLES = 256
"""Smallest number of samples of a measurement that stops early."""


@dataclass(frozen=True, slots=True)
class DropScale:
    """The factors from harm to divergence and from divergence to accuracy drop.

    Attributes
    ----------
    nats
        Divergence per unit of harm, in nats.
    slope, slope_error
        Drop per nat, as a fraction, and its standard error.
    measured_plans
        Plans that were measured as a whole, uniform and mixed.
    """

    nats: float
    slope: float
    slope_error: float
    measured_plans: tuple[MeasuredPlan, ...]


def guess(
    evaluator: Evaluator, layers: Sequence[str], formats: Sequence[Format]
) -> tuple[float, float]:
    """Return a guess of the drop per nat, and the largest drop of the plans to fit it to.

    A user's metric has any unit, so one plan is measured: the uniform one of the fewest bits. Its
    drop may be zero by chance, so the guess is the root mean square of what it may be.

    Parameters
    ----------
    evaluator
        Evaluator of the network on data.
    layers, formats
        Names of the layers, and the formats to choose from.
    """
    if isinstance(evaluator.metric, str):
        return SLOPES[evaluator.metric], FIT_DROPS[-1]
    coarsest = min(formats, key=lambda f: (f.weight.bits, f.activation.bits))
    found = evaluator.evaluate(dict.fromkeys(layers, coarsest))
    size = math.hypot(found.drop, found.drop_error)
    return (size / found.kl, size) if size and found.kl > 0 else (1.0, FIT_DROPS[-1])


def fit_scale(
    evaluator: Evaluator,
    layers: Sequence[str],
    formats: Sequence[Format],
    harm: Array,
    *,
    in_nats: bool,
    plans: bool = True,
    seed: int = 0,
    progress: Progress | None,
) -> DropScale:
    """Return the scale of `harm`, by evaluating at most eleven plans.

    The slope is fitted by generalised least squares through the origin. The errors of drops come
    from their samples, which all plans share, and from the model. A prior keeps the slope positive
    where no plan drops. With the metric ``perplexity`` the slope is 1, as a divergence is the mean
    increase of log-perplexity on text that is as likely as the network says.

    Parameters
    ----------
    evaluator
        Evaluator of the network on data.
    layers, formats
        Names of the L rows and formats of the K columns of `harm`.
    harm
        Harm of each layer alone in each format, (L, K); 0 in a format that rounds nothing.
    in_nats
        Whether harm is a divergence in nats already.
    plans
        Whether the slope is fitted to plans; otherwise it is the first guess.
    seed
        Seed of the random mixed plans.
    progress
        Called with the name of the stage, the steps done, and the number of steps.
    """
    sums = harm.sum(0)
    columns = [k for k in range(len(formats)) if sums[k] > 0]
    slope, largest = guess(evaluator, layers, formats)
    if not columns:
        return DropScale(1.0, slope, slope, ())

    def plan(chosen: Sequence[int]) -> dict[str, Format]:
        return {name: formats[k] for name, k in zip(layers, chosen, strict=True)}

    nats = 1.0
    if in_nats and not plans:
        return DropScale(nats, slope, SLOPE_ERROR * slope, ())
    if not in_nats:
        anchor = sorted(columns, key=lambda k: sums[k])[len(columns) // 2]
        found = evaluator.evaluate(plan([anchor] * len(layers)), _precise)
        nats = found.kl / sums[anchor] if found.kl > 0 else 1.0  # rounding: no divergence at all
        if evaluator.metric == "perplexity" or not plans:
            known = {name: formats[anchor].name for name in layers}
            whole = MeasuredPlan(known, found.drop, found.drop_doubt)
            doubt = 0.0 if evaluator.metric == "perplexity" else SLOPE_ERROR
            return DropScale(nats, slope, doubt * slope, (whole,))
    rng = np.random.default_rng(seed)
    chosen: dict[tuple[int, ...], None] = {}  # a set that keeps its order
    for drop in FIT_DROPS:
        total = drop / FIT_DROPS[-1] * largest / (slope * nats)
        uniform = min(columns, key=lambda k: abs(math.log(sums[k] / total)))
        chosen |= {(uniform,) * len(layers): None, _mixed(harm, total, rng): None}
    mixed = [plan(c) for c in chosen]
    evaluations = evaluator.evaluate_many(mixed, progress=progress)
    divergence = nats * np.array([harm[range(len(layers)), c].sum() for c in chosen])
    drops = np.array([e.drop for e in evaluations])
    error = np.array([e.drop_doubt for e in evaluations])
    model = np.diag((MODEL_ERROR * slope * divergence) ** 2)
    weighted = np.linalg.solve(covariance(error) + model, divergence)
    prior = (SLOPE_ERROR * slope) ** -2
    weight = prior + float(weighted @ divergence)
    moment = prior * slope + float(weighted @ drops)
    measured_plans = tuple(
        MeasuredPlan({name: f.name for name, f in formats_of.items()}, evaluation.drop, float(e))
        for formats_of, e, evaluation in zip(mixed, error, evaluations, strict=True)
    )
    return DropScale(nats, max(moment / weight, slope / 10), weight**-0.5, measured_plans)


def _mixed(harm: Array, total: float, rng: np.random.Generator) -> tuple[int, ...]:
    """Return a plan, as columns, in which each layer has at most its random share of the harm.

    Each layer gets the most harmful format within its share, which is usually the smallest one.
    """
    shares = rng.dirichlet(np.ones(len(harm))) * total
    return tuple(
        int(np.where(row <= max(share, row.min()), row, -1.0).argmax())
        for row, share in zip(harm, shares, strict=True)
    )


def _precise(evaluation: Evaluation) -> bool:
    return evaluation.samples >= FEWEST_SAMPLES and evaluation.kl_error <= evaluation.kl / 20
