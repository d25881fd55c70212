"""Metrics: the score of each sample's output, and its divergence from the float32 network."""

from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.utils import _pytree as pytree

from aiq.errors import DataError, InputError
from aiq.evaluate.samples import IGNORED

Metric = Callable[[Any, Tensor], Tensor]
"""Maps the model's output and the targets to a score for each sample, greater being better."""

NAMES = ("top1", "perplexity", "cosine")

PIECE = 2**16
"""Numbers of an output of which float64 logarithms are computed together, to fit a core's cache."""

FLAT = 1e-12
"""Fraction of an output's power below which its variance is only rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The output of the float32 network on N samples, and their scores: float64, (N,)."""

    output: Tensor
    scores: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Score, divergence and cross-entropy of N samples, each float64, (N,).

    The cross-entropy is NaN without classes.
    """

    score: Tensor
    divergence: Tensor
    cross_entropy: Tensor


def check_metric(metric: str | Metric) -> None:
    """Raise `InputError` unless `metric` is a name or a callable."""
    if not callable(metric) and metric not in NAMES:
        raise InputError(
            f"There is no metric {metric!r}; use {', '.join(NAMES)}, or a function of outputs and "
            "targets that returns one score per sample, more being better (on the command line: "
            "package.module:function)."
        )


def main_output(output: Any) -> Tensor:  # noqa: ANN401  (whatever the model returns)
    """Return the first floating-point tensor of a model's output, which is usually the logits.

    Raises
    ------
    DataError
        If there is no such tensor with a batch dimension.
    """
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim:
            return leaf
    raise DataError(
        f"The model returns {type(output).__name__} without a floating-point tensor of shape "
        "(batch, ...); let it return one, for example logits."
    )


def evaluate(
    metric: str | Metric,
    output: Any,  # noqa: ANN401
    targets: Tensor | None,
    reference: Reference | None,
    dim: int | None = 0,
) -> tuple[Scores, Reference]:
    """Return the scores of N samples, and the reference of the float32 network on them.

    Parameters
    ----------
    metric
        ``top1`` (fraction of positions whose largest logit is the target's), ``perplexity`` (mean
        log-likelihood of the targets, so that differences are differences of log-perplexity),
        ``cosine`` (cosine of the output and that of the float32 network), or a function.
    output
        Output of the model.
    targets
        Targets of the samples; ``None`` for ``cosine``.
    reference
        Reference of the float32 network; ``None`` if `output` is the float32 network's own.
    dim
        Dimension of the main output that counts samples; ``None`` if the output is of one sample.

    Raises
    ------
    DataError
        If outputs, targets and metric do not fit together.
    """
    main = main_output(output)
    logits = main[None] if dim is None else main.movedim(dim, 0)
    axis = None if targets is None else class_axis(logits, targets)
    exact = logits if reference is None else reference.output
    if axis is None:
        cross_entropy = torch.full((len(logits),), torch.nan, dtype=torch.float64)
        divergence = _relative_error(logits, exact)
    else:
        assert targets is not None
        cross_entropy, divergence = _from_classes(logits, exact, targets, axis)
    if metric == "cosine":
        score = _cosine(logits, exact)
    elif metric == "perplexity":
        score = -_needs_classes(cross_entropy, axis, logits, targets)
    elif metric == "top1":
        _needs_classes(cross_entropy, axis, logits, targets)
        assert axis is not None
        assert targets is not None
        score = _mean_over_positions((logits.argmax(axis) == targets).double(), targets)
    else:
        assert callable(metric)
        score = _own_score(metric, output, targets, len(logits))
    if reference is None:
        reference = Reference(logits, score)
    return Scores(score, divergence, cross_entropy), reference


def class_axis(logits: Tensor, targets: Tensor) -> int | None:
    """Return the dimension of the classes: the one of `logits` that `targets` do not have.

    It is the second of images, (batch, classes, height, width), and the last of sequences, (batch,
    length, tokens). It is ``None`` if the targets are not class indices of that shape.
    """
    if targets.dtype != torch.int64 or targets.ndim != logits.ndim - 1:
        return None
    for axis in (1, logits.ndim - 1) if logits.ndim > 3 else (logits.ndim - 1, 1):
        if targets.shape == (*logits.shape[:axis], *logits.shape[axis + 1 :]):
            return axis
    return None


def _from_classes(
    logits: Tensor, exact: Tensor, targets: Tensor, axis: int
) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and Kullback-Leibler divergence as means over a sample's positions."""
    classes = logits.shape[axis]
    counted = targets[targets != IGNORED]
    low, high = (int(counted.min()), int(counted.max())) if len(counted) else (0, 0)
    if low < 0 or high >= classes:
        raise DataError(
            f"Targets range from {low} to {high} but the model has {classes} classes; give class "
            "indices from 0."
        )
    rows = [x.movedim(axis, -1).reshape(-1, classes) for x in (logits, exact)]
    index = targets.clamp(min=0).reshape(-1, 1)
    size = max(1, PIECE // classes)
    pieces = zip(*(torch.split(x, size) for x in (*rows, index)), strict=True)
    found = [_of_rows(*piece) for piece in pieces]
    cross_entropy, divergence = (
        torch.cat(part).view(targets.shape) for part in zip(*found, strict=True)
    )
    return _mean_over_positions(cross_entropy, targets), _mean_over_positions(divergence, targets)


def _of_rows(logits: Tensor, exact: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and divergence of each row, in float64."""
    log_q, log_p = logits.double().log_softmax(-1), exact.double().log_softmax(-1)
    return -log_q.gather(-1, index).squeeze(-1), (log_p.exp() * (log_p - log_q)).sum(-1)


def _mean_over_positions(values: Tensor, targets: Tensor) -> Tensor:
    if values.ndim == 1:
        return values
    counted = (targets != IGNORED).double().flatten(1)
    return (values.flatten(1) * counted).sum(1) / counted.sum(1).clamp(min=1)


def _cosine(output: Tensor, exact: Tensor) -> Tensor:
    """Return the cosine of each sample's output and the exact one, which is 1 if both are zero."""
    a, b = (_scaled(t.double().reshape(len(t), -1)) for t in (output, exact))
    zero = (a == 0).all(1) & (b == 0).all(1)
    return torch.where(zero, 1.0, cosine_similarity(a, b))


def _scaled(rows: Tensor) -> Tensor:
    """Return each row divided by its largest value, so that squares neither vanish nor overflow."""
    largest = rows.abs().amax(1, keepdim=True)
    return rows / torch.where(largest > 0, largest, 1.0)


def _relative_error(output: Tensor, exact: Tensor) -> Tensor:
    """Return the power of the difference over that of the exact output, for each sample.

    The power of the output is the squared deviation from its mean, or the squared values if the
    output is constant.
    """
    a, b = (t.double().reshape(len(t), -1) for t in (output, exact))
    centred = (b - b.mean(1, keepdim=True)).square().sum(1)
    plain, error = b.square().sum(1), (a - b).square().sum(1)
    power = torch.where(centred > FLAT * plain, centred, plain)
    return torch.where(power > 0, error / power, (error > 0).double())


def _needs_classes(
    cross_entropy: Tensor, axis: int | None, logits: Tensor, targets: Tensor | None
) -> Tensor:
    if axis is not None:
        return cross_entropy
    found = "none" if targets is None else f"{targets.dtype} of shape {tuple(targets.shape)}"
    raise DataError(
        f"The model returns outputs of shape {tuple(logits.shape)} and the targets are {found}; "
        "give class indices (integers) of that shape without its dimension of classes, or choose "
        "another metric."
    )


def _own_score(metric: Metric, output: Any, targets: Tensor | None, count: int) -> Tensor:  # noqa: ANN401
    assert targets is not None, "data for a user's metric is gathered with targets"
    score = torch.as_tensor(metric(output, targets))
    if score.shape != (count,) or not score.double().isfinite().all():
        raise InputError(
            f"The metric returned {score.dtype} of shape {tuple(score.shape)} for {count} samples; "
            f"let it return one finite number for each, shape ({count},)."
        )
    return score.double()


def identity(metric: Metric) -> tuple[object, ...]:
    """Return what identifies a metric, as far as that can be known.

    Raises
    ------
    InputError
        If it is no plain function, or uses variables of a function around it.
    """
    code = getattr(metric, "__code__", None)
    if code is None or code.co_freevars:
        raise InputError(
            f"The metric {metric!r} cannot be told from others, so its evaluations cannot be kept; "
            "give a plain function, or no cache."
        )
    return (metric.__module__, metric.__qualname__, *_parts(code))


def _parts(code: CodeType) -> tuple[object, ...]:
    """Return what a function does, with that of functions and comprehensions inside it.

    A code object itself differs from run to run, because it has an address.
    """
    constants = tuple(_parts(c) if isinstance(c, CodeType) else c for c in code.co_consts)
    return (code.co_code, constants, code.co_names)
