"""Squared error of what a layer itself writes: the cheapest estimate, nothing after it runs."""

from torch import Tensor

from aiq.sensitivity.context import EstimateContext, alone, relative_error, written


def harm(setting: EstimateContext) -> Tensor:
    """Return the power of the error of each layer's output over that of the output, (S, L, K)."""
    return alone(setting, written, lambda rounded, exact, _: relative_error(rounded, exact))
