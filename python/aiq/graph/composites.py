"""Find operators that models write as several small ones, and that runtimes run as one kernel.

These are RMS norms, rotary embeddings, GELU, and attention with the copies of what it reads and
writes. A *composite* is a set of nodes of one module of which only the last value is read by
others.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from torch import fx

from aiq.graph.operators import Op, classify, is_view
from aiq.graph.simplify import name_of

ATTENTION = "scaled_dot_product_attention"
"""Name of the operator that is attention."""

_SMALL = {Op.ADD, Op.MUL, Op.ACTIVATION, Op.CONCAT, Op.POOL}
"""Classes of the operators of a norm, a rotary embedding or GELU."""


@dataclass(frozen=True, slots=True, eq=False)
class Composite:
    """An operator that the graph has as several nodes.

    Attributes
    ----------
    op
        Class of the operator.
    name
        What it is called after the path of its module; the path alone if it is empty.
    nodes
        Its nodes in order; the value of the last is its result.
    """

    op: Op
    name: str
    nodes: tuple[fx.Node, ...]


def composites(graph: fx.Graph, activations: Collection[fx.Node]) -> Iterator[Composite]:
    """Yield the composites of a graph.

    Parameters
    ----------
    graph
        The graph.
    activations
        Nodes whose values depend on the inputs of the network.
    """
    computed = [n for n in graph.nodes if n in activations and n.op == "call_function"]
    kinds = {node: classify(node) for node in computed if not is_view(node)}

    def is_small(node: fx.Node, reader: fx.Node) -> bool:
        return kinds[node] in _SMALL and kinds[reader] in _SMALL

    def is_copied(node: fx.Node, reader: fx.Node) -> bool:
        pair = (name_of(node), name_of(reader))
        return ATTENTION in pair and Op.LAYOUT in {kinds[node], kinds[reader]}

    for nodes in _closed(kinds, is_small):
        names = {name_of(node) for node in nodes}
        if {"rsqrt", "mean"} <= names:
            yield Composite(Op.NORM, "", nodes)
        elif "neg" in names and names & {"cat", "stack"}:
            yield Composite(Op.MUL, "rotary", nodes)
        elif {"tanh", "pow"} <= names:
            yield Composite(Op.ACTIVATION, "", nodes)
    for nodes in _closed(kinds, is_copied):
        if len(nodes) > 1:
            yield Composite(Op.MATMUL, ATTENTION, nodes)


def _closed(
    kinds: Collection[fx.Node], joins: Callable[[fx.Node, fx.Node], bool]
) -> Iterator[tuple[fx.Node, ...]]:
    """Yield sets of nodes of one module, of which only the last value is read by others.

    Parameters
    ----------
    kinds
        The nodes, in the order of the graph.
    joins
        Whether a node may be in the set of a reader.
    """
    last: dict[fx.Node, fx.Node] = {}
    sets: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(list(kinds)):
        readers = set(_readers(node))
        results = {last.get(reader) for reader in readers}
        result = results.pop() if len(results) == 1 else None
        inside = result is not None and module_path(result) == module_path(node)
        if result is None or not inside or not all(joins(node, reader) for reader in readers):
            result = node
        last[node] = result
        sets.setdefault(result, []).append(node)
    for nodes in sets.values():
        yield tuple(reversed(nodes))


def module_path(node: fx.Node) -> str:
    """Return the path of the innermost module whose call computes a node, ``""`` if none does."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]).split("@")[0] if stack else ""


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the nodes that read a value, or a view of it."""
    for user in node.users:
        if is_view(user):
            yield from _readers(user)
        else:
            yield user
