"""Replace operators that some compilers lack by operators that all of them have."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch._subclasses import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from aiq.graph.composites import ATTENTION
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


_MEANS = {"avg_pool1d", "avg_pool2d", "avg_pool3d"}

_OPERANDS = ("query", "key", "value")
"""Operands of attention. Their dimensions are samples, heads, positions and features."""


def write_out(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> None:
    """Replace operators, or arguments of them, that some compilers lack.

    Paddings given as words become numbers, and circular padding becomes slices.

    Inductor's int8 convolutions do not support ``padding='valid'``, and OpenVINO has no circular
    padding. A ``padding='same'`` that is wider on one side is kept, as no number expresses it.
    OpenVINO counts pooling windows that would begin behind the image, and PyTorch does not: where
    ``ceil_mode`` changes nothing, it is switched off. Where it does, ONNX divides other sums by
    other counts than PyTorch, and ONNX has no ``divisor_override``; such means are written out.

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
        if "pool" in name_of(node)
        and (argument(node, "ceil_mode", False) or argument(node, "divisor_override"))
    ]
    attentions = [node for node in module.graph.nodes if name_of(node) == ATTENTION]
    if pools or attentions:
        FakeTensorProp(module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*inputs)
    for node in attentions:
        _attention(module.graph, node)
    for node in pools:
        is_idle = all(along.written == along.full for along in windows(node))
        if name_of(node) in _MEANS and not (is_idle and argument(node, "divisor_override") is None):
            _mean(module, node)
        elif is_idle:
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


def _attention(graph: fx.Graph, node: fx.Node) -> None:
    """Give the operands of attention four dimensions, and the same number of samples and heads."""
    values = [argument(node, name) for name in _OPERANDS]
    shapes = [(1,) * (4 - len(shape)) + shape for shape in map(_shape, values)]
    samples = np.broadcast_shapes(*(shape[:-3] for shape in shapes))
    heads = {shape[-3] for shape in shapes}
    shares = argument(node, "enable_gqa", False) and len(heads) > 1
    if not shares:
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "enable_gqa"}
    wholes = [(*samples, s[-3] if shares else max(heads), *s[-2:]) for s in shapes]
    if wholes == [_shape(value) for value in values] and len(samples) == 1:
        return
    operands, mask = dict(zip(values, wholes, strict=True)), argument(node, "attn_mask")
    if mask is not None and len(_shape(mask)) > 3:
        operands[mask] = (*samples, *_shape(mask)[-3:])
    with graph.inserting_before(node):
        for value, whole in operands.items():
            sizes = [math.prod(samples), *whole[-3:]]
            joined = value
            if math.prod(_shape(value)) != math.prod(whole):
                joined = graph.call_function(aten.expand.default, (value, list(whole)))
            joined = graph.call_function(aten.reshape.default, (joined, sizes))
            node.replace_input_with(value, joined)
    with graph.inserting_after(node):
        result = graph.call_function(aten.reshape.default, (node, list(_shape(node))))
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)
    result.meta["val"] = node.meta["val"]


def zero_empty_rows(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> None:
    """Write out that attention returns zeros for a query whose mask leaves no key to it.

    PyTorch does so. What ONNX exporters write in its place returns the mean of all values, or NaN
    if the mask holds minus infinity. Such queries are those of padding on the left, and of samples
    that are padding only.

    Parameters
    ----------
    module
        The graph, which is edited in place.
    inputs
        Example tensors of one call.
    """
    masks: dict[fx.Node, list[fx.Node]] = {}
    for node in module.graph.nodes:
        mask = argument(node, "attn_mask") if name_of(node) == ATTENTION else None
        if mask is not None and not (mask.op == "get_attr" and _has_keys(module, mask)):
            masks.setdefault(mask, []).append(node)
    if masks:
        FakeTensorProp(module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*inputs)
    for mask, attentions in masks.items():
        keys = mask
        if mask.meta["val"].dtype is not torch.bool:
            keys = _after(mask, aten.gt.Scalar, mask, -math.inf)
        has_key = _after(keys, aten.any.dim, keys, -1, True)
        for node in attentions:
            readers = list(node.users)
            zeroed = _after(node, aten.where.ScalarOther, has_key, node, 0.0)
            for reader in readers:
                reader.replace_input_with(node, zeroed)
    for node in module.graph.nodes if masks else ():
        if node.target is aten.view.default:  # of another memory order than attention writes
            node.target = aten.reshape.default
    module.recompile()


def _after(node: fx.Node, target: Any, *args: Any) -> fx.Node:  # noqa: ANN401 - of fx
    """Return the call of an operator, written behind `node`."""
    with node.graph.inserting_after(node):
        return node.graph.call_function(target, args)


def _has_keys(module: fx.GraphModule, constant: fx.Node) -> bool:
    """Whether a constant mask leaves a key to every query."""
    mask = attribute(module, str(constant.target))
    return bool((mask if mask.dtype is torch.bool else mask > -math.inf).any(-1).all())


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _mean(module: fx.GraphModule, node: fx.Node) -> None:
    """Replace a mean over windows by the mean over full windows of a padded image, times a factor.

    The factor of a window is the size of a full one over the number by which PyTorch divides.
    """
    found, graph = windows(node), module.graph
    counts_padding = argument(node, "count_include_pad", True)
    divisors = torch.ones(())
    for along in found:
        begins = torch.arange(along.written) * along.stride - along.padding
        ends = (begins + along.kernel).clamp(max=along.size + counts_padding * along.padding)
        divisors = divisors[..., None] * (
            ends - (begins if counts_padding else begins.clamp(min=0))
        )
    override = argument(node, "divisor_override")
    if override is not None:
        divisors = torch.full_like(divisors, override)
    name = f"{node.name}_factor"
    module.register_buffer(name, math.prod(along.kernel for along in found) / divisors)
    widths = [w for a in reversed(found) for w in (a.padding, a.padding + a.beyond)]
    kernel, stride = ([*values] for values in zip(*(a[1:3] for a in found), strict=True))
    with graph.inserting_before(node):
        source = argument(node, "self")
        if any(widths):
            source = graph.call_function(aten.constant_pad_nd.default, (source, widths, 0.0))
        mean = graph.call_function(getattr(aten, name_of(node)).default, (source, kernel, stride))
        result = graph.call_function(aten.mul.Tensor, (mean, graph.get_attr(name)))
    node.replace_all_uses_with(result)
    graph.erase_node(node)


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
