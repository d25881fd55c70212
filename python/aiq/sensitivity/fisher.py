"""Squared error of a layer's output, weighted by the Fisher information of each element.

Half the Fisher information times the squared error is the divergence that the error causes, to
second order and if the errors of elements are independent. It is the ``gradient`` score of NVIDIA
ModelOpt.
"""

import torch
from torch import Tensor

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
        return ((rounded - exact) * gradients[node_of[layer]]).square() / 2

    return alone(context, written, judge, differentiate)
