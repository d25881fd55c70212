"""Replace operators that some compilers lack by operators that all of them have."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from aiq.graph.operators import argument
from aiq.graph.simplify import attribute, name_of
from aiq.runtimes.pooling import windows

aten = torch.ops.aten

_SLICE = aten.slice.Tensor

_CONVOLUTIONS: dict[Any, Any] = {
    aten.conv1d.padding: aten.conv1d.default,
    aten.conv2d.padding: aten.conv2d.default,
    aten.conv3d.padding: aten.conv3d.default,
}


def write_out(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> None:
    """Replace paddings given as words by numbers, circular padding by slices, idle ceil modes.

    Inductor's int8 convolutions do not support ``padding='valid'``, and OpenVINO has no circular
    padding. A ``padding='same'`` that is wider on one side is kept, as no number expresses it.
    OpenVINO counts pooling windows that would begin behind the image, and PyTorch does not: where
    ``ceil_mode`` changes nothing, it is switched off.

    Parameters
    ----------
    module
        The graph, which is edited in place.
    inputs
        Example tensors of one call.
    """
    pools = [
        node
        for node in module.graph.nodes
        if "pool" in name_of(node) and argument(node, "ceil_mode", False)
    ]
    if pools:
        FakeTensorProp(module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*inputs)
    for node in pools:
        if all(along.written == along.full for along in windows(node)):
            names = [a.name for a in node.target._schema.arguments]
            node.args = tuple(
                False if name == "ceil_mode" else value
                for name, value in zip(names, node.args, strict=False)
            )
            node.kwargs = {k: v for k, v in node.kwargs.items() if k != "ceil_mode"}
    for node in list(module.graph.nodes):
        if node.target in _CONVOLUTIONS:
            _convolution(module, node)
        elif node.op == "call_function" and name_of(node) == "pad":
            _circular(module, node)
    module.graph.lint()
    module.recompile()


def _convolution(module: fx.GraphModule, node: fx.Node) -> None:
    """Replace the padding of a convolution by numbers."""
    kernel = _kernel(module, argument(node, "weight"))
    ones = [1] * len(kernel)
    stride, dilation = argument(node, "stride", ones), argument(node, "dilation", ones)
    is_same = argument(node, "padding", "valid") == "same"
    totals = [d * (k - 1) if is_same else 0 for d, k in zip(dilation, kernel, strict=True)]
    if any(total % 2 for total in totals):
        return
    operands = (argument(node, name) for name in ("input", "weight", "bias"))
    padding = [total // 2 for total in totals]
    options = (stride, padding, dilation, argument(node, "groups", 1))
    node.args, node.kwargs = (*operands, *options), {}
    node.target = _CONVOLUTIONS[node.target]


def _kernel(module: fx.GraphModule, weight: fx.Node) -> tuple[int, ...]:
    """Return the size of the filters, from the stored weights at the start of the expression."""
    while weight.op != "get_attr":
        weight = weight.all_input_nodes[0]
    return tuple(attribute(module, str(weight.target)).shape[2:])


def _circular(module: fx.GraphModule, node: fx.Node) -> None:
    """Replace circular padding by slices of the opposite sides."""
    source, widths = argument(node, "self"), list(argument(node, "pad"))
    if argument(node, "mode") != "circular" or min(widths) < 0:
        return
    graph = module.graph
    with graph.inserting_before(node):
        for index, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
            axis, parts = -1 - index, [source]
            if before:
                parts.insert(0, graph.call_function(_SLICE, (source, axis, -before, sys.maxsize)))
            if after:
                parts.append(graph.call_function(_SLICE, (source, axis, 0, after)))
            if len(parts) > 1:
                source = graph.call_function(aten.cat.default, (parts, axis))
    node.replace_all_uses_with(source)
    graph.erase_node(node)
