"""Drops from estimates: a way of telling harm, and the scale that makes drops of it."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from aiq.drops import Array, DropTable, MeasuredPlan
from aiq.errors import DataError, InputError
from aiq.evaluate import Evaluator
from aiq.formats import REFERENCE, Format, parse_all
from aiq.graph import Trace
from aiq.graph.export import Inputs
from aiq.progress import Progress
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe
from aiq.sensitivity import drop_scale, fisher, hessian, kl, mse, sqnr
from aiq.sensitivity.context import EstimateContext, Way

SAMPLES = 256
"""Samples of the data that an estimate looks at."""

NOISE_SLOPE = 0.5
"""Accuracy lost per unit of noise-to-signal ratio where nothing is measured: a rule of thumb."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A way of estimating, whether its harm is in nats, and drop per unit without data."""

    way: Way
    in_nats: bool
    slope: float


ESTIMATES: Mapping[str, _Entry] = {
    "sqnr": _Entry(sqnr.harm, False, NOISE_SLOPE),
    "mse": _Entry(mse.harm, False, NOISE_SLOPE),
    "kl": _Entry(kl.harm, True, drop_scale.SLOPES["top1"]),
    "fisher": _Entry(fisher.harm, False, drop_scale.SLOPES["top1"]),
    "hessian": _Entry(hessian.harm, False, drop_scale.SLOPES["top1"]),
}

CustomDrop = Callable[[str, Format], float | tuple[float, float]]
"""The user's way: layer name and format -> drop as a fraction, or that and its standard error."""


def estimate(
    source: Evaluator | Trace,
    formats: str | Iterable[str | Format],
    method: str | CustomDrop,
    example_inputs: Inputs | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> DropTable:
    """Estimate the drop of each layer alone in each format.

    Parameters
    ----------
    source
        An evaluator: estimates are made on 256 of its samples, and scaled so that the drops of
        whole networks in one format are about what these lose when measured (see
        `aiq.sensitivity.drop_scale`). Or a trace, not folded: estimates are made on
        `example_inputs`, and drops are a rule of thumb whose ranks mean more than their sizes.
    formats
        Columns of the table.
    method
        ``sqnr`` (noise-to-signal ratio of the network's output), ``mse`` (the same of what the
        layer writes), ``kl`` (divergence of the output), ``fisher`` (squared error of what the
        layer writes, weighted by squared gradients), ``hessian`` (trace of the Hessian times
        squared error), or a function of a layer's name and a format that returns a drop, which is
        taken at its word, and if it likes its standard error.
    example_inputs
        Arguments of one call, best real ones, for a trace.
    seed
        Of the draws of ``fisher`` and ``hessian``.
    progress
        Called with what is going on, steps done, steps in all.

    Raises
    ------
    InputError
        If there is no such method, the own function returns no number, or inputs are missing.
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
        drop, error = _own(method, layers, columns)
        slope, divergence, name = 1.0, drop, getattr(method, "__name__", "own")
        measured_plans: tuple[MeasuredPlan, ...] = ()
    else:
        name = method
        entry = _entry(method)
        setting = _setting(source, example_inputs, layers, columns, method, seed, progress)
        harm, harm_error = _summary(entry.way(setting), setting, columns, method)
        if evaluator is None:
            divergence, slope = harm, entry.slope
            drop, error, measured_plans = slope * harm, slope * np.hypot(harm, harm_error), ()
        else:
            fitted = drop_scale.fit(
                evaluator,
                layers,
                columns,
                harm,
                in_nats=entry.in_nats,
                seed=seed,
                progress=progress,
            )
            slope, divergence, measured_plans = (
                fitted.slope,
                fitted.nats * harm,
                fitted.measured_plans,
            )
            drop = slope * divergence
            error = np.hypot(slope * fitted.nats * harm_error, fitted.slope_error * divergence)
    return DropTable(
        layers=layers,
        formats=columns,
        drop=drop,
        error=error,
        divergence=divergence,
        measured=None,
        method=name,
        slope=slope,
        baseline=evaluator.baseline.accuracy if evaluator else None,
        samples=evaluator.baseline.samples if evaluator else trace.graph.batch,
        evaluations=evaluator.evaluations - before if evaluator else 0,
        seconds=time.perf_counter() - started,
        measured_plans=measured_plans,
    )


def _entry(method: str) -> _Entry:
    if method not in ESTIMATES:
        raise InputError(
            f"There is no sensitivity {method!r}; use measured, {', '.join(ESTIMATES)}, a function "
            "of layer name and format, or a DropTable."
        )
    return ESTIMATES[method]


def _setting(
    source: Evaluator | Trace,
    example_inputs: Inputs | None,
    layers: tuple[str, ...],
    columns: tuple[Format, ...],
    method: str,
    seed: int,
    progress: Progress | None,
) -> EstimateContext:
    if isinstance(source, Evaluator):
        simulator, batches = source.runner.simulator, source.inputs(SAMPLES)
        output_dim = source.runner.output_dim
        classes = bool(np.isfinite(source.baseline.cross_entropy))
    else:
        if example_inputs is None:
            raise InputError("An estimate without data needs example_inputs; give one batch.")
        folded = fold(source)
        simulator, classes = Simulator(folded, observe(folded, [example_inputs])), True
        batches = [example_inputs]
        output_dim = _output_dim(source)
    rounding = tuple(f for f in columns if f != REFERENCE)
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
    """Return the dimension of the output that counts samples, as far as nothing has to be run.

    What is wrong here shows only in how large estimates without data are, which is a guess anyway.
    """
    return 0 if trace.batch_dim is not None else None


def _summary(
    harm: object, setting: EstimateContext, columns: tuple[Format, ...], method: str
) -> tuple[Array, Array]:
    """Return the mean over samples and its standard error, (L, K), with a column for float32."""
    values = np.asarray(harm)
    if not np.isfinite(values).all():
        i, k = np.argwhere(~np.isfinite(values).all(0))[0]
        raise DataError(
            f"The {method} sensitivity of layer {setting.layers[i]!r} as {setting.formats[k]} is "
            "NaN or infinite; check the weights and the inputs, or use another sensitivity."
        )
    mean = np.maximum(values.mean(0), 0.0)  # curvature may be estimated below zero
    # One draw says nothing of its error: it may be all of it.
    error = mean if len(values) < 2 else values.std(0, ddof=1) / len(values) ** 0.5
    filled = [np.zeros((len(setting.layers), len(columns))) for _ in range(2)]
    for k, chosen in enumerate(columns):
        if chosen in setting.formats:
            for table, values in zip(filled, (mean, error), strict=True):
                table[:, k] = values[:, setting.formats.index(chosen)]
    return filled[0], filled[1]


def _own(
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
