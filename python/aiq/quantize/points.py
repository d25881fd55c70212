"""The values that a layer in an integer format rounds: the rounding points.

They depend on the kernels of the runtime. The simulator and the graphs for the runtimes both take
them from here, so what is simulated is what runs.
"""

from collections.abc import Callable

from torch import fx

from aiq.graph import Trace

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

    The last node of a layer is always rounded, unless its value is a result of the network. The
    value before the first operator that a kernel does not absorb is rounded too, since it is what
    the kernel writes.

    Parameters
    ----------
    trace
        Folded trace, see `aiq.quantize.fold.fold`.
    absorbs
        Whether an integer kernel of the runtime absorbs an operator.
    """
    nodes = {node.name: node for node in trace.module.graph.nodes}
    found = {}
    for layer in trace.graph.quantizable:
        end, *fused = (nodes[name] for name in layer.nodes)
        for node in fused:
            if not absorbs(node, end):
                break
            end = node
        points = () if layer.is_output else (end.name, layer.nodes[-1])
        found[layer.name] = tuple(dict.fromkeys(points))
    return found
