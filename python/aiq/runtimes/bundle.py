"""Small models that are exported together, since an export takes longer than they do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from aiq.formats import Format
from aiq.graph import Edge, LayerGraph


class Bundle(nn.Module):
    """Several models as one: the n-th input and the n-th output belong to the n-th model."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(models)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run every model on its tensor."""
        return tuple(part(x) for part, x in zip(self.parts, inputs, strict=True))


def joined(formats: Sequence[Mapping[str, Format]]) -> dict[str, Format]:
    """Return the formats of a bundle's layers from those of its parts."""
    return {
        f"parts.{index}.{name}": fmt
        for index, part in enumerate(formats)
        for name, fmt in part.items()
    }


def split(graph: LayerGraph, count: int) -> Iterator[LayerGraph]:
    """Yield the layer graph of each of the `count` parts of a bundle, with its own layer names."""
    owners: list[int] = []
    for layer in graph.layers:
        prefix, _, rest = layer.name.partition(".")
        # The name of a layer without weights may not contain its part, but parts are contiguous.
        owners.append(int(rest.partition(".")[0]) if prefix == "parts" else owners[-1])
    for part in range(count):
        mine = [index for index, owner in enumerate(owners) if owner == part]
        position = {index: place for place, index in enumerate(mine)}
        layers = (graph.layers[index] for index in mine)
        yield LayerGraph(
            graph.model,
            graph.batch,
            tuple(replace(x, name=x.name.removeprefix(f"parts.{part}.")) for x in layers),
            tuple(
                Edge(position[edge.source], position[edge.target], edge.elements, edge.fused)
                for edge in graph.edges
                if edge.source in position
            ),
        )
