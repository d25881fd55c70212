"""A network to train with a plan, and its data."""

import torch
import toy
from torch import nn

import aiq

HW = "xeon_2vcpu_roofs"


class Residual(nn.Module):
    """A network with batch norms and a residual."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm1(self.conv1(x)).relu()
        x = (self.norm2(self.conv2(x)) + x).relu()
        return self.fc(x.mean((2, 3)))


def batches(count=256, seed=0, size=64, noise=0.0):
    """Return batches of the toy task, with noise added to the images."""
    x, y = toy.batch(count, seed)
    x = x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 100))
    return list(zip(x.split(size), y.split(size), strict=True))


def searched(model, data, **options):
    """Return a plan for a model."""
    known = {"objective": "intensity", "max_drop": 1.0, "runtime": None, "cache": False}
    return aiq.search(model, HW, data, progress=None, **known | options)
