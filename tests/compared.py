"""Small networks, their formats, and the distance between results."""

from itertools import pairwise

from torch import nn

import aiq
from aiq.formats import parse


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
