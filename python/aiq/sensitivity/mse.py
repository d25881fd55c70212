"""Squared error of a layer's own output: the cheapest estimate, as no later operator runs."""

from torch import Tensor

from aiq.sensitivity.context import EstimateContext, alone, relative_error, written


def harm(context: EstimateContext) -> Tensor:
    """Return the noise-to-signal ratio of each layer's output, (S, L, K)."""
    return alone(context, written, lambda rounded, exact, _: relative_error(rounded, exact))
