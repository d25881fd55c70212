"""Drops of single output channels, by the Fisher information of what they write."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from aiq.drops import Array, MeasuredPlan
from aiq.errors import DataError
from aiq.evaluate import Evaluator
from aiq.formats import Format, parse_all
from aiq.progress import Progress
from aiq.sensitivity import fisher
from aiq.sensitivity.drop_scale import fit_scale
from aiq.sensitivity.estimated import make_context


@dataclass(frozen=True, slots=True, eq=False)
class ChannelDrops:
    """Predicted accuracy drop of each output channel alone in each of K formats.

    Attributes
    ----------
    formats
        The K formats.
    drop
        Layer name -> drop of each of its C output channels, as a fraction, (C, K). A layer whose
        channels cannot be told apart in what it writes has one row.
    measured_plans
        Plans that were measured as a whole for the table.
    """

    formats: tuple[Format, ...]
    drop: Mapping[str, Array]
    measured_plans: tuple[MeasuredPlan, ...]


def estimate_by_channel(
    evaluator: Evaluator,
    formats: str | Iterable[str | Format],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> ChannelDrops:
    """Estimate the drop of each output channel of each layer alone in each format.

    The estimate is that of `estimate` with the method ``fisher``, before it is summed over the
    channels of a layer, so that it takes as long.

    Parameters
    ----------
    evaluator
        Evaluator of the network on data.
    formats
        Columns of the tables.
    seed
        Seed of the random draws.
    progress
        Called with the name of the stage, the steps done, and the number of steps.

    Raises
    ------
    DataError
        If an estimate is NaN or infinite.
    """
    columns = parse_all(formats)
    layers = tuple(layer.name for layer in evaluator.trace.graph.quantizable)
    context = make_context(evaluator, None, layers, columns, "fisher", seed, progress)
    harm = {}
    for layer, found in fisher.harm_by_channel(context).items():
        rows = np.zeros((len(found), len(columns)))
        for k, chosen in enumerate(context.formats):
            rows[:, columns.index(chosen)] = found[:, k].numpy()
        if not np.isfinite(rows).all():
            raise DataError(
                f"The sensitivity of a channel of layer {layer!r} is NaN or infinite; check the "
                "weights and the inputs."
            )
        harm[layer] = rows
    whole = np.array([harm[layer].sum(0) for layer in layers])
    scale = fit_scale(
        evaluator, layers, columns, whole, in_nats=False, seed=seed, progress=progress
    )
    factor = scale.slope * scale.nats
    drop = {layer: factor * rows for layer, rows in harm.items()}
    return ChannelDrops(columns, drop, scale.measured_plans)
