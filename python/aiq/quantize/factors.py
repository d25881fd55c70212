"""The values that products of two activations read: queries and keys of attention.

An integer kernel multiplies two activations only if the zero point of both is the middle integer,
so that the products need no correction. The queries and keys of attention are results of linear
layers, which are rounded anyway. Their ranges are therefore symmetric about zero.
"""

from collections.abc import Iterator

from torch import fx

from aiq.graph import Trace
from aiq.graph.operators import argument, is_view
from aiq.graph.simplify import name_of

_PRODUCTS = {
    "scaled_dot_product_attention": ("query", "key"),
    "matmul": ("self", "other"),
    "bmm": ("self", "mat2"),
}
"""Operator -> names of its two factors. The other product of attention is left out, as its left
factor, a softmax, is not rounded."""

_COPIES = {"clone", "contiguous"}


def factors(trace: Trace) -> frozenset[str]:
    """Return the nodes that are the last of a layer with weights, and a factor of a product.

    A product counts only if both factors are such nodes, or views of them.
    """
    ends = {layer.nodes[-1] for layer in trace.graph.quantizable}
    found: set[str] = set()
    for node in trace.module.graph.nodes:
        values = set(_factors(node))
        if values and values <= ends:
            found |= values
    return frozenset(found)


def _factors(node: fx.Node) -> Iterator[str]:
    """Yield the names of the nodes whose values are the factors of a product."""
    for name in _PRODUCTS.get(name_of(node), ()) if node.op == "call_function" else ():
        value = argument(node, name)
        while is_view(value) or name_of(value) in _COPIES:
            value = value.all_input_nodes[0]
        yield value.name
