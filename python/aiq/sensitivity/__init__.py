"""Sensitivity: how much accuracy each layer loses, alone, in each format.

One table, several ways: `measure` counts on the user's data; `estimate` tells it from outputs
(``sqnr``, ``kl``), from what layers write (``mse``), or from derivatives (``fisher``, ``hessian``).
And for a whole plan: `look` at it on a few samples.
"""

from aiq.sensitivity.estimated import ESTIMATES, CustomDrop, estimate
from aiq.sensitivity.measured import measure
from aiq.sensitivity.whole_plan import look

METHODS = ("measured", *ESTIMATES)
"""Names of the ways."""

__all__ = ["METHODS", "CustomDrop", "estimate", "look", "measure"]
