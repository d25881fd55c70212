"""Small networks, their formats, and the distance between results."""

from itertools import pairwise
from types import SimpleNamespace

from torch import nn

import aiq
from aiq.formats import WeightRounding, parse

FLOAT = SimpleNamespace(
    formats={}, batch_dim=0, workload=None, rounding=WeightRounding.NEAREST, learned=None
)
"""What deploying and exporting read of a plan that leaves every layer in float32."""


def formats(model, x, name):
    """Return one format for all layers."""
    return {layer.name: parse(name) for layer in aiq.extract(model, x).quantizable}


def mlp(*sizes, bias=False, activation=nn.ReLU):
    """Return linear layers of these sizes, with activations between them."""
    layers = [nn.Linear(a, b, bias=bias) for a, b in pairwise(sizes)]
    parts = [part for layer in layers for part in (layer, activation())]
    return nn.Sequential(*parts[:-1]).eval()


def away(found, expected):
    """Return the distance of two results, relative to the expected one."""
    return float((found - expected).norm() / expected.norm())
