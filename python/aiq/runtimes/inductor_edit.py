"""Edits of a graph without which Inductor compiles it wrongly or slowly."""

from collections.abc import Sequence

import torch
from torch import fx
from torch._subclasses import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from aiq.graph.operators import argument
from aiq.graph.simplify import name_of
from aiq.runtimes.narrow import QUANTIZE
from aiq.runtimes.pooling import windows
from aiq.runtimes.rewrite import Rewritten

aten = torch.ops.aten


def prepare(rewritten: Rewritten, inputs: tuple[torch.Tensor, ...]) -> None:
    """Edit a graph so that Inductor computes it correctly, and in integers."""
    module, graph = rewritten.module, rewritten.module.graph
    linears = [x for x in graph.nodes if x.name in rewritten.heads and name_of(x) == "linear"]
    permuted = [x for x in (argument(linear, "input") for linear in linears) if _is_quantized(x)]
    pools = [
        node
        for node in graph.nodes
        if name_of(node).startswith("max_pool2d")
        and argument(node, "ceil_mode", False)
        and _is_quantized(argument(node, "self"))
    ]
    if not permuted and not pools:
        return
    FakeTensorProp(module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*inputs)
    _copy_permuted(graph, permuted)
    for pool in pools:
        _pad_pool(graph, pool)
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
