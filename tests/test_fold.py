"""Batch-norm folding: the same function, without the batch norms."""

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

from aiq import models
from aiq.graph import trace
from aiq.quantize.fold import fold


def lively(model, seed=0):
    """Give batch norms statistics and gains that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.3, 3, generator=generator)
            if module.affine:
                nn.init.normal_(module.weight, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    return model.eval()


def names(folded):
    return [str(node.target) for node in folded.module.graph.nodes]


@torch.no_grad()
def check(model, x, left=0):
    """Fold and compare; `left` batch norms have nothing to fold into."""
    folded = fold(trace(lively(model), x))
    expected = copy.deepcopy(model).double()(x.double())
    assert (folded.module(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert sum("batch_norm" in name for name in names(folded)) == left
    return folded


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "convolution",
    [
        lambda bias: nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=bias),
        lambda bias: nn.Conv2d(8, 16, 3, groups=8, bias=bias),
        lambda bias: nn.ConvTranspose2d(8, 12, 3, stride=2, groups=2, bias=bias),
        lambda bias: nn.Conv2d(8, 12, 1, bias=bias),
    ],
    ids=["convolution", "depthwise", "transposed and grouped", "pointwise"],
)
def test_two_dimensional_convolutions(convolution, bias):
    first = convolution(bias)
    channels = first.out_channels
    model = nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 3, 1))
    folded = check(model, torch.randn(2, 8, 9, 9))
    assert [len(layer.nodes) for layer in folded.graph.layers] == [2, 1]
    assert folded.graph.layers[0].fused == ("batch_norm", "relu"), "what fuses stays on record"


def test_one_dimensional_convolution_and_linear():
    model = nn.Sequential(
        nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6, affine=False), nn.Flatten(),
        nn.Linear(30, 5), nn.BatchNorm1d(5),
    )  # fmt: skip
    check(model, torch.randn(3, 4, 7))


def test_what_cannot_be_folded_stays():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)  # in front
            self.conv1 = nn.Conv2d(3, 3, 3, padding=1)
            self.norm1 = nn.BatchNorm2d(3)
            self.conv2 = nn.Conv2d(3, 3, 3, padding=1)
            self.norm2 = nn.BatchNorm2d(3, track_running_stats=False)  # of the batch

        def forward(self, x):
            y = self.conv1(self.norm(x))
            return self.norm2(self.conv2(self.norm1(y) + y))  # conv1 has two readers

    check(Net(), torch.randn(2, 3, 6, 6), left=3)


def test_tied_weights_fold_apart():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)
            self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

        def forward(self, x):
            for norm in self.norms:
                x = norm(self.conv(x)).relu()
            return x

    folded = check(Twice(), torch.randn(2, 4, 6, 6))
    assert [layer.name for layer in folded.graph.quantizable] == ["conv", "conv#2"]


@torch.no_grad()
@pytest.mark.parametrize("network", [models.resnet20, models.mobilenet_v2])
def test_networks_keep_their_counts_and_their_trace(network):
    model, x = lively(network()), torch.randn(2, 3, 32, 32)
    traced = trace(model, x)
    before = names(traced)
    folded = fold(traced)
    assert names(traced) == before
    assert folded.graph.flops == traced.graph.flops
    assert not any("batch_norm" in name for name in names(folded))
    expected = copy.deepcopy(model).double()(x.double())
    assert (folded.module(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.fixture(scope="module")
def pair():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU6()).eval()
    return model, trace(model, torch.randn(2, 3, 5, 5))


@torch.no_grad()
@given(seed=st.integers(0, 10**6), spread=st.floats(-4, 4))
def test_any_statistics(pair, seed, spread):
    model, traced = pair
    lively(model, seed)
    model[1].running_var.mul_(10**spread)
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    expected = copy.deepcopy(model).double()(x.double())
    assert torch.allclose(fold(traced).module(x).double(), expected, atol=1e-5, rtol=1e-5)
