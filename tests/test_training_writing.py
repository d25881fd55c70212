"""Trained weights are written into a copy of the model."""

from dataclasses import replace

import torch
from torch import nn
from trainable import batches

from aiq import graph
from aiq.formats import parse
from aiq.quantize.fold import fold
from aiq.quantize.points import absorbs_all
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe
from aiq.training.network import TrainableNetwork
from aiq.training.writing import places_in, with_trained


class Places(nn.Module):
    """Batch norms after every kind of layer, with and without parameters."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.BatchNorm2d(6, affine=False, eps=1e-3),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 4, 2, groups=2, bias=False),
            nn.BatchNorm2d(4),
            nn.Flatten(),
            nn.Linear(100, 40, bias=False),
            nn.BatchNorm1d(40),
            nn.Linear(40, 4, bias=False),
        )

    def forward(self, x):
        return self.layers(x)


def test_trained_weights_are_written_so_that_folding_gives_them_back():
    torch.manual_seed(0)
    model, (x, _) = Places(), batches(64)[0]
    model(x)
    model.eval()
    before = graph.trace(model, x)
    folded = fold(before)
    formats = dict.fromkeys((layer.name for layer in folded.graph.quantizable), parse("w3a6"))
    formats |= {"layers.6": parse("w4g32z"), "layers.8": parse("bf16")}
    statistics = observe(folded, [x])
    network = TrainableNetwork(folded, statistics, formats, absorbs_all)
    with torch.no_grad():
        for parameter in network.parameters.values():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    written = places_in(model, before, folded)
    found = with_trained(model, written, network.rounded_weights(), network.biases)
    trace = replace(graph.trace(found, x), learned=network.learned())
    again = Simulator(fold(trace), observe(fold(trace), [x]))
    with torch.no_grad():
        for name, weight in network.rounded_weights().items():
            names = again.operands[name]
            assert torch.equal(again.program.constants[names.weight], weight)
            if names.bias is not None:
                assert torch.equal(again.program.constants[names.bias], network.biases[name])
        assert torch.equal(again.run(x, formats), network.run(x, formats))
