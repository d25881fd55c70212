"""Batch-norm folding: multiply a batch norm into the weights and the bias of the layer before it.

``gamma (W x + b - mean) / sqrt(var + eps) + beta = (g W) x + (g (b - mean) + beta)`` with
``g = gamma / sqrt(var + eps)`` (Jacob et al. 2018, section 3.2). Inference engines store the folded
weights, so these are the weights to quantise.
"""

import copy
from dataclasses import replace

from torch import Tensor, fx

from aiq.errors import InputError
from aiq.graph import Layer, Trace
from aiq.graph.operators import argument
from aiq.graph.simplify import attribute, name_of

_OPERANDS = ("input", "weight", "bias")
"""The first arguments of every convolution and of ``linear``."""


def fold(trace: Trace) -> Trace:
    """Return a trace that computes the same function without the batch norms that follow weights.

    Parameters
    ----------
    trace
        The trace, which is not changed. The result shares the parameters that folding keeps.

    Returns
    -------
    Trace
        The folded trace. Its layers no longer cover the batch norms, but their FLOPs and sizes are
        still those of the model. Outputs agree to float32 rounding, about 1e-5 of the largest.

    Raises
    ------
    InputError
        If the weights are on the ``meta`` device.
    """
    if any(value.is_meta for value in trace.module.state_dict().values()):
        raise InputError(
            "The weights are on the meta device, which holds no values; load them, or search with "
            "a sensitivity that needs none: a function or a DropTable."
        )
    module = fx.GraphModule(trace.module, copy.deepcopy(trace.module.graph))
    nodes = {node.name: node for node in module.graph.nodes}
    layers = tuple(_fold_layer(layer, nodes, module) for layer in trace.graph.layers)
    module.graph.eliminate_dead_code()
    module = fx.GraphModule(module, module.graph)  # keeps only what the graph reads
    return replace(trace, module=module, graph=replace(trace.graph, layers=layers))


def _fold_layer(layer: Layer, nodes: dict[str, fx.Node], module: fx.GraphModule) -> Layer:
    if not layer.quantizable or len(layer.nodes) < 2:
        return layer
    head, norm = nodes[layer.nodes[0]], nodes[layer.nodes[1]]
    if name_of(norm) != "batch_norm" or set(head.users) != {norm}:
        return layer
    mean, var = constant(norm, "running_mean", module), constant(norm, "running_var", module)
    if mean is None or var is None:  # it uses the statistics of the batch, which are not constant
        return layer
    gamma, beta = constant(norm, "weight", module), constant(norm, "bias", module)
    gain = (var.double() + argument(norm, "eps")).rsqrt()
    gain = gain if gamma is None else gain * gamma.double()
    weight, bias = constant(head, "weight", module), constant(head, "bias", module)
    assert weight is not None, "a quantizable layer has a weight"
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    shift = shift * gain + (0 if beta is None else beta.double())
    set_operand(module, head, "weight", _scaled(weight, gain, head))
    set_operand(module, head, "bias", shift.to(weight.dtype))
    norm.replace_all_uses_with(head)
    module.graph.erase_node(norm)
    covered = tuple(name for name in layer.nodes if name != norm.name)
    return replace(layer, nodes=covered)


def _scaled(weight: Tensor, gain: Tensor, head: fx.Node) -> Tensor:
    """Return the weight with each output channel multiplied by its gain."""
    w = weight.double()
    if not output_axis(head):
        return (w * gain.view(-1, *[1] * (w.ndim - 1))).to(weight.dtype)
    groups = argument(head, "groups", 1)  # transposed: (inputs, outputs / groups, ...)
    grouped = w.view(groups, -1, *w.shape[1:]) * gain.view(groups, 1, -1, *[1] * (w.ndim - 2))
    return grouped.view(w.shape).to(weight.dtype)


def output_axis(head: fx.Node) -> int:
    """Return the dimension of the weight that holds the output channels."""
    transposed = "transpose" in name_of(head) or bool(argument(head, "transposed", False))
    return int(transposed)


def constant(node: fx.Node, name: str, module: fx.GraphModule) -> Tensor | None:
    """Return the parameter or buffer that is the argument `name` of `node`, or ``None``."""
    source = argument(node, name)
    if not isinstance(source, fx.Node):
        return None
    value: Tensor = attribute(module, str(source.target)).detach()
    return value


def set_operand(module: fx.GraphModule, head: fx.Node, name: str, value: Tensor) -> None:
    """Register `value` as a buffer and make it the ``weight`` or ``bias`` of `head`."""
    index = _OPERANDS.index(name)
    target = f"folded_{head.name}_{name}"
    module.register_buffer(target, value)
    with module.graph.inserting_before(head):
        node = module.graph.get_attr(target)
    kwargs = {key: item for key, item in head.kwargs.items() if key != name}
    args = [*head.args, *[None] * (index + 1 - len(head.args))]
    args[index] = node
    head.args, head.kwargs = tuple(args), kwargs
