"""The kernel of each layer in a compiled program, found by labels that survive the compiler."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import fx

LABEL = "aiq_layers"
"""Key of ``node.meta["custom"]`` for the names of the layers whose kernel may absorb the node."""


class RealisedKernel(NamedTuple):
    """A multiplication by weights in the compiled program.

    Attributes
    ----------
    name
        Name of the kernel, with the operators fused into it.
    format
        Format of its operands.
    labels
        Names of the layers to which it may belong.
    node
        Name of the kernel in the runtime's profiler; empty if there is none.
    """

    name: str
    format: str
    labels: tuple[str, ...]
    node: str = ""


def label(graph: fx.Graph, heads: Mapping[str, str]) -> None:
    """Label each node with the layers whose kernels may absorb it, the most likely first.

    Inductor fuses a layer with nodes that follow it and keeps the metadata of the last one. Labels
    are therefore carried along the graph up to the next layer; `assign` resolves them.

    Parameters
    ----------
    graph
        Graph whose nodes get an entry `LABEL` in ``meta["custom"]``, which survives compilation.
    heads
        Name of a layer's first node -> name of the layer, in the order in which they run.
    """
    order = {name: index for index, name in enumerate(heads.values())}
    labels: dict[fx.Node, tuple[str, ...]] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.name in heads:
            labels[node] = (heads[node.name],)
        else:
            heard = {name for n in node.all_input_nodes for name in labels.get(n, ())}
            labels[node] = tuple(sorted(heard, key=lambda name: -order[name]))
        node.meta["custom"] = {**node.meta.get("custom", {}), LABEL: labels[node]}


def assign(kernels: Iterable[RealisedKernel]) -> dict[str, RealisedKernel]:
    """Return the kernel of each layer.

    A layer has one kernel, so kernels with a single label are assigned first.
    """
    owners: dict[str, RealisedKernel] = {}
    for kernel in sorted(kernels, key=lambda kernel: len(kernel.labels)):
        free = [name for name in kernel.labels if name not in owners]
        if free:
            owners[free[0]] = kernel
    return owners
