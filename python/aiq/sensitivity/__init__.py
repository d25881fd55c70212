"""Sensitivity: the accuracy drop of each layer alone in each format.

`measure` runs the network on the user's data. `estimate` is cheaper: it derives drops from errors
of the network's output (``sqnr``, ``kl``), from errors of a layer's output (``mse``), or from
derivatives (``fisher``, ``curvature``, ``hessian``). `estimate_and_measure` does both: it measures
only the drops that decide. `estimate_changes` estimates changes of a plan. `predict_drop` predicts
the drop of a whole plan from a few samples.
"""

from aiq.sensitivity.auto import (
    estimate_and_measure,
    estimate_quickly,
    measure_what_decides,
)
from aiq.sensitivity.channels import ChannelDrops, estimate_by_channel
from aiq.sensitivity.estimated import ESTIMATES, CustomDrop, estimate, estimate_changes
from aiq.sensitivity.measured import measure
from aiq.sensitivity.whole_plan import predict_drop

METHODS = ("auto", "measured", *ESTIMATES)
"""Names of the methods; ``auto`` is `estimate_and_measure`."""

__all__ = [
    "METHODS",
    "ChannelDrops",
    "CustomDrop",
    "estimate",
    "estimate_and_measure",
    "estimate_by_channel",
    "estimate_changes",
    "estimate_quickly",
    "measure",
    "measure_what_decides",
    "predict_drop",
]
