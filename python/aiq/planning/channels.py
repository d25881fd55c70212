"""The search for the most intensity with a format for each group of output channels."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from aiq import bars
from aiq.errors import InputError
from aiq.evaluate import Evaluator, journal
from aiq.evaluate.metrics import Metric
from aiq.formats import REFERENCE, Format, parse_all
from aiq.graph import BatchDim
from aiq.graph.export import Inputs
from aiq.plan.channel_plan import ChannelPlan
from aiq.planning import loop, stages
from aiq.planning.accuracy import AccuracyMeter
from aiq.planning.channel_choices import MOST_GROUPS, ChannelTables, channel_tables, check_formats
from aiq.planning.options import SearchOptions
from aiq.planning.task import Outcome, Task
from aiq.progress import silent
from aiq.sensitivity import estimate_by_channel
from aiq.solver import Solution

FORMATS = "fp32,w8,w7,w6,w5,w4,w3,w2"
"""Default formats: those of weights only, as in the paper."""


@bars.shows_progress
def search_channels(
    model: torch.nn.Module,
    data: Iterable[Any],
    *,
    groups: int = MOST_GROUPS,
    formats: str | Iterable[str | Format] = FORMATS,
    max_drop: float = 0.01,
    confidence: float = 0.95,
    example_inputs: Inputs | None = None,
    batch_dim: BatchDim = 0,
    calibration: Iterable[Any] | None = None,
    metric: str | Metric = "top1",
    rounding: str = "nearest",
    cache: str | Path | None = None,
    seed: int = 0,
    progress: bars.Shown = "bar",
) -> ChannelPlan:
    """Choose a format for each group of output channels, for the most FLOPs per byte.

    The channels of each layer are sorted by their estimated sensitivity and divided into groups.
    Bytes are those of weights, activations in float32, and, in a layer with several formats, an
    index that names the group of each channel. The best plan by the tables is found exactly, and is
    measured as a whole; the prediction is corrected and the search repeated, as in `aiq.search`.

    Parameters
    ----------
    model
        Any module that ``torch.export`` accepts.
    data
        Iterable of ``(inputs, targets)`` batches on which accuracy is measured.
    groups
        Largest number of groups of a layer, 1 to 8. With 1, each layer has one format.
    formats
        Formats to choose from: ``fp32`` and weight-only formats ``wN``.
    max_drop, confidence, example_inputs, batch_dim, calibration, metric, rounding, seed, progress
        These are the parameters of `aiq.search`.
    cache
        Folder in which evaluations are kept, so that none is run twice; ``None`` for none.

    Returns
    -------
    ChannelPlan
        A result about accuracy and intensity, which cannot be deployed: no runtime has kernels
        whose output channels differ in their formats.

    Raises
    ------
    InputError, FormatError, GraphError, DataError
        If an argument is not what it should be; the message says what to do.
    InfeasibleError
        If no plan that was measured is within `max_drop`.
    """
    report = progress if callable(progress) else silent
    columns = parse_all([REFERENCE, *parse_all(formats)])
    check_formats(columns)
    if len(columns) == 1:
        raise InputError("formats has only fp32; name at least one format with fewer bits.")
    if type(groups) is not int or not 1 <= groups <= MOST_GROUPS:
        raise InputError(f"groups is {groups!r:.50}; give a number from 1 to {MOST_GROUPS}.")
    SearchOptions(
        objective="intensity",
        max_drop=max_drop,
        confidence=confidence,
        metric=metric,
        rounding=rounding,
        seed=seed,
    ).validate(None)
    if cache is not None:
        journal.check_folder(cache)
    source = stages.read_data(data, calibration, example_inputs, batch_dim)
    trace = stages.trace_model(model, source, rounding, report)
    assert source.batches is not None, "data is a required argument"
    evaluator = Evaluator(
        trace,
        source.batches,
        calibration=source.calibration,
        metric=metric,
        cache=cache,
        seed=seed,
        progress=report,
    )
    drops = estimate_by_channel(evaluator, columns, seed=seed, progress=report)
    choices = channel_tables(trace.graph, drops, groups)
    task = Task(
        tables=choices.tables,
        weighted_by=None,
        max_drop=max_drop,
        confidence=confidence,
        max_size=None,
        method="exact",
        time_limit=None,
    )
    meter = AccuracyMeter(evaluator, confidence, seed)
    outcome = loop.search_verified(task, meter, report)
    return _plan(trace.graph.model, choices, outcome, evaluator.evaluations)


def _plan(model: str, choices: ChannelTables, outcome: Outcome, evaluations: int) -> ChannelPlan:
    """Return the plan of an outcome."""
    assert outcome.accuracy is not None, "the plan was measured"
    assert isinstance(outcome.solution, Solution), "the objective has no weights"
    table = choices.tables.intensity
    return ChannelPlan(
        model=model,
        layers=tuple(choices.layer_of[name, outcome.formats[name].name] for name in table.layers),
        intensity=table.intensity(outcome.formats),
        reference_intensity=table.intensity({}),
        accuracy=outcome.accuracy,
        solution=outcome.solution,
        evaluations=evaluations,
    )
