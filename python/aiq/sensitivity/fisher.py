"""Squared error of a layer's output, weighted by the Fisher information of each element.

Half the Fisher information times the squared error is the divergence that the error causes, to
second order and if the errors of elements are independent. It is the ``gradient`` score of NVIDIA
ModelOpt.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from aiq.graph import Op
from aiq.graph.export import Inputs
from aiq.sensitivity import tokens
from aiq.sensitivity.context import EstimateContext, alone, writes, written
from aiq.sensitivity.likelihood import Graph


def harm(context: EstimateContext) -> Tensor:
    """Return the estimated divergence in nats, (S, L, K); each batch takes one backward pass.

    Layers of a decoder are estimated by token; see `aiq.sensitivity.tokens`.
    """
    if tokens.fits(context):
        return tokens.harm(context)
    return _weighted_errors(context, lambda error, layer: None)


def harm_by_channel(context: EstimateContext) -> dict[str, Tensor]:
    """Return layer -> the estimated divergence in nats of each output channel, float64, (C, K).

    It is the mean over samples. The sum over channels is the mean of `harm`, as errors of elements
    are taken to be independent. The C channels are the second dimension of what a convolution
    writes, and the last one of what a linear layer writes. If they are not, the layer is one row.
    """
    channels = {x.name: x.output_channels for x in context.simulator.layers}
    axes = {x.name: -1 if x.op is Op.LINEAR else 1 for x in context.simulator.layers}
    found: dict[str, list[Tensor]] = {layer: [] for layer in context.layers}

    def collect(error: Tensor, layer: str) -> None:
        each, axis = error.double(), axes[layer]
        is_found = each.ndim > 1 and each.shape[axis] == channels[layer]
        found[layer].append(
            each.movedim(axis, 0).flatten(1).sum(1) if is_found else each.sum()[None]
        )

    samples = len(_weighted_errors(context, collect))
    shape = len(context.batches), len(context.formats), -1
    return {  # for each batch, the formats come one after the other
        layer: torch.stack(sums).view(shape).sum(0).T / samples for layer, sums in found.items()
    }


def _weighted_errors(context: EstimateContext, seen: Callable[[Tensor, str], None]) -> Tensor:
    """Return the harm, (S, L, K); `seen` is called with that of each element, and the layer."""
    simulator = context.simulator
    generator = torch.Generator().manual_seed(context.seed)
    node_of = {name: writes(simulator, name) for name in context.layers}
    gradients: dict[str, Tensor] = {}

    def differentiate(batch: Inputs) -> None:
        graph = Graph(simulator, batch, node_of.values(), output_dim=context.output_dim)
        found = torch.autograd.grad(
            graph.log_likelihood(context.classes, generator),
            list(graph.activations.values()),
            allow_unused=True,
            materialize_grads=True,
        )
        gradients.update(zip(graph.activations, found, strict=True))

    def judge(rounded: Tensor, exact: Tensor, layer: str) -> Tensor:
        error = ((rounded - exact) * gradients[node_of[layer]]).square() / 2
        seen(error, layer)
        return error

    return alone(context, written, judge, differentiate)
