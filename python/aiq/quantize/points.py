"""The values that a layer in an integer format rounds: the rounding points.

They depend on the kernels of the runtime. The simulator and the graphs for the runtimes both take
them from here, so what is simulated is what runs.
"""

from collections.abc import Callable

from torch import fx

from aiq.graph import Op, Trace

Absorbs = Callable[[fx.Node, fx.Node], bool]
"""Whether an integer kernel applies an operator to its result before the result is rounded.

The arguments are the node of the operator, which is fused into the layer, and the node of the
result to which it would be applied.
"""


def absorbs_all(node: fx.Node, result: fx.Node) -> bool:
    """Return true: kernels apply all operators that are fused into a layer."""
    return True


def rounding_points(trace: Trace, absorbs: Absorbs = absorbs_all) -> dict[str, tuple[str, ...]]:
    """Return layer name -> nodes whose values an integer format of the layer rounds, in order.

    The last node of a layer is rounded, unless its value is a result of the network, or the layer
    is linear and norms alone read the value, as they read the sums between the blocks of a
    transformer: a norm computes in floating point, and those sums have outliers that a range of 8
    bits cannot hold. (Kernels of convolutions cannot write floating point in every runtime.) The
    value before the first operator that a kernel does not absorb is rounded with the last node,
    since it is what the kernel writes.

    Parameters
    ----------
    trace
        Folded trace, see `aiq.quantize.fold.fold`.
    absorbs
        Whether an integer kernel of the runtime absorbs an operator.
    """
    nodes = {node.name: node for node in trace.module.graph.nodes}
    exact = _read_by_norms(trace)
    found = {}
    for layer in trace.graph.quantizable:
        end, *fused = (nodes[name] for name in layer.nodes)
        for node in fused:
            if not absorbs(node, end):
                break
            end = node
        last = layer.nodes[-1]
        is_exact = layer.is_output or (layer.op is Op.LINEAR and last in exact)
        points = () if is_exact else (end.name, last)
        found[layer.name] = tuple(dict.fromkeys(points))
    return found


def _read_by_norms(trace: Trace) -> set[str]:
    """Return the nodes from which paths lead to norms, and to no layer with weights before."""
    heads = {layer.nodes[0] for layer in trace.graph.quantizable}
    norms = {
        name
        for layer in trace.graph.layers
        # A batch norm multiplies and adds constants, as the scales of integers do.
        if layer.op is Op.NORM and "batch_norm" not in layer.nodes[0]
        for name in layer.nodes
    }
    to_layers, to_norms = set[str](), set[str]()
    for node in reversed(trace.module.graph.nodes):
        users = {user.name for user in node.users}
        if users & heads or users & to_layers - norms:
            to_layers.add(node.name)
        if users & norms or users & to_norms:
            to_norms.add(node.name)
    return to_norms - to_layers
