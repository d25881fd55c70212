"""Which kernel runs which layer: labels that survive an optimiser, and how to read them back."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import fx

LABEL = "aiq_layers"
"""Key of ``node.meta["custom"]``: names of the layers whose kernel may absorb the node."""


class RealisedKernel(NamedTuple):
    """A multiplication by weights in the compiled program.

    Attributes
    ----------
    name
        What is called, with what is fused into it.
    format
        Format of its operands.
    labels
        Layers that it may belong to.
    node
        What the runtime's profiler calls it; empty if it has none.
    """

    name: str
    format: str
    labels: tuple[str, ...]
    node: str = ""


def label(graph: fx.Graph, heads: Mapping[str, str]) -> None:
    """Write into each node which layers' kernels may absorb it, the likeliest first.

    Inductor fuses a layer with nodes that follow it and keeps the metadata of the last one. Labels
    of all of them, carried along the graph up to the next layer, let `assign` tell whose it is.

    Parameters
    ----------
    graph
        Nodes get an entry `LABEL` in ``meta["custom"]``, which survives compilation.
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

    A layer has one kernel, so those with a single label settle the others.
    """
    owners: dict[str, RealisedKernel] = {}
    for kernel in sorted(kernels, key=lambda kernel: len(kernel.labels)):
        free = [name for name in kernel.labels if name not in owners]
        if free:
            owners[free[0]] = kernel
    return owners
