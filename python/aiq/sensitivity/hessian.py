"""Mean curvature times squared error, of a layer's weights and of its output: HAWQ-V2.

The harm is half the mean of the Hessian's diagonal times ``||Q(w) - w||^2`` (Dong et al. 2020,
arXiv 1911.03852, equation 8), plus the same of the layer's output with only activations rounded.
Hutchinson's estimator gives the trace of the Hessian: the mean of ``v' H v`` over random signs v.
"""

from dataclasses import replace

import torch
from torch import Tensor

from aiq.formats import FP32
from aiq.graph.export import Inputs
from aiq.sensitivity.context import EstimateContext, alone, writes, written
from aiq.sensitivity.likelihood import Graph

PROBES = 8
"""Draws of random signs for each batch; each takes about as long as eight runs of the network."""


def harm(context: EstimateContext) -> Tensor:
    """Return the estimated divergence in nats, (batches x probes, L, K)."""
    generator = torch.Generator().manual_seed(context.seed)
    curvature = torch.cat([_curvature(context, batch, generator) for batch in context.batches])
    activations = tuple(
        replace(f, name=f"{f.name} activations", weight=FP32) for f in context.formats
    )
    error = alone(replace(context, formats=activations), written, _squared).mean(0)
    return (
        curvature[:, 0, :, None] * _weight_errors(context) + curvature[:, 1, :, None] * error
    ) / 2


def _squared(rounded: Tensor, exact: Tensor, layer: str) -> Tensor:
    return (rounded - exact).double().square()


def _weight_errors(context: EstimateContext) -> Tensor:
    """Return the squared error of each layer's weights in each format, (L, K)."""
    simulator = context.simulator
    rows = []
    for layer in context.layers:
        exact = simulator.program.constants[simulator.operands[layer].weight]
        rounded = [
            simulator.weight(layer, f.weight, f.weight_granularity, f.activation)
            for f in context.formats
        ]
        rows.append([float((w - exact).double().square().sum()) for w in rounded])
    return torch.tensor(rows, dtype=torch.float64)


def _curvature(context: EstimateContext, batch: Inputs, generator: torch.Generator) -> Tensor:
    """Return the mean of the Hessian's diagonal for weights and outputs of layers, (probes, 2, L).

    For weights it is the Hessian of the mean loss over samples, for outputs of a sample's own loss.
    """
    simulator, count = context.simulator, context.samples(batch)
    nodes = [writes(simulator, name) for name in context.layers]
    graph = Graph(simulator, batch, nodes, context.layers, context.output_dim)
    loss = -graph.log_likelihood(context.classes, generator)
    groups = (
        [graph.weights[name] for name in context.layers],
        [graph.activations[node] for node in nodes],
    )
    draws = torch.zeros(PROBES, len(groups), len(nodes), dtype=torch.float64)
    for group, variables in enumerate(groups):  # separately, as mixed derivatives would be noise
        first = torch.autograd.grad(loss, variables, create_graph=True, materialize_grads=True)
        used = [i for i, gradient in enumerate(first) if gradient.requires_grad]
        for probe in range(PROBES):
            signs = [torch.randint(2, v.shape, generator=generator) * 2.0 - 1 for v in variables]
            products = torch.autograd.grad(
                [first[i] for i in used],
                variables,
                [signs[i] for i in used],
                retain_graph=True,
                materialize_grads=True,
            )
            for i, (product, sign) in enumerate(zip(products, signs, strict=True)):
                draws[probe, group, i] = (product * sign).double().sum() / product.numel()
    # The loss is a sum over samples. Outputs have elements for each sample, but weights have not.
    draws[:, 0] /= count
    return draws
