"""Mean curvature of a layer's weights and of what it writes, times their squared errors: HAWQ-V2.

Half the mean of the Hessian's diagonal times ``||Q(w) - w||^2`` (Dong et al. 2020, arXiv
1911.03852, equation 8), and the same of the tensor that the layer writes, with activations rounded
alone. The diagonal is summed by Hutchinson's estimator: the mean of ``v' H v`` over random signs v.
"""

from dataclasses import replace

import torch
from torch import Tensor

from aiq.formats import FP32
from aiq.graph.export import Inputs
from aiq.sensitivity.context import EstimateContext, alone, writes, written
from aiq.sensitivity.likelihood import Graph

PROBES = 8
"""Random signs for each batch; each takes about as long as eight runs of the network."""


def harm(setting: EstimateContext) -> Tensor:
    """Return nats, (batches x probes, L, K)."""
    generator = torch.Generator().manual_seed(setting.seed)
    curvature = torch.cat([_curvature(setting, batch, generator) for batch in setting.batches])
    activations = tuple(
        replace(f, name=f"{f.name} activations", weight=FP32) for f in setting.formats
    )
    error = alone(replace(setting, formats=activations), written, _squared).mean(0)
    return (
        curvature[:, 0, :, None] * _weight_errors(setting) + curvature[:, 1, :, None] * error
    ) / 2


def _squared(rounded: Tensor, exact: Tensor, layer: str) -> Tensor:
    return (rounded - exact).double().square()


def _weight_errors(setting: EstimateContext) -> Tensor:
    """Return the squared error of each layer's weights in each format, (L, K)."""
    simulator = setting.simulator
    rows = []
    for layer in setting.layers:
        exact = simulator.program.constants[simulator.operands[layer].weight]
        rounded = [
            simulator.weight(layer, f.weight, f.weight_granularity, f.activation)
            for f in setting.formats
        ]
        rows.append([float((w - exact).double().square().sum()) for w in rounded])
    return torch.tensor(rows, dtype=torch.float64)


def _curvature(setting: EstimateContext, batch: Inputs, generator: torch.Generator) -> Tensor:
    """Return the mean of the Hessian's diagonal, (probes, 2, L): of weights, of what is written.

    Of the mean loss of a sample for weights; of a sample's own loss for what it writes.
    """
    simulator, count = setting.simulator, setting.samples(batch)
    nodes = [writes(simulator, name) for name in setting.layers]
    graph = Graph(simulator, batch, nodes, setting.layers, setting.output_dim)
    loss = -graph.log_likelihood(setting.classes, generator)
    groups = (
        [graph.weights[name] for name in setting.layers],
        [graph.activations[node] for node in nodes],
    )
    draws = torch.zeros(PROBES, len(groups), len(nodes), dtype=torch.float64)
    for group, variables in enumerate(groups):  # apart: what they share would be noise
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
    # The loss is summed over samples; what is written has elements for each of them, weights not.
    draws[:, 0] /= count
    return draws
