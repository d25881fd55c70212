"""Find operators that models write as several small ones, and that runtimes run as one kernel.

These are norms, rotary embeddings, GELU, and attention with the copies of what it reads and
writes. A *composite* is a set of nodes of one module of which only the last value is read by
others.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from torch import fx

from aiq.graph.operators import Op, argument, classify, is_view
from aiq.graph.simplify import name_of

ATTENTION = "scaled_dot_product_attention"
"""Name of the operator that is attention."""

_SMALL = {Op.ADD, Op.MUL, Op.ACTIVATION, Op.CONCAT, Op.POOL}
"""Classes of the operators of a norm, a rotary embedding or GELU."""

_DEVIATIONS = {"var", "var_mean", "std", "std_mean", "linalg_vector_norm"}
"""Operators that measure how large the numbers are by which a norm divides; or it is a mean."""


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
        return all(kinds[x] in _SMALL or name_of(x) in _DEVIATIONS for x in (node, reader))

    def is_copied(node: fx.Node, reader: fx.Node) -> bool:
        pair = (name_of(node), name_of(reader))
        return ATTENTION in pair and Op.LAYOUT in {kinds[node], kinds[reader]}

    for nodes in _closed(kinds, is_small):
        names = {name_of(node) for node in nodes}
        branch = _from_branch(nodes, kinds)
        if any(map(_divides, branch)) and any(map(_measures, branch)):
            yield Composite(Op.NORM, "", branch)
        elif "neg" in names and names & {"cat", "stack"}:
            yield Composite(Op.MUL, "rotary", nodes)
        elif {"tanh", "pow"} <= names:
            yield Composite(Op.ACTIVATION, "", nodes)
    for nodes in _closed(kinds, is_copied):
        if len(nodes) > 1:
            yield Composite(Op.MATMUL, ATTENTION, nodes)


def _measures(node: fx.Node) -> bool:
    return name_of(node) == "mean" or name_of(node) in _DEVIATIONS


def _divides(node: fx.Node) -> bool:
    """Whether a node divides by a value that depends on the inputs of the network."""
    match name_of(node):
        case "rsqrt" | "reciprocal":
            return True
        case "pow":
            exponent = argument(node, "exponent")
            return isinstance(exponent, int | float) and exponent < 0
        case "div":
            divisor = argument(node, "other")
            return isinstance(divisor, fx.Node) and divisor.op == "call_function"
    return False


def _from_branch(nodes: tuple[fx.Node, ...], kinds: Collection[fx.Node]) -> tuple[fx.Node, ...]:
    """Return the nodes from where two of them read what is computed before.

    What a norm normalises is read by two of its nodes. Others, such as a sum or an activation, are
    before it.
    """
    first = [n for n in nodes if any(x not in nodes for x in _computed(n, kinds))]
    if len(first) != 1:
        return nodes
    return _from_branch(tuple(n for n in nodes if n is not first[0]), kinds)


def _computed(node: fx.Node, kinds: Collection[fx.Node]) -> Iterator[fx.Node]:
    """Yield what a node reads, without views: results of operators, and inputs of the network."""
    for operand in node.all_input_nodes:
        value = operand
        while is_view(value):
            value = value.all_input_nodes[0]
        if value in kinds or value.op == "placeholder":
            yield value


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
