"""Simulate a network on the inputs by which it is calibrated."""

import torch

from aiq.formats import parse
from aiq.graph import trace
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe


def simulator(net, x, **options):
    """Return the simulator of a network, calibrated by `x`."""
    folded = fold(trace(net, x))
    return Simulator(folded, observe(folded, [x]), **options)


@torch.no_grad()
def run(simulated, x, **names):
    """Run a simulator with formats by name: layer -> name of its format."""
    return simulated.run(x, {layer: parse(name) for layer, name in names.items()})
