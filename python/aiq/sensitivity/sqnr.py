"""Noise-to-signal ratio of the network's output, as in phase 1 of AIMET; it needs no labels."""

from torch import Tensor

from aiq.sensitivity.context import EstimateContext, alone, output, relative_error


def harm(context: EstimateContext) -> Tensor:
    """Return the noise-to-signal ratio of the network's output, (S, L, K)."""
    return alone(context, output, lambda rounded, exact, _: relative_error(rounded, exact))
