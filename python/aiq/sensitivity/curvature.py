"""Divergence by derivatives: all formats of all layers from one or two backward passes.

If the output of a layer changes by d, the divergence of the network changes by ``g d + d H d / 2``
to second order. Here g is the derivative of the divergence, and H is the Gauss-Newton matrix: the
Fisher information of the softmax, seen through the network. At the float32 network g is 0 and the
harm of a format is ``d H d / 2``; NVIDIA ModelOpt's ``gradient`` score keeps the diagonal of H. At
a plan, g says which errors add up with those of the plan, and which cancel them.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from aiq.evaluate.metrics import main_output
from aiq.formats import Format
from aiq.graph.batch import samples_first
from aiq.graph.export import Inputs
from aiq.quantize.simulate import Formats
from aiq.sensitivity import tokens
from aiq.sensitivity.context import EstimateContext, writes, written
from aiq.sensitivity.likelihood import Graph


def harm(context: EstimateContext) -> Tensor:
    """Return the estimated divergence in nats, (S, L, K); each batch takes one backward pass.

    Layers of a decoder are estimated by token; see `aiq.sensitivity.tokens`.
    """
    if tokens.fits(context):
        return tokens.harm(context)
    _, curve = changes(context, {}, dict.fromkeys(context.layers, context.formats))
    return curve


def changes(
    context: EstimateContext, plan: Formats, candidates: Mapping[str, Sequence[Format]]
) -> tuple[Tensor, Tensor]:
    """Return how each layer alone, in each format, changes the divergence of a plan.

    Parameters
    ----------
    context
        The network, its inputs, the L layers and the K formats.
    plan
        Layer name -> format; layers that are not named are float32.
    candidates
        Layer name -> the formats to estimate; changes to other formats are returned as 0.

    Returns
    -------
    first, second
        The terms of first and second order in nats, for each sample: float64, (S, L, K).
    """
    generator = torch.Generator().manual_seed(context.seed)
    found = [_of_batch(context, batch, plan, candidates, generator) for batch in context.batches]
    first, second = zip(*found, strict=True)
    return torch.cat(first), torch.cat(second)


def _of_batch(
    context: EstimateContext,
    batch: Inputs,
    plan: Formats,
    candidates: Mapping[str, Sequence[Format]],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    simulator, count = context.simulator, context.samples(batch)
    node_of = {name: writes(simulator, name) for name in context.layers}
    graph, slopes, curves = _derivatives(context, batch, plan, [*node_of.values()], generator)
    first, second = torch.zeros(
        2, count, len(context.layers), len(context.formats), dtype=torch.float64
    )

    with torch.no_grad():
        state = simulator.start(batch)
        for layer in simulator.layers:
            name, node = layer.name, node_of[layer.name]
            i, now = context.layers.index(name), graph.activations[node].detach()
            state = simulator.advance(state, plan, simulator.start_of(name))
            for chosen in candidates[name]:
                k = context.formats.index(chosen)
                change = written(simulator, state, name, {**plan, name: chosen}) - now
                second[:, i, k] = _by_sample(change * curves[node], count).square() / 2
                if slopes:
                    first[:, i, k] = _by_sample(change * slopes[node], count)
                context.step()
    return first, second


def _by_sample(products: Tensor, count: int) -> Tensor:
    """Return the sum for each sample, float64; a tensor of all samples is divided equally."""
    if products.numel() % count:
        return products.double().sum().expand(count) / count
    if len(products) == count and products.ndim > 1:  # in any order of the memory, without a copy
        return products.sum(tuple(range(1, products.ndim))).double()
    return products.double().reshape(count, -1).sum(1)


def _derivatives(
    context: EstimateContext,
    batch: Inputs,
    plan: Formats,
    nodes: Sequence[str],
    generator: torch.Generator,
) -> tuple[Graph, dict[str, Tensor], dict[str, Tensor]]:
    """Return a run under a plan, and derivatives by the values of its nodes.

    They are those of the divergence, none of which exist if the plan is float32, and those of a
    random projection, whose squares are the second order.
    """
    simulator = context.simulator
    graph = Graph(simulator, batch, nodes, output_dim=context.output_dim, formats=plan)

    def by_node(value: Tensor, *, keep: bool) -> dict[str, Tensor]:
        found = torch.autograd.grad(
            value,
            [*graph.activations.values()],
            retain_graph=keep,
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(graph.activations, found, strict=True))

    slopes: dict[str, Tensor] = {}
    if plan:
        with torch.no_grad():
            output = main_output(simulator.run(batch, {}))
        exact = samples_first(output, context.output_dim)
        slopes = by_node(graph.divergence(exact, context.classes), keep=True)
    return graph, slopes, by_node(graph.projection(context.classes, generator), keep=False)
