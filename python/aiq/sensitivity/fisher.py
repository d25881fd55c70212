"""Squared error of what a layer writes, weighted by the Fisher information of each element.

Half the Fisher information times the squared error is the divergence that the error causes, to
second order and as if errors of elements were independent. NVIDIA ModelOpt's ``gradient`` score.
"""

import torch
from torch import Tensor

from aiq.graph.export import Inputs
from aiq.sensitivity.context import EstimateContext, alone, writes, written
from aiq.sensitivity.likelihood import Graph


def harm(setting: EstimateContext) -> Tensor:
    """Return nats, (S, L, K), from one backward pass over each batch."""
    simulator = setting.simulator
    generator = torch.Generator().manual_seed(setting.seed)
    node_of = {name: writes(simulator, name) for name in setting.layers}
    gradients: dict[str, Tensor] = {}

    def differentiate(batch: Inputs) -> None:
        graph = Graph(simulator, batch, node_of.values(), output_dim=setting.output_dim)
        found = torch.autograd.grad(
            graph.log_likelihood(setting.classes, generator),
            list(graph.activations.values()),
            allow_unused=True,
            materialize_grads=True,
        )
        gradients.update(zip(graph.activations, found, strict=True))

    def judge(rounded: Tensor, exact: Tensor, layer: str) -> Tensor:
        return ((rounded - exact) * gradients[node_of[layer]]).square() / 2

    return alone(setting, written, judge, differentiate)
