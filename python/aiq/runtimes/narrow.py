"""Casts to bfloat16 for layers, and for operators between layers, that compute in it."""

from collections.abc import Collection, Mapping

import torch
from torch import fx
from torch._subclasses import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils import _pytree as pytree

from aiq.formats import BF16, Format
from aiq.graph.operators import is_view
from aiq.graph.simplify import attribute, name_of

QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default

CASTS = {torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default}
"""Conversions of a dtype, whose result has a fixed one."""


def narrow(
    module: fx.GraphModule,
    heads: Mapping[str, Format],
    either: Collection[fx.Node],
    ends: Collection[fx.Node],
    example_inputs: tuple[torch.Tensor, ...],
) -> None:
    """Insert casts to bfloat16 before layers of that format, and before operators after them.

    A node without a format computes in bfloat16 if all of its operands except constants are
    bfloat16, and bfloat16 can hold its constants, so there are casts only where formats meet.

    Parameters
    ----------
    module
        Graph module, which is changed.
    heads
        Name of the node that multiplies by a layer's weights -> format of the layer.
    either
        Dequantize nodes whose value may be bfloat16 for a reader that computes in it.
    ends
        Nodes after which the value becomes bfloat16, whatever they compute in.
    example_inputs
        The tensors of one call.
    """
    if all(fmt.between != BF16 for fmt in heads.values()):
        return
    FakeTensorProp(module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*example_inputs)
    graph = module.graph
    narrowed: set[fx.Node] = set()
    free = set(either)
    for node in list(graph.nodes):
        operands = [n for n in node.all_input_nodes if _is_float32(n)]
        if not operands or node.op not in {"call_function", "output"} or node.target is QUANTIZE:
            continue
        values = [n for n in operands if n.op != "get_attr"]
        fmt = heads.get(node.name)
        if fmt is None and free.issuperset(values) and keeps_grid(node):
            free.add(node)  # without a cast, which would hide the integers from the next layer
            continue
        follows = bool(values) and all(n in narrowed or n in free for n in values)
        may_narrow = follows and node.op != "output" and _fits(module, node)
        is_narrow = may_narrow if fmt is None else fmt.compute == BF16
        if is_narrow and node.target not in CASTS:
            narrowed.add(node)
        for operand in operands:
            if (operand in narrowed) != is_narrow:
                dtype = torch.bfloat16 if is_narrow else torch.float32
                with graph.inserting_before(node):
                    cast = graph.call_function(torch.ops.aten.to.dtype, (operand, dtype))
                node.replace_input_with(operand, cast)
        if node in ends and not is_narrow:
            narrowed.add(_narrowed(node))


def _fits(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the finite constants that an operator reads are finite in bfloat16, too.

    The lowest number of float32, with which models mask, is not: a row in which all is masked would
    become NaN, and PyTorch refuses it as an argument.
    """
    constants = [
        attribute(module, str(n.target)) for n in node.all_input_nodes if n.op == "get_attr"
    ]
    numbers = [x for x in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(x, float)]
    tensors = [x for x in constants if isinstance(x, torch.Tensor) and x.is_floating_point()]
    finite = [x[x.isfinite()] for x in (*tensors, torch.tensor(numbers))]
    return all(bool(x.to(torch.bfloat16).isfinite().all()) for x in finite)


def _narrowed(node: fx.Node) -> fx.Node:
    """Return the value of a node as bfloat16, which all of its readers then read."""
    with node.graph.inserting_after(node):
        cast = node.graph.call_function(torch.ops.aten.to.dtype, (node, torch.bfloat16))
    node.replace_all_uses_with(cast, delete_user_cb=lambda user: user is not cast)
    cast.meta["val"] = node.meta["val"]  # what it is without formats
    return cast


def keeps_grid(node: fx.Node) -> bool:
    """Whether `node` returns only values of its operand, so that integers remain integers."""
    selects = name_of(node).startswith(("max_pool", "clone", "contiguous"))
    return node.op == "call_function" and (is_view(node) or selects)


def _is_float32(node: fx.Node) -> bool:
    leaves = pytree.tree_leaves(node.meta.get("val"))
    return any(isinstance(x, torch.Tensor) and x.dtype is torch.float32 for x in leaves)
