"""Divergence of a decoder that the weights of one matrix cause, estimated for each token.

An error dW of a weight changes what the layer writes for a token by dW x. If g is the derivative of
the log-likelihood by it, half the mean of (g . dW x)^2 is the divergence to second order. All
formats of all layers share one forward pass and a few backward ones; each then takes a product of
matrices.
"""

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from aiq.graph import Op
from aiq.graph.export import Inputs
from aiq.quantize.simulate import BLOCK, round_blocks
from aiq.sensitivity.context import EstimateContext
from aiq.sensitivity.likelihood import Graph

TOKENS = 1024
"""Number of tokens that an estimate uses."""

DRAWS = 2
"""Number of draws of targets, each of which takes a backward pass."""


def fits(context: EstimateContext) -> bool:
    """Whether the network reads tokens, and formats round the weights of linear layers only."""
    leaves = [x for x in pytree.tree_leaves(context.batches[0]) if isinstance(x, Tensor)]
    return (
        context.classes
        and bool(leaves)
        and leaves[0].ndim == 2
        and not leaves[0].is_floating_point()
        and all(layer.op is Op.LINEAR for layer in context.simulator.layers)
        and not any(fmt.quantizes_activations for fmt in context.formats)
    )


def harm(context: EstimateContext) -> Tensor:
    """Return the estimated divergence in nats, (S, L, K)."""
    generator = torch.Generator().manual_seed(context.seed)
    found, tokens = [], 0
    for batch in context.batches:
        if tokens >= TOKENS:
            break
        read, gradients = _differentiated(context, batch, generator)
        count = context.samples(batch)
        tokens += len(next(iter(read.values()))) if read else 0
        found.append(_harm(context, read, gradients, count))
    return torch.cat(found)


def _differentiated(
    context: EstimateContext, batch: Inputs, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
    """Return what each layer reads and the derivatives by what it writes, (tokens, numbers).

    Derivatives are scaled so that sums over tokens of their squares are means.
    """
    simulator = context.simulator
    writers = {layer.name: layer.nodes[0] for layer in simulator.layers}
    readers = {name: simulator.operands[name].input for name in writers}
    nodes = {*writers.values(), *readers.values()}
    graph = Graph(simulator, batch, nodes, output_dim=context.output_dim)
    heads = [graph.activations[node] for node in writers.values()]
    gradients: dict[str, list[Tensor]] = {name: [] for name in writers}
    for draw in range(DRAWS):
        likelihood = graph.log_likelihood(context.classes, generator)
        keep = draw < DRAWS - 1
        for name, gradient in zip(
            writers, torch.autograd.grad(likelihood, heads, retain_graph=keep), strict=True
        ):
            gradients[name].append(gradient.flatten(0, -2))
    read = {name: graph.activations[node].detach() for name, node in readers.items()}
    return {name: x.flatten(0, -2) for name, x in read.items()}, gradients


@torch.inference_mode()
def _harm(
    context: EstimateContext,
    read: dict[str, Tensor],
    gradients: dict[str, list[Tensor]],
    samples: int,
) -> Tensor:
    simulator = context.simulator
    scores = torch.zeros(samples, len(context.layers), len(context.formats), dtype=torch.float64)
    for i, name in enumerate(context.layers):
        exact = simulator.program.constants[simulator.operands[name].weight]
        x = read[name]
        # llama.cpp rounds what a layer reads, which is as much of an error as weights of 8 bits.
        moved = round_blocks(x) - x if simulator.gguf else None
        for k, fmt in enumerate(context.formats):
            if not fmt.quantizes_weights:
                context.step()
                continue
            rounded = simulator.weight(name, fmt.weight, fmt.weight_granularity)
            error = torch.nn.functional.linear(x, rounded - exact)
            if moved is not None and fmt.weight_granularity.group == BLOCK:
                error += torch.nn.functional.linear(moved, rounded)
            squares = torch.stack([(error * g).sum(-1).square() for g in gradients[name]])
            scores[:, i, k] = squares.mean(0).double().reshape(samples, -1).sum(1) / 2
            context.step()
            simulator.forget(name)  # an output layer alone may be a fifth of the model
    return scores
