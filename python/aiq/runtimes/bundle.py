"""Small models that go through one export together, since an export costs more than they do."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from aiq.formats import Format


class Bundle(nn.Module):
    """Models side by side: the n-th tensor given is the n-th one's, and so is the n-th returned."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(models)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run every model on its tensor."""
        return tuple(part(x) for part, x in zip(self.parts, inputs, strict=True))


def joined(formats: Sequence[Mapping[str, Format]]) -> dict[str, Format]:
    """Return the formats of a bundle's layers, given those of its parts."""
    return {
        f"parts.{index}.{name}": fmt
        for index, part in enumerate(formats)
        for name, fmt in part.items()
    }
