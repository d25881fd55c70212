"""A plan with a number format for each group of output channels of a layer."""

from collections.abc import Mapping
from dataclasses import dataclass

from aiq import solver
from aiq.formats import Format, by_channel
from aiq.plan.plan import Accuracy
from aiq.text import plain, points, table

NO_KERNELS = (
    "This plan gives output channels of one layer different formats, and no runtime has kernels "
    "for that; it is a result about accuracy and intensity. Deploy a plan of aiq.search, which has "
    "one format for each layer."
)
"""What is said where a plan by channels is to be run."""


@dataclass(frozen=True, slots=True)
class GroupedLayer:
    """The formats of one layer.

    Attributes
    ----------
    name
        Name of the layer.
    groups
        Output channels of each group, the most sensitive first; together they are all channels. A
        layer that is not split has one group.
    formats
        Format of each group.
    index_bytes
        Bytes that say which channel has which format; 0 if all have the same one.
    """

    name: str
    groups: tuple[tuple[int, ...], ...]
    formats: tuple[Format, ...]
    index_bytes: int

    @property
    def format(self) -> Format:
        """The format of the layer, in which each output channel has its own."""
        format_of = {
            channel: chosen
            for group, chosen in zip(self.groups, self.formats, strict=True)
            for channel in group
        }
        return by_channel([format_of[channel] for channel in sorted(format_of)])

    @property
    def is_split(self) -> bool:
        """Whether the layer has more than one format."""
        return len(set(self.formats)) > 1


@dataclass(frozen=True, slots=True, eq=False)
class ChannelPlan:
    """A number format for each group of output channels, by `aiq.search_channels`.

    It is a result about accuracy and intensity: it cannot be deployed or exported, because no
    runtime has kernels whose output channels differ in their formats.

    Attributes
    ----------
    model
        Class of the model.
    layers
        The layers whose formats were decisions, in the order of the layer graph.
    intensity, reference_intensity
        FLOPs per byte of the plan, with the bytes of its index, and of float32.
    accuracy
        Accuracy of the whole plan on the data.
    solution
        The solver's answer, with its certificate. Each choice is a combination of formats.
    evaluations
        Number of evaluations of the network on all samples.
    """

    model: str
    layers: tuple[GroupedLayer, ...]
    intensity: float
    reference_intensity: float
    accuracy: Accuracy
    solution: solver.Solution
    evaluations: int

    @property
    def formats(self) -> Mapping[str, Format]:
        """Layer name -> format, as `aiq.evaluate.Evaluator` takes it."""
        return {layer.name: layer.format for layer in self.layers}

    @property
    def index_bytes(self) -> int:
        """Bytes that say which channel has which format, in all layers."""
        return sum(layer.index_bytes for layer in self.layers)

    def __str__(self) -> str:
        split = sum(layer.is_split for layer in self.layers)
        ratio = self.intensity / self.reference_intensity
        sentence = (
            f"{self.model} does {self.intensity:.2f} FLOP per byte moved, {ratio:.2f} times as "
            f"many as in float32, with an accuracy drop of {points(self.accuracy.drop)} on "
            f"{self.accuracy.samples:,} samples. {split} of {len(self.layers)} layers have several "
            f"formats; their index takes {self.index_bytes:,} bytes. No runtime has kernels for "
            "such layers, so this is a result about accuracy and intensity."
        )
        rows = (
            (layer.name, ", ".join(_counted(layer)), f"{layer.index_bytes:,}")
            for layer in self.layers
        )
        return f"{sentence}\n\n{plain(table('', ['<layer', '<channels', 'index bytes'], rows))}"


def _counted(layer: GroupedLayer) -> list[str]:
    counts: dict[str, int] = {}
    for group, chosen in zip(layer.groups, layer.formats, strict=True):
        counts[chosen.name] = counts.get(chosen.name, 0) + len(group)
    return [f"{count} {name}" for name, count in counts.items()]
