"""Which kernel runs which layer, read from the graph that Inductor turns into code."""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

LABEL = "aiq_layers"
"""Key of ``node.meta["custom"]``: names of the layers whose kernel may absorb the node."""


class Kernel(NamedTuple):
    """A multiplication by weights in the compiled program.

    Attributes
    ----------
    name
        What is called, with what is fused into it.
    format
        Format of its operands.
    labels
        Layers that it may belong to.
    """

    name: str
    format: str
    labels: tuple[str, ...]


class Census(CustomGraphPass):
    """Notes the kernels of the final graph, after every fusion and before code generation."""

    def __init__(self) -> None:
        self.kernels: list[Kernel] = []

    def __call__(self, graph: fx.Graph) -> None:
        """Read the graph; called by Inductor."""
        for node in graph.nodes:
            name = _kernel_name(node)
            constants = [_constant(n) for n in node.all_input_nodes if n.op == "get_attr"]
            weights = [c for c in constants if c.dim() >= 2]
            inputs = [n.meta["val"].dtype for n in node.all_input_nodes if n.op != "get_attr"]
            if _MULTIPLIES.search(name) and weights and inputs:
                labels = node.meta.get("custom", {}).get(LABEL, ())
                self.kernels.append(Kernel(name, _format(inputs[0], weights[0].dtype), labels))

    def uuid(self) -> None:
        """Return ``None``: a program from the cache would come without this pass."""


_MULTIPLIES = re.compile(r"conv|linear|(^|[._])(add|b)?mm|pack_mm|matmul")


def _kernel_name(node: fx.Node) -> str:
    if node.op != "call_function":
        return ""
    if isinstance(node.target, partial):  # the lowering of a fused pattern, named by its nodes
        (match,) = node.target.args
        return "+".join(str(n.target) for n in match.nodes)
    return str(node.target)


def _constant(node: fx.Node) -> torch.Tensor:
    value: torch.Tensor = attrgetter(str(node.target))(node.graph.owning_module)
    return value


def _format(activation: torch.dtype, weight: torch.dtype) -> str:
    if activation in {torch.uint8, torch.int8}:
        return "w8a8"
    if weight is torch.int8:
        return "w8"
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}.get(activation, str(activation))


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


def assign(kernels: Iterable[Kernel]) -> dict[str, Kernel]:
    """Return the kernel of each layer.

    A layer has one kernel, so those with a single label settle the others.
    """
    owners: dict[str, Kernel] = {}
    for kernel in sorted(kernels, key=lambda kernel: len(kernel.labels)):
        free = [name for name in kernel.labels if name not in owners]
        if free:
            owners[free[0]] = kernel
    return owners
