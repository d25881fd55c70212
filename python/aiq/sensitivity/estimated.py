"""Drops from estimates: an estimator of harm, and the scale that converts harm to drops."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aiq.drops import Array, DropTable
from aiq.errors import DataError, InputError
from aiq.evaluate import Evaluator
from aiq.formats import REFERENCE, Format, parse_all
from aiq.graph import Trace
from aiq.graph.export import Inputs
from aiq.progress import Progress
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Formats, Simulator
from aiq.quantize.statistics import observe
from aiq.sensitivity import curvature, drop_scale, fisher, hessian, kl, mse, sqnr
from aiq.sensitivity.context import EstimateContext, Estimator
from aiq.sensitivity.drop_scale import DropScale
from aiq.sensitivity.parts import Parts, distinct, parts_of

SAMPLES = 256
"""Number of samples of the data that an estimate uses."""

NOISE_SLOPE = 0.5
"""Drop per unit of noise-to-signal ratio where nothing is measured: a rule of thumb."""


@dataclass(frozen=True, slots=True)
class _Estimate:
    """An estimator, whether its harm is in nats, and the drop per unit of harm without data."""

    harm: Estimator
    in_nats: bool
    slope: float


ESTIMATES: Mapping[str, _Estimate] = {
    "sqnr": _Estimate(sqnr.harm, False, NOISE_SLOPE),
    "mse": _Estimate(mse.harm, False, NOISE_SLOPE),
    "kl": _Estimate(kl.harm, True, drop_scale.SLOPES["top1"]),
    "fisher": _Estimate(fisher.harm, False, drop_scale.SLOPES["top1"]),
    "curvature": _Estimate(curvature.harm, False, drop_scale.SLOPES["top1"]),
    "hessian": _Estimate(hessian.harm, False, drop_scale.SLOPES["top1"]),
}

CustomDrop = Callable[[str, Format], float | tuple[float, float]]
"""Function of a layer's name and a format that returns a drop, or a drop and its standard error."""


def estimate(
    source: Evaluator | Trace,
    formats: str | Iterable[str | Format],
    method: str | CustomDrop,
    example_inputs: Inputs | None = None,
    *,
    fit: bool = True,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> DropTable:
    """Estimate the drop of each layer alone in each format.

    Parameters
    ----------
    source
        An evaluator, or a trace that is not folded. With an evaluator, estimates are made on some
        of its samples and scaled by the measured drops of whole plans (see
        `aiq.sensitivity.drop_scale`). With a trace, they are made on `example_inputs`; such drops
        are a rule of thumb, and only their order should be relied on.
    formats
        Columns of the table.
    method
        ``sqnr`` (noise-to-signal ratio of the network's output), ``mse`` (the same of the layer's
        output), ``kl`` (divergence of the network's softmax), ``fisher`` (squared error of the
        layer's output, weighted by squared gradients), ``curvature`` (divergence to second order,
        in which errors of a sample add up or cancel), ``hessian`` (trace of the Hessian times
        squared error), or a function of a layer's name and a format. The function returns the drop
        as a fraction, or the drop and its standard error; its answers are not scaled.
    example_inputs
        Arguments of one call for a trace; real inputs give better estimates than random ones.
    fit
        Whether the drop per nat is fitted to the drops of whole plans. Otherwise it is a rule of
        thumb, and one plan is evaluated on part of the data.
    samples
        Number of samples of the data that are used.
    seed
        Seed of the random draws of ``fisher`` and ``hessian``, and of the measured mixed plans.
    progress
        Called with the name of the stage, the steps done, and the number of steps.

    Raises
    ------
    InputError
        If there is no such method, the user's function returns no number, or inputs are missing.
    DataError
        If an estimate is NaN or infinite.
    """
    started = time.perf_counter()
    columns = parse_all(formats)
    evaluator = source if isinstance(source, Evaluator) else None
    before = evaluator.evaluations if evaluator else 0
    trace = evaluator.trace if evaluator else source
    assert isinstance(trace, Trace)
    layers = tuple(layer.name for layer in trace.graph.quantizable)
    if callable(method):
        name = getattr(method, "__name__", "own")
        harm, harm_error = _custom(method, layers, columns)
        scale = DropScale(1.0, 1.0, 0.0, ())
    else:
        name, chosen = method, _named(method)
        parts, _ = parts_of(columns)
        context = make_context(
            source, example_inputs, layers, distinct(parts), method, seed, progress, samples
        )
        harm, harm_error = _summary(chosen.harm(context), context, columns, parts, method)
        if evaluator is None:
            scale = DropScale(1.0, chosen.slope, chosen.slope, ())
        else:
            scale = drop_scale.fit_scale(
                evaluator,
                layers,
                columns,
                harm,
                in_nats=chosen.in_nats,
                plans=fit,
                seed=seed,
                progress=progress,
            )
    divergence = scale.nats * harm
    return DropTable(
        layers=layers,
        formats=columns,
        drop=scale.slope * divergence,
        error=np.hypot(scale.slope * scale.nats * harm_error, scale.slope_error * divergence),
        divergence=divergence,
        measured=None,
        method=name,
        slope=scale.slope,
        baseline=evaluator.baseline.accuracy if evaluator else None,
        samples=evaluator.baseline.samples if evaluator else trace.graph.batch,
        evaluations=evaluator.evaluations - before if evaluator else 0,
        seconds=time.perf_counter() - started,
        measured_plans=scale.measured_plans,
    )


def estimate_changes(
    evaluator: Evaluator,
    plan: Formats,
    candidates: Mapping[str, Sequence[Format]],
    samples: int,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Array, Array]:
    """Estimate how each change of one layer's format changes the divergence of a plan.

    Parameters
    ----------
    evaluator
        Evaluator of the network on data.
    plan
        Format of each layer.
    candidates
        Layer name -> the formats that it may change to.
    samples
        Number of samples of the data on which to estimate.
    seed
        Seed of the random draws.
    progress
        Called with the name of the stage, the steps done, and the number of steps.

    Returns
    -------
    first, second
        The terms of first and second order in nats, see `aiq.sensitivity.curvature.changes`: (L, K)
        for the L layers of `plan` and the K formats that appear in `candidates`, in this order.
    """
    formats = list(dict.fromkeys(f for given in candidates.values() for f in given))
    context = make_context(
        evaluator, None, tuple(plan), formats, "changes", seed, progress, samples
    )
    context = replace(context, formats=tuple(formats))  # float32 may be among them
    first, second = curvature.changes(context, plan, candidates)
    return first.mean(0).numpy(), second.mean(0).numpy()


def _named(method: str) -> _Estimate:
    if method not in ESTIMATES:
        raise InputError(
            f"There is no sensitivity {method!r}; use measured, {', '.join(ESTIMATES)}, a function "
            "of layer name and format, or a DropTable."
        )
    return ESTIMATES[method]


def make_context(
    source: Evaluator | Trace,
    example_inputs: Inputs | None,
    layers: tuple[str, ...],
    formats: Sequence[Format],
    method: str,
    seed: int,
    progress: Progress | None,
    samples: int = SAMPLES,
) -> EstimateContext:
    """Return the input of an estimator; the parameters are those of `estimate`."""
    if isinstance(source, Evaluator):
        simulator, batches = source.runner.simulator, source.inputs(samples)
        output_dim = source.runner.output_dim
        classes = bool(np.isfinite(source.baseline.cross_entropy))
    else:
        if example_inputs is None:
            raise InputError("An estimate without data needs example_inputs; give one batch.")
        folded = fold(source)
        simulator, classes = Simulator(folded, observe(folded, [example_inputs])), True
        batches = [example_inputs]
        output_dim = _output_dim(source)
    rounding = tuple(f for f in formats if f != REFERENCE)
    done, total = 0, len(batches) * len(layers) * len(rounding)

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(f"sensitivity: {method}", min(done, total), total)

    batch_dim = (source.trace if isinstance(source, Evaluator) else source).batch_dim
    return EstimateContext(
        simulator,
        tuple(batches),
        layers,
        rounding,
        classes,
        seed,
        step,
        batch_dim,
        output_dim,
    )


def _output_dim(trace: Trace) -> int | None:
    """Return the dimension of the output that is likely to count samples, without a run.

    A wrong answer only scales the estimates without data, which are a rule of thumb anyway.
    """
    return 0 if trace.batch_dim is not None else None


def _summary(
    harm: object,
    context: EstimateContext,
    columns: tuple[Format, ...],
    parts: Parts,
    method: str,
) -> tuple[Array, Array]:
    """Return the mean over samples and its standard error, (L, K), with a column for float32.

    The harm of a format is the sum of that of its parts.
    """
    values = np.asarray(harm)
    if not np.isfinite(values).all():
        i, k = np.argwhere(~np.isfinite(values).all(0))[0]
        raise DataError(
            f"The {method} sensitivity of layer {context.layers[i]!r} as {context.formats[k]} is "
            "NaN or infinite; check the weights and the inputs, or use another sensitivity."
        )
    filled = np.zeros((2, len(context.layers), len(columns)))
    for k, chosen in enumerate(columns):
        if chosen in parts:
            own = values[:, :, [context.formats.index(part) for part in parts[chosen]]].sum(2)
            mean = np.maximum(own.mean(0), 0.0)  # an estimated curvature may be negative
            # The error of a single draw is unknown; it may be as large as the draw.
            error = mean if len(own) < 2 else own.std(0, ddof=1) / len(own) ** 0.5
            filled[:, :, k] = mean, error
    return filled[0], filled[1]


def _custom(
    method: CustomDrop, layers: tuple[str, ...], columns: tuple[Format, ...]
) -> tuple[Array, Array]:
    drop, error = np.zeros((2, len(layers), len(columns)))
    for i, layer in enumerate(layers):
        for k, chosen in enumerate(columns):
            if chosen == REFERENCE:
                continue
            answer = method(layer, chosen)
            pair = answer if isinstance(answer, tuple) else (answer, 0.0)
            try:
                drop[i, k], error[i, k] = map(float, pair)
            except (TypeError, ValueError):
                pair = (np.nan, np.nan)
            if not np.isfinite(pair).all() or pair[1] < 0:
                raise InputError(
                    f"The sensitivity function returned {answer!r} for {layer!r} as {chosen}; let "
                    "it return a finite drop, as a fraction, or a pair of it and its error."
                )
    return drop, error
