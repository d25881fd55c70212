"""Write trained weights and biases into a copy of the user's model.

A batch norm that was folded into the weights before it stays in the model and changes nothing any
more: its mean is 0, and its gain is 1 as closely as float32 can say. Folding it again gives the
trained weights bit for bit.
"""

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from aiq.errors import GraphError, reason
from aiq.graph import Layer, Trace
from aiq.graph.operators import argument
from aiq.graph.simplify import name_of


@dataclass(frozen=True, slots=True)
class Place:
    """The parameters of the model that a layer's weights and bias are written to.

    Attributes
    ----------
    weight, bias
        Qualified names; `bias` is ``None`` if the convolution or linear layer has none.
    mean, var, gain, shift
        Names of the statistics and parameters of the batch norm that is folded into the layer;
        ``None`` for what there is not.
    eps
        The number that the batch norm adds to its variance.
    """

    weight: str
    bias: str | None
    mean: str | None = None
    var: str | None = None
    gain: str | None = None
    shift: str | None = None
    eps: float = 0.0

    @property
    def names(self) -> list[str]:
        """All names."""
        parts = (self.weight, self.bias, self.mean, self.var, self.gain, self.shift)
        return [name for name in parts if name is not None]


def places_in(model: nn.Module, trace: Trace, folded: Trace) -> dict[str, Place]:
    """Return layer name -> where its trained values are to be written.

    Parameters
    ----------
    model
        The model.
    trace, folded
        Its trace, before and after batch norms were folded.

    Raises
    ------
    GraphError
        If a weight is shared by several layers, or is computed from other parameters.
    """
    nodes = {node.name: node for node in trace.module.graph.nodes}
    after = {layer.name: layer for layer in folded.graph.quantizable}
    found = {x.name: _place(x, after[x.name], nodes) for x in trace.graph.quantizable}
    known = _tensors(model).keys()
    counts = Counter(name for place in found.values() for name in place.names)
    for layer, place in found.items():
        missing = [name for name in place.names if name not in known]
        shared = [name for name in place.names if counts[name] > 1]
        if missing:
            raise GraphError(
                f"Layer {layer!r} computes its weights from other parameters, so trained ones have "
                "no place in the model; remove the parametrisation first."
            )
        if shared:
            raise GraphError(
                f"Layer {layer!r} shares {shared[0]} with another layer or call, and each would be "
                "rounded in its own way; give every layer weights of its own to train them."
            )
    return found


def _place(layer: Layer, folded: Layer, nodes: Mapping[str, fx.Node]) -> Place:
    head = nodes[layer.nodes[0]]
    weight, bias = str(layer.weight), _target(head, "bias")
    norm = nodes[layer.nodes[1]] if len(layer.nodes) > 1 else head
    if name_of(norm) != "batch_norm" or norm.name in folded.nodes:
        return Place(weight, bias)
    return Place(
        weight,
        bias,
        mean=_target(norm, "running_mean"),
        var=_target(norm, "running_var"),
        gain=_target(norm, "weight"),
        shift=_target(norm, "bias"),
        eps=float(argument(norm, "eps")),
    )


def _target(node: fx.Node, name: str) -> str | None:
    source = argument(node, name)
    return str(source.target) if isinstance(source, fx.Node) else None


def with_trained(
    model: nn.Module,
    places: Mapping[str, Place],
    weights: Mapping[str, Tensor],
    biases: Mapping[str, Tensor],
) -> nn.Module:
    """Return a copy of `model`, in evaluation mode, with trained weights and biases.

    Parameters
    ----------
    model
        The model, which is not changed.
    places
        Layer name -> where its values are written, from `places_in`.
    weights, biases
        Layer name -> value, in the layout of the model, of layers without their batch norms.

    Raises
    ------
    GraphError
        If the model cannot be copied.
    """
    try:
        found = copy.deepcopy(model).eval()
    except Exception as error:  # a model may hold a lock, a file, a socket
        raise GraphError(
            f"The model cannot be copied ({reason(error)}), and training does not change the one "
            "that was given; leave out of it what copy.deepcopy refuses."
        ) from error
    tensors = _tensors(found)
    with torch.no_grad():
        for layer, place in places.items():
            values: dict[str | None, Tensor | float] = {place.weight: weights[layer]}
            if place.var is None:
                values[place.bias] = biases.get(layer, 0.0)
            else:
                bias = biases[layer]
                values |= {place.bias: 0.0, place.gain: 1.0, place.var: 1 - place.eps}
                values[place.mean] = 0.0 if place.shift is not None else -bias
                values[place.shift] = bias
            for name, value in values.items():
                if name is not None:
                    tensors[name].copy_(torch.as_tensor(value))
    return found


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return qualified name -> parameter or buffer, under all names of shared ones."""
    model = getattr(model, "_orig_mod", model)
    named = dict(model.named_parameters(remove_duplicate=False))
    return named | dict(model.named_buffers(remove_duplicate=False))
