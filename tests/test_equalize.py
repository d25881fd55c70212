"""Equalisation: the same function, channels of equal size, less noise where they share a scale."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from aiq import models
from aiq.evaluate import Evaluator
from aiq.formats import Granularity, parse
from aiq.graph import trace
from aiq.quantize.fold import fold
from aiq.quantize.reference.equalize import equalize
from aiq.quantize.reference.integer import IntegerNetwork
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe


def uneven(model, seed=0):
    """Give channels sizes that differ by orders of magnitude, as training does."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.log_normal_(std=1.5, generator=generator)
            module.running_mean.normal_(generator=generator)
            module.bias.data.normal_(std=0.5, generator=generator)
    return model.eval()


def weights(folded):
    program = Simulator(folded, {})
    return {n: program.program.constants[o.weight] for n, o in program.operands.items()}


@torch.no_grad()
def same(model, x, tolerance=1e-5):
    folded = fold(trace(model, x))
    equal = equalize(folded)
    expected = folded.module(x)
    assert (equal.module(x) - expected).abs().max() <= tolerance * expected.abs().max()
    return folded, equal


@pytest.mark.parametrize("network", [models.resnet20, models.mobilenet_v2])
def test_networks_compute_the_same(network):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    folded, equal = same(uneven(network()), x)
    assert [layer.nodes for layer in equal.graph.layers] == [n.nodes for n in folded.graph.layers]
    changed = [
        name for name, w in weights(equal).items() if not torch.equal(w, weights(folded)[name])
    ]
    assert len(changed) >= 18, "the first convolutions of ResNet-20's blocks and their readers"
    again = fold(equal)
    assert torch.equal(again.module(x), equal.module(x)), "can be folded, so evaluated, once more"


def test_channels_are_written_and_read_with_weights_of_one_size():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 6, 1),
    )  # fmt: skip
    _, equal = same(uneven(model), torch.randn(2, 3, 6, 6))
    first, middle, last = weights(equal).values()
    one, two = first.flatten(1).abs().amax(1), middle.flatten(1).abs().amax(1)
    assert torch.allclose(one, two, rtol=1e-3)
    assert torch.allclose(two, last.abs().amax((0, 2, 3)), rtol=1e-3)


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-1, 2), nn.LeakyReLU(0.1), nn.Identity()]
)
@pytest.mark.parametrize("groups", [1, 2])
def test_activations_that_scaling_passes_through(activation, groups):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), activation, nn.Conv2d(8, 4, 3, groups=groups)
    )
    folded, equal = same(uneven(model), 3 * torch.randn(2, 4, 7, 7))
    assert not torch.equal(weights(equal)["0"], weights(folded)["0"])


def test_linear_layers_and_dead_channels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU6(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight[2] = 0
        model[2].weight[:, 3] = 0
    _, equal = same(model, torch.randn(9, 5))
    assert all(w.isfinite().all() for w in weights(equal).values())


class Branches(nn.Module):
    """Nothing here can be equalised: two readers, a sum, a sigmoid, a flattened image."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.fc = nn.Linear(4 * 36, 2)

    def forward(self, x):
        x = self.a(x).relu()
        x = (self.b(x) + x).relu()
        x = self.c(x).sigmoid()
        return self.fc(self.d(x).flatten(1))


def test_what_has_other_readers_stays():
    torch.manual_seed(0)
    folded, equal = same(Branches(), torch.randn(2, 4, 6, 6))
    before, after = weights(folded), weights(equal)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_layer_called_twice_and_tied_weights():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.tied = nn.Linear(6, 6), nn.Linear(6, 6)
            self.tied.weight = self.shared.weight

        def forward(self, x):
            return self.tied(self.shared(self.shared(x).relu()).relu())

    torch.manual_seed(0)
    same(Twice(), torch.randn(4, 6))


def test_an_equalised_network_can_be_evaluated():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    data = [(torch.randn(16, 5), torch.randint(3, (16,))) for _ in range(3)]
    equal = equalize(fold(trace(model, data[0][0])))
    expected, evaluator = Evaluator(model, data), Evaluator(equal, data)
    assert evaluator.baseline.accuracy == expected.baseline.accuracy
    assert evaluator.evaluate({"0": parse("w4")}).kl != expected.evaluate({"0": parse("w4")}).kl


@torch.inference_mode()
def test_clamps_of_their_own_compute_in_integers():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 4, 3), nn.ReLU6()
    )
    x = 5 * torch.randn(8, 3, 6, 6)
    _, equal = same(uneven(model), x)
    simulated = Simulator(equal, observe(equal, [x]))
    formats = dict.fromkeys(simulated.operands, parse("w8a8"))
    expected = simulated.run(x, formats)
    actual = IntegerNetwork(simulated, formats).run(x)
    assert (actual - expected).abs().max() <= 0.02 * expected.abs().max()


@torch.inference_mode()
def test_it_helps_where_channels_share_a_scale():
    """MobileNetV2 with the uneven channels of training: per-tensor weights of eight bits."""
    torch.manual_seed(0)
    x = torch.randn(16, 3, 32, 32)
    folded, equal = same(uneven(models.mobilenet_v2()), x)
    shared = replace(parse("w8"), weight_granularity=Granularity.TENSOR)

    def noise(traced, fmt):
        simulated = Simulator(traced, observe(traced, [x]))
        exact = simulated.run(x, {})
        rounded = simulated.run(x, dict.fromkeys(simulated.operands, fmt))
        return float((rounded - exact).square().sum() / exact.square().sum())

    before, after = noise(folded, shared), noise(equal, shared)
    assert after < before / 4
    assert noise(folded, parse("w8")) < after, "a scale per channel is better still"
