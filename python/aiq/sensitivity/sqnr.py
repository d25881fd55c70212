"""Noise-to-signal ratio of the network's output: AIMET's phase 1, without labels."""

from torch import Tensor

from aiq.sensitivity.context import EstimateContext, alone, output, relative_error


def harm(setting: EstimateContext) -> Tensor:
    """Return the power of the output's error over that of the output, (S, L, K)."""
    return alone(setting, output, lambda rounded, exact, _: relative_error(rounded, exact))
