"""Functions as modules, and what holds for every layer graph."""

from collections.abc import Callable

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from aiq.graph import Layer, LayerGraph, Trace
from aiq.graph.export import call_arguments


class Lambda(nn.Module):
    """A function and the modules and parameters it uses."""

    def __init__(self, function: Callable, **members: object) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, nn.Parameter(member) if torch.is_tensor(member) else member)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def counted(model: nn.Module, inputs: object) -> int:
    """Return the FLOPs that PyTorch counts."""
    args, kwargs = call_arguments(inputs)
    with FlopCounterMode(display=False) as counter:  # with gradients, lest fused kernels hide
        model.eval()(*args, **kwargs)
    return counter.get_total_flops()


def layer(graph: LayerGraph, name: str) -> Layer:
    """Return the layer of a name."""
    (found,) = [layer for layer in graph.layers if layer.name == name]
    return found


def edges(graph: LayerGraph) -> set[tuple[str, str, int]]:
    """Return source, target and elements of each edge."""
    names = [layer.name for layer in graph.layers]
    return {(names[e.source], names[e.target], e.elements) for e in graph.edges}


def check_consistent(traced: Trace) -> None:
    """Check what holds for every layer graph."""
    graph = traced.graph
    assert len({layer.name for layer in graph.layers}) == len(graph.layers)
    covered = [node for layer in graph.layers for node in layer.nodes]
    assert len(set(covered)) == len(covered)
    assert set(covered) <= {node.name for node in traced.module.graph.nodes}
    assert len({(e.source, e.target) for e in graph.edges}) == len(graph.edges)
    for edge in graph.edges:
        assert 0 <= edge.source < edge.target < len(graph.layers)
        assert 0 < edge.elements <= graph.layers[edge.source].output_elements
    for node in traced.module.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable, node


def check_same_results(traced: Trace, model: nn.Module, inputs: object) -> None:
    """Check the exported module against the model, called and interpreted node by node."""
    args, kwargs = call_arguments(inputs)
    model.eval()
    with torch.no_grad():
        expected = model(*args, **kwargs)
        called = traced.module(*args, **kwargs)
        stepped = torch.fx.Interpreter(traced.module).run(*pytree.tree_leaves((args, kwargs)))
    torch.testing.assert_close(called, expected)
    torch.testing.assert_close(stepped, expected)


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 1)
