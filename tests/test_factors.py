"""Products of queries and keys have factors whose ranges are symmetric."""

import pytest
import torch
from torch import nn

from aiq.formats import INTEGERS
from aiq.graph import trace
from aiq.quantize.factors import factors
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe

LAYERS = ("q", "k", "v", "out", "head")


class Attention(nn.Module):
    """Attention whose keys lie on one side of zero, written as one operator or as several."""

    def __init__(self, *, is_one, is_shifted=False):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(64, 64) for _ in range(4))
        self.head, self.is_one, self.is_shifted = nn.Linear(64, 8), is_one, is_shifted
        with torch.no_grad():
            self.k.bias.add_(3)
            self.v.bias.add_(3)

    def forward(self, x):
        q, k, v = (
            layer(x).view(*x.shape[:2], 2, 32).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        if self.is_shifted:
            k = k + 0.5 * k.mean()
        if self.is_one:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(2, 3) / 8, -1) @ v
        return self.head(self.out(y.transpose(1, 2).flatten(2)).mean(1))


def attention(**options):
    torch.manual_seed(0)
    return Attention(**options).eval(), torch.randn(2, 128, 64)


@pytest.mark.parametrize("is_one", [True, False])
def test_ranges_of_queries_and_keys_are_symmetric(is_one):
    model, x = attention(is_one=is_one)
    folded = fold(trace(model, x))
    last = {layer.name: layer.nodes[-1] for layer in folded.graph.quantizable}
    assert factors(folded) == {last["q"], last["k"]}
    statistics = observe(folded, [x])
    simulator = Simulator(folded, statistics, "min_max")
    for name, bits in (("q", 8), ("k", 8), ("k", 4)):
        found = simulator.activation(last[name], INTEGERS[bits])
        seen = statistics[last[name]]
        assert int(found.zero_point) == 2 ** (bits - 1)
        largest = max(-seen.low, seen.high)
        assert float(found.scale) == pytest.approx(2 * largest / (2**bits - 1), rel=1e-6)
    assert int(simulator.activation(last["v"], INTEGERS[8]).zero_point) < 100


@pytest.mark.parametrize("is_one", [True, False])
def test_a_product_counts_only_if_both_factors_are_rounded(is_one):
    model, x = attention(is_one=is_one, is_shifted=True)
    assert factors(fold(trace(model, x))) == set()
