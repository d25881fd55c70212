"""Cross-layer equalisation: give the channels of a weight equal ranges without changing the model.

If only one layer reads the output of another, channel i of the tensor between them can be divided
by a factor s_i. The writer's weights and bias and the bounds of a clamp such as ReLU6 are divided
by s_i, and the reader's weights are multiplied by it. With ``s_i = sqrt(r_i / t_i)``, where r_i and
t_i are the largest weights with which the channel is written and read, both become
``sqrt(r_i t_i)``. One scale then fits all channels of a tensor.

Source: Nagel et al. 2019 (arXiv 1906.04721), section 4.1. The paper replaces ReLU6 by ReLU, which
changes the function; here each channel gets its own bound instead.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, fx

from aiq.graph import Layer, Trace
from aiq.graph.operators import argument, bounds
from aiq.graph.simplify import name_of
from aiq.quantize.fold import constant, output_axis, set_operand

SWEEPS = 100
"""Largest number of passes over all pairs; a chain of pairs converges in a few tens."""

CONVERGED = 1e-4
"""Largest relative change of a channel in the last pass."""

_HOMOGENEOUS = {"relu", "leaky_relu"}
_CLAMPS = {"hardtanh", "relu6"}


class _Pair(NamedTuple):
    writer: fx.Node
    reader: fx.Node
    clamps: tuple[fx.Node, ...]


def equalize(trace: Trace) -> Trace:
    """Return a trace that computes the same function with equalised weights.

    This helps if all channels of a weight share one scale. With a scale per channel, it gains
    nothing for the weights of the writer.

    Parameters
    ----------
    trace
        Folded trace, see `aiq.quantize.fold.fold`; it is not changed.

    Returns
    -------
    Trace
        The equalised trace, which can be evaluated and compiled like any other. Its outputs agree
        to float32 rounding, about 1e-5 of the largest. Layers that shared a weight no longer do.
    """
    module = fx.GraphModule(trace.module, copy.deepcopy(trace.module.graph))
    nodes = {node.name: node for node in module.graph.nodes}
    pairs = list(_pairs(trace, nodes))
    heads = {head for pair in pairs for head in (pair.writer, pair.reader)}
    weights = {head: _double(head, "weight", module) for head in heads}
    biases = {
        head: _double(head, "bias", module)
        for head in heads
        if constant(head, "bias", module) is not None
    }
    gains = [torch.ones(len(weights[pair.writer]), dtype=torch.float64) for pair in pairs]
    for _ in range(SWEEPS):
        change = 0.0
        for index, pair in enumerate(pairs):
            written = weights[pair.writer].flatten(1).abs().amax(1)
            read = _by_input(weights[pair.reader], pair.reader).abs().amax((1, 3)).flatten()
            step = torch.where((written > 0) & (read > 0), (written / read).sqrt(), 1.0)
            weights[pair.writer] /= _shaped(step, weights[pair.writer])
            if pair.writer in biases:
                biases[pair.writer] /= step
            view = _by_input(weights[pair.reader], pair.reader)
            view *= step.view(len(view), 1, -1, 1)
            gains[index] *= step
            change = max(change, float(step.log().abs().max()))
        if change < CONVERGED:
            break
    for head in heads:
        set_operand(module, head, "weight", weights[head].float())
        if head in biases:
            set_operand(module, head, "bias", biases[head].float())
    for pair, gain in zip(pairs, gains, strict=True):
        for node in pair.clamps:
            _clamp_channels(module, node, _shaped(gain, weights[pair.writer]))
    module.graph.eliminate_dead_code()
    return replace(trace, module=fx.GraphModule(module, module.graph))


def _pairs(trace: Trace, nodes: dict[str, fx.Node]) -> Iterator[_Pair]:
    """Yield pairs of layers where only the reader reads the writer's output, channel by channel."""
    readers = {nodes[layer.nodes[0]]: layer for layer in trace.graph.quantizable}
    for layer in trace.graph.quantizable:
        writer, tail = nodes[layer.nodes[0]], nodes[layer.nodes[-1]]
        users = list(tail.users)
        if layer.is_output or len(users) != 1 or users[0] not in readers:
            continue
        (reader,) = users
        fused = [nodes[name] for name in layer.nodes[1:]]
        alike = _spatial(layer) == _spatial(readers[reader])
        if (
            alike
            and argument(reader, "input") is tail
            and not (output_axis(writer) or output_axis(reader))
            and all(name_of(node) in _HOMOGENEOUS | _CLAMPS for node in fused)
        ):
            yield _Pair(writer, reader, tuple(n for n in fused if name_of(n) in _CLAMPS))


def _spatial(layer: Layer) -> int:
    return len(layer.weight_shape or ()) - 2


def _double(head: fx.Node, name: str, module: fx.GraphModule) -> Tensor:
    value = constant(head, name, module)
    assert value is not None, "the caller has checked that the operand exists"
    return value.double().clone(memory_format=torch.contiguous_format)


def _by_input(weight: Tensor, head: fx.Node) -> Tensor:
    """Return a view of `weight`: (groups, outputs of a group, inputs of a group, taps)."""
    groups = int(argument(head, "groups", 1))
    return weight.view(groups, len(weight) // groups, weight.shape[1], -1)


def _shaped(values: Tensor, weight: Tensor) -> Tensor:
    """Return one value per output channel in a shape that broadcasts over `weight`."""
    return values.view(-1, *[1] * (weight.ndim - 1))


def _clamp_channels(module: fx.GraphModule, node: fx.Node, gain: Tensor) -> None:
    """Turn `node` into a clamp with bounds for each channel; the node keeps its name."""
    limits = bounds(node)
    assert limits is not None, "the operator was chosen because it is a clamp"
    source = argument(node, "input", node.args[0])
    with module.graph.inserting_before(node):
        operands = []
        for key, bound in zip(("low", "high"), limits, strict=True):
            target = f"equalized_{node.name}_{key}"
            module.register_buffer(target, (bound / gain).squeeze(-1).float())
            operands.append(module.graph.get_attr(target))
    node.target, node.args, node.kwargs = torch.ops.aten.clamp.Tensor, (source, *operands), {}
