"""Divergence of a decoder that the weights of one matrix cause, estimated for each token.

An error dW of a weight changes what the layer writes for a token by dW x. If g is the derivative of
the log-likelihood by it, half the mean of (g . dW x)^2 is the divergence to second order. All
formats of all layers share one forward pass and a few backward ones. Each format of a layer then
takes one product of matrices.
"""

from collections.abc import Sequence
from functools import cache, partial

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from aiq import machine
from aiq.graph import Op
from aiq.graph.export import Inputs
from aiq.quantize.simulate import BLOCK, round_blocks
from aiq.sensitivity.context import EstimateContext
from aiq.sensitivity.likelihood import Graph

TOKENS = 1024
"""Number of tokens that an estimate uses."""

DRAWS = 2
"""Number of draws of targets, each of which takes a backward pass."""

PART = 2**20
"""Number of elements of a weight that are multiplied at once."""

BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})
"""Instruction sets with which products in bfloat16 are faster than in float32."""


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
    for name in context.layers:  # weights of plans that were measured are rounded again if needed
        context.simulator.forget(name)
    found, tokens = [], 0
    for batch in context.batches:
        if tokens >= TOKENS:
            break
        found.append(_of_batch(context, batch, generator))
        tokens += next(x for x in pytree.tree_leaves(batch) if isinstance(x, Tensor)).numel()
    return torch.cat(found)


def _of_batch(context: EstimateContext, batch: Inputs, generator: torch.Generator) -> Tensor:
    """Return the harm on one batch.

    Derivatives are scaled so that sums over tokens of their squares are means. Those of a layer are
    used and freed as soon as the last backward pass has computed them, because all of them together
    take more memory than the activations.
    """
    simulator = context.simulator
    readers = {x.name: simulator.operands[x.name].input for x in simulator.layers}
    writers = {x.name: x.nodes[0] for x in simulator.layers}
    nodes = {*writers.values(), *readers.values()}
    graph = Graph(simulator, batch, nodes, output_dim=context.output_dim)
    shape = context.samples(batch), len(context.layers), len(context.formats)
    scores = torch.zeros(shape, dtype=torch.float64)
    gradients: dict[str, list[Tensor]] = {name: [] for name in writers}

    def arrived(name: str, gradient: Tensor) -> None:
        gradients[name].append(gradient.detach().flatten(0, -2))
        if len(gradients[name]) == DRAWS:
            read = graph.activations[readers[name]].detach().flatten(0, -2)
            harm = _of_layer(context, name, read, gradients.pop(name))
            scores[:, context.layers.index(name)] = harm.view(shape[0], -1, shape[2]).sum(1)

    hooks = [
        graph.activations[node].register_hook(partial(arrived, name))  # type: ignore[no-untyped-call]
        for name, node in writers.items()
    ]
    leaves = [x for x in graph.activations.values() if x.is_leaf and x.requires_grad]
    for draw in range(DRAWS):
        likelihood = graph.log_likelihood(context.classes, generator)
        keep = draw < DRAWS - 1
        torch.autograd.grad(likelihood, leaves, retain_graph=keep, allow_unused=True)
    for hook in hooks:  # or the graph would refer to itself and stay in memory
        hook.remove()
    return scores


@torch.inference_mode()
def _of_layer(
    context: EstimateContext, name: str, read: Tensor, gradients: Sequence[Tensor]
) -> Tensor:
    """Return the harm of one layer in each format, for each of T tokens: float64, (T, K).

    llama.cpp rounds what a layer reads, which is as much of an error as weights of 8 bits. If it
    reads x + dx, it writes ``(W + dW)(x + dx) = W x + dW (x + dx) + W dx``. The last term is the
    same in all formats.
    """
    simulator = context.simulator
    exact = simulator.program.constants[simulator.operands[name].weight]
    rounded = round_blocks(read) if simulator.gguf else read
    moved = _projected(rounded - read, exact, None, gradients) if simulator.gguf else 0.0
    found = torch.zeros(len(read), len(context.formats), dtype=torch.float64)
    for k, fmt in enumerate(context.formats):
        if fmt.quantizes_weights:
            weight = simulator.weight(name, fmt.weight, fmt.weight_granularity)
            blocks = simulator.gguf and fmt.weight_granularity.group == BLOCK
            total = _projected(rounded if blocks else read, weight, exact, gradients)
            found[:, k] = (total + moved if blocks else total).square().mean(0) / 2
            simulator.forget(name)  # an output layer alone may be a fifth of the model
        context.step()
    return found


def _projected(
    x: Tensor, weight: Tensor, less: Tensor | None, gradients: Sequence[Tensor]
) -> Tensor:
    """Return the products of ``(weight - less) x`` and each of D derivatives: (D, T).

    Rows of the weight are taken in parts, so that no large product is kept. Products are bfloat16
    where the processor has instructions for it. Their relative errors, 2^-9, are independent, and
    the sums are means of hundreds of them.
    """
    total = torch.zeros(len(gradients), len(x))
    size, dtype = max(1, PART // weight.shape[1]), _dtype()
    read = x.to(dtype)
    for start in range(0, len(weight), size):
        rows = slice(start, start + size)
        part = weight[rows] if less is None else weight[rows] - less[rows]
        product = torch.nn.functional.linear(read, part.to(dtype))
        for draw, gradient in enumerate(gradients):
            total[draw] += (product * gradient[:, rows]).sum(-1)
    return total


@cache
def _dtype() -> torch.dtype:
    """Return the dtype of products of errors, which need few digits."""
    is_fast = BFLOAT16 & {*machine.isa()} and not machine.limits()
    return torch.bfloat16 if is_fast else torch.float32
