"""Divergence of the network's softmax from that of the float32 network; it needs no labels."""

from torch import Tensor

from aiq.sensitivity.context import EstimateContext, alone, output, relative_error, usual_class_axis


def harm(context: EstimateContext) -> Tensor:
    """Return the divergence in nats, (S, L, K), as a mean over the positions of a sample.

    An output without classes has no softmax; then the harm is that of ``sqnr``.
    """
    return alone(context, output, _divergence if context.classes else _error)


def _divergence(rounded: Tensor, exact: Tensor, layer: str) -> Tensor:
    axis = usual_class_axis(exact)
    positions = exact.numel() // (len(exact) * exact.shape[axis])
    log_q, log_p = rounded.double().log_softmax(axis), exact.double().log_softmax(axis)
    return log_p.exp() * (log_p - log_q) / positions


def _error(rounded: Tensor, exact: Tensor, layer: str) -> Tensor:
    return relative_error(rounded, exact)
