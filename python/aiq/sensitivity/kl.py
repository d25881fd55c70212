"""Divergence of the network's softmax from the float32 network's, without labels."""

from torch import Tensor

from aiq.sensitivity.context import EstimateContext, alone, class_axis, output, relative_error


def harm(setting: EstimateContext) -> Tensor:
    """Return nats, mean over a sample's positions, (S, L, K); without classes, as ``sqnr``."""
    return alone(setting, output, _divergence if setting.classes else _error)


def _divergence(rounded: Tensor, exact: Tensor, layer: str) -> Tensor:
    axis = class_axis(exact)
    positions = exact.numel() // (len(exact) * exact.shape[axis])
    log_q, log_p = rounded.double().log_softmax(axis), exact.double().log_softmax(axis)
    return log_p.exp() * (log_p - log_q) / positions


def _error(rounded: Tensor, exact: Tensor, layer: str) -> Tensor:
    return relative_error(rounded, exact)
