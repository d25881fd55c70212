"""The operands of a layer's main operator, and the layout of its weight."""

from dataclasses import dataclass

from torch import Tensor, fx

from aiq.graph import Layer, Trace
from aiq.graph.operators import argument
from aiq.quantize.fold import output_axis
from aiq.quantize.statistics import input_node


@dataclass(frozen=True, slots=True)
class Operands:
    """The operands of a layer's main operator.

    Attributes
    ----------
    input, weight, bias
        Name of the graph node of each operand; `bias` is ``None`` if the layer has no bias.
    transposed
        Whether the layer is a transposed convolution. Its weight is stored as (inputs, outputs of a
        group, taps...), that of every other layer as (outputs, inputs of a group, taps...).
    groups
        Number of groups of channels, as of a grouped convolution.
    """

    input: str
    weight: str
    bias: str | None
    transposed: bool
    groups: int

    def by_output(self, weight: Tensor) -> Tensor:
        """Return `weight` as (outputs, inputs of a group, taps...).

        The weight of a ``ConvTranspose2d(8, 6, 3, groups=2)``, (8, 3, 3, 3), becomes (6, 4, 3, 3).
        """
        return self._exchanged(weight) if self.transposed else weight

    def as_stored(self, weight: Tensor) -> Tensor:
        """Return `weight`, in the layout of `by_output`, as it is stored."""
        return self._exchanged(weight) if self.transposed else weight

    def _exchanged(self, weight: Tensor) -> Tensor:
        """Exchange the outputs of a group and its inputs; twice, it changes nothing."""
        first, second, *taps = weight.shape
        split = weight.reshape(self.groups, first // self.groups, second, *taps)
        return split.transpose(1, 2).reshape(self.groups * second, -1, *taps)


def operands(trace: Trace) -> dict[str, Operands]:
    """Return layer name -> operands, for all layers with a weight to quantise."""
    nodes = {node.name: node for node in trace.module.graph.nodes}
    return {
        layer.name: _operands(trace, layer, nodes[layer.nodes[0]])
        for layer in trace.graph.quantizable
    }


def has_bias(trace: Trace) -> bool:
    """Whether a layer with a weight to quantise has a bias, which makes up for rounded weights."""
    return any(names.bias is not None for names in operands(trace).values())


def _operands(trace: Trace, layer: Layer, head: fx.Node) -> Operands:
    bias = argument(head, "bias")
    return Operands(
        input=input_node(trace, layer),
        weight=argument(head, "weight").name,
        bias=None if bias is None else bias.name,
        transposed=bool(output_axis(head)),
        groups=int(argument(head, "groups", 1)),
    )
