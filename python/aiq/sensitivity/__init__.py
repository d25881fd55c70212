"""Sensitivity: the accuracy drop of each layer alone in each format.

`measure` runs the network on the user's data. `estimate` is cheaper: it derives drops from errors
of the network's output (``sqnr``, ``kl``), from errors of a layer's output (``mse``), or from
derivatives (``fisher``, ``hessian``). `predict_drop` predicts the drop of a whole plan from a few
samples.
"""

from aiq.sensitivity.channels import ChannelDrops, estimate_by_channel
from aiq.sensitivity.estimated import ESTIMATES, CustomDrop, estimate
from aiq.sensitivity.measured import measure
from aiq.sensitivity.whole_plan import predict_drop

METHODS = ("measured", *ESTIMATES)
"""Names of the methods."""

__all__ = [
    "METHODS",
    "ChannelDrops",
    "CustomDrop",
    "estimate",
    "estimate_by_channel",
    "measure",
    "predict_drop",
]
