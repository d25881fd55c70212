"""Group the nodes of an exported graph into layers, as compilers fuse them.

Compilers fuse a chain of a convolution or linear layer, a batch norm, a residual add and an
activation function. A value is fused with its reader only if it has no other reader. An operator
that the graph has as several nodes (`aiq.graph.composites`) is one layer, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from aiq.graph.composites import Composite, composites
from aiq.graph.operators import WEIGHTED, Op, argument, classify, elements, is_view, shapes
from aiq.graph.simplify import name_of, reads_only_metadata

# Steps of the chain; a group accepts only a step after its last one.
_OPERATOR, _BATCH_NORM, _ADD, _ACTIVATION = range(4)

_ACTIVATION_HOSTS = WEIGHTED | {Op.ADD, Op.MUL, Op.NORM}


@dataclass(slots=True, eq=False)
class Group:
    """The nodes of one layer: an operator, which has the weights, and the nodes fused into it.

    Attributes
    ----------
    op
        Class of the operator.
    nodes
        The operator, or all nodes of the composite, and then the nodes fused into it.
    step
        Step of the chain that the last node is.
    composite
        The operator, if the graph has it as several nodes.
    """

    op: Op
    nodes: list[fx.Node]
    step: int = _OPERATOR
    composite: Composite | None = None

    @property
    def operator(self) -> list[fx.Node]:
        """The nodes that are the operator, without those fused into it."""
        return self.nodes[: 1 if self.composite is None else len(self.composite.nodes)]


class Grouping:
    """The groups of `graph` in execution order.

    Attributes
    ----------
    groups
        Groups sorted by their last nodes, so that each follows the groups whose values it reads.
    activations
        Nodes whose values depend on the inputs of the network, including the inputs.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.groups: list[Group] = []
        self.activations: set[fx.Node] = set()
        self._group_of: dict[fx.Node, Group] = {}
        self._position = {node: i for i, node in enumerate(graph.nodes)}
        for node in graph.nodes:
            if shapes(node) and (node.op == "placeholder" or self.reads(node)):
                self.activations.add(node)
        for composite in composites(graph, self.activations):
            group = Group(composite.op, list(composite.nodes), composite=composite)
            self.groups.append(group)
            self._group_of |= dict.fromkeys(composite.nodes, group)
        for node in graph.nodes:
            if node in self.activations and node.op == "call_function" and not is_view(node):
                self._place(node)
        self.groups.sort(key=lambda group: self._position[group.nodes[-1]])

    def reads(self, node: fx.Node) -> list[fx.Node]:
        """Return the operands of `node` that are activations, each once."""
        if reads_only_metadata(node):
            return []
        return [operand for operand in node.all_input_nodes if operand in self.activations]

    def writer(self, value: fx.Node) -> Group | None:
        """Return the group that computed `value`; ``None`` if it is an input of the network."""
        return self._group_of.get(_without_views(value))

    def inputs(self, group: Group) -> list[fx.Node]:
        """Return the activations that the operator of a group reads, each once.

        A composite may read several views of a tensor, of which the largest stands for all.
        """
        if group.composite is None:
            return self.reads(group.nodes[0])
        found: dict[fx.Node, fx.Node] = {}
        for operand in self._outside(group.operator[-1], group):
            whole, read = _without_views(operand), _without_repetition(operand)
            found[whole] = max(found.get(whole, read), read, key=elements)
        return list(found.values())

    def _outside(self, node: fx.Node, group: Group) -> Iterator[fx.Node]:
        """Yield what a node of a group reads from outside, in the order of its operands."""
        for operand in self.reads(node):
            if self.writer(operand) is group:
                yield from self._outside(_without_views(operand), group)
            else:
                yield operand

    def _place(self, node: fx.Node) -> None:
        if node in self._group_of:  # part of a composite
            return
        op = classify(node)
        step, group = self._host(node, op)
        if group is None:
            group = Group(op, [])
            self.groups.append(group)
        group.nodes.append(node)
        group.step = step
        self._group_of[node] = group

    def _host(self, node: fx.Node, op: Op) -> tuple[int, Group | None]:
        """Return the step of the chain of `node`, and the group into which it is fused, if any."""
        operands = self.reads(node)
        if name_of(node) == "batch_norm":
            step, operand, hosts = _BATCH_NORM, argument(node, "input"), WEIGHTED
        elif name_of(node) == "add" and len(operands) == 2:
            later = max(operands, key=lambda value: self._position[_without_views(value)])
            step, operand, hosts = _ADD, later, WEIGHTED
        elif op is Op.ACTIVATION and len(operands) == 1:
            step, operand, hosts = _ACTIVATION, operands[0], _ACTIVATION_HOSTS
        else:
            return _OPERATOR, None
        group = self._group_of.get(operand)
        if group is None or group.op not in hosts or group.step >= step or len(operand.users) > 1:
            return _OPERATOR, None
        if shapes(operand) != shapes(node):
            return _OPERATOR, None
        if step == _BATCH_NORM and group.op is Op.LINEAR and len(shapes(node)[0]) != 2:
            return _OPERATOR, None  # the norm is over another dimension than the layer's features
        return step, group


def _without_views(value: fx.Node) -> fx.Node:
    while is_view(value):
        value = value.all_input_nodes[0]
    return value


def _without_repetition(value: fx.Node) -> fx.Node:
    """Return what a view shows, before views that repeat it, as those of heads do."""
    found = value
    while is_view(value):
        value = value.all_input_nodes[0]
        found = min(found, value, key=elements)
    return found
