"""Edits of a graph without which Inductor compiles it wrongly or slowly."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from aiq.formats import Format
from aiq.graph.operators import argument, is_view
from aiq.graph.simplify import attribute, name_of
from aiq.runtimes.job import Job
from aiq.runtimes.narrow import CASTS, QUANTIZE
from aiq.runtimes.pooling import windows

aten = torch.ops.aten

_PADDED: dict[Any, Any] = {
    aten.conv1d.padding: aten.conv1d.default,
    aten.conv2d.padding: aten.conv2d.default,
}

_DEQUANTIZE = {
    torch.ops.quantized_decomposed.dequantize_per_tensor.default,
    torch.ops.quantized_decomposed.dequantize_per_channel.default,
}


def edit_graph(job: Job) -> None:
    """Edit the graph of a job so that Inductor computes it correctly, and in its formats."""
    module, graph = job.rewritten.module, job.rewritten.module.graph
    formats = {node: job.formats[layer] for node, layer in job.rewritten.heads.items()}
    heads = [node for node in graph.nodes if node.name in formats]
    linears = [node for node in heads if name_of(node) == "linear"]
    permuted = [x for x in (argument(linear, "input") for linear in linears) if _is_quantized(x)]
    pools = [
        node
        for node in graph.nodes
        if name_of(node).startswith("max_pool2d")
        and argument(node, "ceil_mode", False)
        and _is_quantized(argument(node, "self"))
    ]
    if permuted or pools:
        FakeTensorProp(module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*job.inputs)
    _copy_permuted(graph, permuted)
    for pool in pools:
        _pad_pool(graph, pool)
    for head in heads:
        if head.target in _PADDED:
            _pad_codes(module, head)
        if head.target is aten.conv1d.default:
            _to_image(module, head)
    _subtract_summands(graph)
    _mark_float_readers(graph, formats)
    module.recompile()


def _is_quantized(node: fx.Node) -> bool:
    """Whether a node dequantises integers."""
    source = node.args[0] if node.args else None
    return isinstance(source, fx.Node) and source.target is QUANTIZE


def _copy_permuted(graph: fx.Graph, sources: Sequence[fx.Node]) -> None:
    """Copy permuted integers into contiguous order before the linear layers that read them.

    A linear layer on a permuted tensor becomes a batched product, for which Inductor has no integer
    kernel: it would multiply in float32 and dequantise the weights in every run.
    """
    for source in sources:
        if not source.meta["val"].is_contiguous():
            (integers,) = source.all_input_nodes[:1]
            with graph.inserting_before(source):
                ordered = graph.call_function(
                    torch.ops.aten.clone.default,
                    (integers,),
                    {"memory_format": torch.contiguous_format},
                )
            source.replace_input_with(integers, ordered)


def _subtract_summands(graph: fx.Graph) -> None:
    """Write the sum with an input or a constant of the network as a difference.

    Inductor may let the kernel of a layer add its result to the other summand in place (PyTorch
    2.15), even if that is an input of the caller, or a constant, which then changes in every run.
    There is no such kernel for differences.
    """
    for node in list(graph.nodes):
        if name_of(node) != "add" or len(node.all_input_nodes) != 2 or node.kwargs:
            continue
        kept = [x for x in node.all_input_nodes if _source(x).op in {"placeholder", "get_attr"}]
        if len(kept) == 1 and kept[0] in node.args:
            (other,) = (x for x in node.args if x is not kept[0])
            with graph.inserting_before(node):
                negative = graph.call_function(aten.neg.default, (kept[0],))
            node.target, node.args = aten.sub.Tensor, (other, negative)


def _source(node: fx.Node) -> fx.Node:
    """Return the node of which `node` is a view."""
    while is_view(node) or node.target in CASTS:
        node = node.all_input_nodes[0]
    return node


def _pad_pool(graph: fx.Graph, pool: fx.Node) -> None:
    """Pad the input of a maximum pooling so that all of its windows are full.

    Inductor's pooling of integers has no ``ceil_mode``: it omits the last windows, or leaves their
    results unwritten. With the padding it pools floats.
    """
    found = windows(pool)
    source = argument(pool, "self")
    widths = [width for along in reversed(found) for width in (0, along.beyond)]
    with graph.inserting_before(pool):
        padded = graph.call_function(aten.constant_pad_nd.default, (source, widths, -torch.inf))
    options = [[*values] for values in zip(*(along[1:5] for along in found), strict=True)]
    pool.args, pool.kwargs = (padded, *options), {}


def _pad_codes(module: fx.GraphModule, head: fx.Node) -> None:
    """Pad the integers that a convolution reads, by as many zeros as ``padding='same'`` needs.

    If one side needs more than the other, PyTorch pads the dequantised values, and so hides the
    integers from its kernel.
    """
    source, weight = (_dequantize(argument(head, name)) for name in ("input", "weight"))
    if source is None or weight is None:
        return
    codes = attribute(module, str(weight.all_input_nodes[0].target))
    ones = [1] * (codes.dim() - 2)
    dilation = argument(head, "dilation", ones)
    totals = [d * (k - 1) for d, k in zip(dilation, codes.shape[2:], strict=True)]
    widths = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    integers, zero_point = source.all_input_nodes[0], source.args[2]
    with module.graph.inserting_before(source):
        padded = module.graph.call_function(
            aten.constant_pad_nd.default, (integers, widths, zero_point)
        )
    source.replace_input_with(integers, padded)
    operands = (argument(head, name) for name in ("input", "weight", "bias"))
    options = (argument(head, "stride", ones), [0] * len(ones), dilation)
    head.args, head.kwargs = (*operands, *options, argument(head, "groups", 1)), {}
    head.target = _PADDED[head.target]


def _to_image(module: fx.GraphModule, head: fx.Node) -> None:
    """Replace an integer convolution of sequences by one of images of one row.

    PyTorch's shapes of the former are wrong (`meta_qconv_pointwise` in PyTorch 2.15): it takes the
    length of the kernel for 1. The image lasts until its values are rounded, so that Inductor fuses
    the same operators as in a network of images.
    """
    source, weight = (_dequantize(argument(head, name)) for name in ("input", "weight"))
    if source is None or weight is None:
        return
    graph = module.graph
    integers, codes = source.all_input_nodes[0], weight.all_input_nodes[0]
    with graph.inserting_before(source):
        image = graph.call_function(aten.unsqueeze.default, (integers, 2))
    source.replace_input_with(integers, image)
    name = f"{head.name}_image"
    module.register_buffer(name, attribute(module, str(codes.target)).unsqueeze(2))
    with graph.inserting_before(weight):
        weight.replace_input_with(codes, graph.get_attr(name))
    operands = (argument(head, name) for name in ("input", "weight", "bias"))
    stride, padding, dilation = (
        [other, *argument(head, name, [other])]
        for name, other in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    options = (stride, padding, dilation, argument(head, "groups", 1))
    head.target, head.args, head.kwargs = aten.conv2d.default, (*operands, *options), {}
    end = head
    while len(end.users) == 1 and _keeps_dimensions(user := next(iter(end.users))):
        end = user
    with graph.inserting_after(end):
        sequence = graph.call_function(aten.squeeze.dim, (end, 2))
    end.replace_all_uses_with(sequence, delete_user_cb=lambda user: user is not sequence)


def _dequantize(node: fx.Node) -> fx.Node | None:
    """Return the node that dequantises an operand of a layer, or ``None`` if it is not rounded."""
    while node.target in CASTS:
        node = node.all_input_nodes[0]
    return node if node.target in _DEQUANTIZE else None


def _keeps_dimensions(node: fx.Node) -> bool:
    """Whether an operator treats all elements of its only operand alike."""
    is_alike = (
        node.target is QUANTIZE
        or name_of(node) == "hardswish"  # PyTorch does not call it pointwise
        or torch.Tag.pointwise in getattr(node.target, "tags", ())
    )
    return is_alike and len(node.all_input_nodes) == 1


def _mark_float_readers(graph: fx.Graph, formats: Mapping[str, Format]) -> None:
    """Distinguish the dequantize nodes of integer kernels from those of other operators.

    A dequantize node that names its dtype matches no integer kernel, and Inductor merges it only
    with others that name it. This has two uses. A weight-only layer that reads the rounded result
    of another layer is multiplied in float32, as it is priced, and not in integers. And Inductor
    gives equal nodes back to their layers after it has merged them, but not if several linear
    layers share one with another operator: it would multiply these layers in float32.

    Parameters
    ----------
    graph
        The graph, which is edited in place.
    formats
        Name of a layer's node -> format.
    """
    for node in graph.nodes:
        fmt = formats.get(node.name)
        if fmt is not None and not fmt.quantizes_activations:
            _mark(_source(argument(node, "input")))
        if node.target is QUANTIZE:
            layers = {
                reader: _layer(reader) for reader in node.users if reader.target in _DEQUANTIZE
            }
            if sum(name_of(layer) == "linear" for layer in layers.values()) > 1:
                for reader, layer in layers.items():
                    if layer.name not in formats:
                        _mark(reader)


def _mark(node: fx.Node) -> None:
    """Let a dequantize node name the dtype of its result."""
    if node.target in _DEQUANTIZE:
        node.kwargs = {**node.kwargs, "out_dtype": torch.float32}


def _layer(dequantize: fx.Node) -> fx.Node:
    """Return the operator that reads a dequantised tensor, perhaps through casts."""
    (reader,) = dequantize.users
    while reader.target in CASTS:
        (reader,) = reader.users
    return reader
