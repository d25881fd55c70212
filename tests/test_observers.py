"""Ranges against PyTorch's observers to the last bit, and against exhaustive search."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from torch import nn
from torch.ao.quantization import observer as torch_observers

from aiq import _core
from aiq.errors import DataError, InputError
from aiq.graph import trace
from aiq.quantize.affine import SMALLEST_SCALE, Scheme, from_range, from_scale, to_rows
from aiq.quantize.fold import fold
from aiq.quantize.observers import OBSERVERS, moving_average, percentile, symmetric_mse, weight_mse
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import Statistics, observe

BITS = st.integers(2, 8)
SEEDS = st.integers(0, 2**31)


def values(seed, *shape, kind="normal"):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator)
    return {"normal": x, "relu": x.relu(), "tailed": x**3, "shifted": x + 4}[kind]


def seen(*batches):
    statistics = Statistics()
    for batch in batches:
        statistics.update(batch)
    return statistics


def test_statistics_do_not_depend_on_the_order_in_memory():
    x = values(0, 4, 8, 5, 6)
    one = seen(x)
    for other in (x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT):
        found = seen(other)
        assert found.extremes == one.extremes
        assert found.counts.equal(one.counts)
        assert torch.allclose(found.mean, one.mean)
    assert int(one.counts.sum()) == x.numel()


def rounding_error(x, low, high, bits):
    scheme = Scheme(bits, symmetric=False, signed=False)
    quantizer = from_range(torch.tensor([low]), torch.tensor([high]), scheme)
    return float((quantizer.fake_quantize(x) - x).square().mean(dtype=torch.float64))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@given(seed=SEEDS, batches=st.integers(1, 6))
@settings(max_examples=25)
def test_moving_average_equals_torch(seed, batches):
    theirs = torch_observers.MovingAverageMinMaxObserver(averaging_constant=0.01)
    xs = values(seed, batches, 500)
    for x in xs:
        theirs(x)
    low, high = moving_average(seen(*xs), 8)
    assert torch.tensor([low, high]).equal(torch.stack([theirs.min_val, theirs.max_val]))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["normal", "relu", "tailed", "shifted"])
def test_mse_is_at_least_as_good_as_torchs_histogram_observer(kind):
    x = values(0, 50_000, kind=kind)
    theirs = torch_observers.HistogramObserver(dtype=torch.quint8)
    theirs(x)
    scale, zero = theirs.calculate_qparams()
    low, high = float(-zero * scale), float((255 - zero) * scale)
    ours = rounding_error(x, *OBSERVERS["mse"](seen(x), 8), 8)
    assert ours <= 1.01 * rounding_error(x, low, high, 8)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("kind", ["normal", "relu", "tailed", "shifted"])
def test_mse_is_as_good_as_trying_every_range(kind, bits):
    x = values(1, 5000, kind=kind)
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    tried = [
        rounding_error(x, low * a, high * b, bits)
        for a in (torch.linspace(0.04, 1, 40) if low else torch.ones(1)).tolist()
        for b in torch.linspace(0.04, 1, 40).tolist()
    ]
    assert rounding_error(x, *OBSERVERS["mse"](seen(x), bits), bits) <= 1.05 * min(tried)


@given(seed=SEEDS, share=st.sampled_from([0.99, 0.999, 0.9999]))
@settings(max_examples=25)
def test_percentile_is_the_quantile_to_a_bin(seed, share):
    x = values(seed, 20_000)
    statistics = seen(x)
    low, high = percentile(statistics, 8, share)
    width = statistics.limit / 4096
    ordered = x.sort().values
    count = math.ceil(share * len(x))
    assert abs(high - float(ordered[count - 1])) <= 2 * width
    assert abs(low - float(ordered[len(x) - count])) <= 2 * width


def divergence(x, high, bits, bins=4096):
    """Migacz's divergence for values from 0 to `high`, written out with loops."""
    width = 2.0 ** math.ceil(math.log2(float(x.max()))) / bins
    histogram = np.bincount((x[x > 0] / width).int().numpy())
    centers = (np.arange(len(histogram)) + 0.5) * width
    present = histogram > 0
    histogram, centers = histogram[present], centers[present]
    step = high / (2**bits - 1)
    kept = centers <= high + step / 2
    levels = np.clip(np.rint(centers[kept] / step), 0, 2**bits - 1)
    p = histogram[kept].astype(float)
    q = np.array([p[levels == level].mean() for level in levels])
    p[-1] += histogram[~kept].sum()
    return scipy.stats.entropy(p, q)


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_entropy_is_as_good_as_trying_every_range(bits):
    x = torch.cat([values(0, 20_000, kind="relu"), torch.full((3,), 30.0)])
    low, high = OBSERVERS["entropy"](seen(x), bits)
    best = min(divergence(x, h, bits) for h in torch.linspace(0.5, 30, 60).tolist())
    assert low == 0
    assert high < 15, "the rare large values are clipped"
    assert divergence(x, high, bits) <= 1.02 * best


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("value", [0.0, 3.0, -1e-3])
def test_a_constant_is_kept(observer, bits, value):
    low, high = OBSERVERS[observer](seen(torch.full((10, 4), value)), bits)
    assert rounding_error(torch.full((4,), value), low, high, bits) <= max((0.01 * value) ** 2, 0)


@pytest.mark.parametrize("observer", OBSERVERS)
def test_ranges_do_not_depend_on_how_batches_are_cut(observer):
    x = values(3, 600, 7)
    if observer != "moving_average":
        one, other = (OBSERVERS[observer](seen(*x.split(n)), 8) for n in (600, 50))
        assert one == other


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_activations_that_are_not_finite_name_their_layer(value):
    x = torch.ones(2, 4)
    x[1, 2] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        seen(x)
    folded = fold(
        trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(2, 4))
    )
    with pytest.raises(DataError, match="read by layer '0' is NaN or infinite"):
        observe(folded, [x])
    with pytest.raises(DataError, match="no calibration inputs"):
        observe(folded, [])
    with pytest.raises(InputError, match="no observer 'median'; use min_max"):
        Simulator(folded, observe(folded, [torch.ones(2, 4)]), "median")


def sweep(weight, scheme, steps=400):
    """Return each row's least squared error over many scales, and the quantiser that has it."""
    rows = to_rows(weight, scheme)
    scales = torch.linspace(0.02, 1, steps)[:, None] * rows.abs().amax(1) / scheme.high
    errors = []
    for scale in scales:
        s = from_scale(scale, scheme).scale[:, None]
        rounded = (rows / s).round().clamp(scheme.low, scheme.high) * s
        errors.append((rounded - rows).square().sum(1))
    return torch.stack(errors).amin(0)


def errors(weight, scheme):
    rows = to_rows(weight, scheme)
    rounded = to_rows(symmetric_mse(weight, scheme).fake_quantize(weight), scheme)
    return (rounded - rows).square().sum(1)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", ["normal", "tailed"])
def test_weight_scales_are_as_good_as_trying_hundreds(bits, kind):
    weight = values(bits, 24, 150, kind=kind)
    scheme = Scheme(bits, symmetric=True, signed=True, axis=0)
    ours, best = errors(weight, scheme), sweep(weight, scheme)
    assert ours.sum() <= 1.03 * best.sum()
    assert (ours <= 1.2 * best).all()


@pytest.mark.parametrize("axis", [None, 0])
def test_weight_scales_do_not_depend_on_threads_or_blocks(axis):
    weight = values(0, 33, 4100)
    scheme = Scheme(4, symmetric=True, signed=True, axis=axis)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = symmetric_mse(weight, scheme).scale
        torch.set_num_threads(2)
        assert torch.equal(symmetric_mse(weight, scheme).scale, alone)
    finally:
        torch.set_num_threads(before)
    if axis == 0:
        rows = [symmetric_mse(weight[i : i + 1], scheme).scale for i in range(33)]
        assert torch.equal(torch.cat(rows), alone)


@pytest.mark.parametrize("width", [1, 7, 8, 32, 5003])
def test_the_best_of_some_scales_is_that_of_float64(width):
    rows = values(0, 5, width)
    scales = torch.rand(3, 5) + 0.1
    lows = torch.full_like(scales, -8)
    best = torch.empty(4, 5)
    _core.fit_rows(rows.numpy(), scales.numpy(), lows.numpy(), 15, best.numpy())
    codes = (rows * scales.reciprocal()[..., None]).round().clamp(-8, 7).double()
    exact = rows.double()
    errors = (codes * scales[..., None] - exact).square().sum(-1)
    sums = torch.stack([errors, (codes * exact).sum(-1), codes.square().sum(-1)])
    least, index = errors.min(0)
    chosen = best[0].long()
    assert torch.allclose(errors.gather(0, chosen[None])[0], least, rtol=1e-5, atol=1e-6)
    expected = sums[:, chosen, range(5)]
    assert torch.allclose(best[1:].double(), expected, rtol=1e-5, atol=1e-6)
    assert width == 1 or torch.equal(chosen, index)
    with pytest.raises(InputError, match="do not fit 14 scales"):
        _core.fit_rows(rows.numpy(), scales.view(-1)[:14].numpy(), lows.numpy(), 15, best.numpy())


def test_weight_scales_of_zeros_and_constants():
    weight = torch.zeros(3, 8)
    weight[1], weight[2] = 0.7, -0.7
    scheme = Scheme(4, symmetric=True, signed=True, axis=0)
    quantizer = symmetric_mse(weight, scheme)
    assert quantizer.scale[0] == SMALLEST_SCALE
    assert torch.allclose(quantizer.fake_quantize(weight), weight, atol=1e-6)


@pytest.mark.parametrize("bits", [3, 8])
def test_powers_of_two(bits):
    weight = values(0, 6, 50)
    scheme = Scheme(bits, symmetric=True, signed=True, axis=0, power_of_two=True)
    scale = symmetric_mse(weight, scheme).scale
    assert torch.equal(scale, scale.log2().round().exp2())
    asymmetric = Scheme(bits, symmetric=False, signed=False, power_of_two=True)
    quantizer = from_range(torch.tensor([-1.3]), torch.tensor([2.2]), asymmetric)
    assert float(quantizer.scale) == 2.0 ** math.ceil(math.log2(3.5 / (2**bits - 1)))
    assert torch.equal(quantizer.fake_quantize(torch.zeros(1)), torch.zeros(1))


def test_zero_points_fit_groups_that_are_not_centred():
    torch.manual_seed(0)
    weight = torch.rand(8, 64) + 0.5  # without a zero point, half of the integers are not used
    for bits in (4, 5):
        plain = Scheme(bits, symmetric=True, signed=True, axis=0, group=32, half=True)
        zeros = Scheme(bits, symmetric=False, signed=False, axis=0, group=32, half=True)
        one, other = weight_mse(weight, plain), weight_mse(weight, zeros)
        assert torch.equal(other.scale, other.scale.half().float())
        assert (other.fake_quantize(weight) - weight).square().sum() < (
            one.fake_quantize(weight) - weight
        ).square().sum()
        codes = other.quantize(weight)
        assert codes.min() >= 0
        assert codes.max() < 2**bits
        assert torch.equal(other.dequantize(codes), other.fake_quantize(weight))


def test_no_range_of_a_group_is_worse_than_the_whole_one():
    torch.manual_seed(1)
    weight = torch.randn(64, 128)
    scheme = Scheme(4, symmetric=False, signed=False, axis=0, group=32, half=True)
    rows = to_rows(weight, scheme)
    whole = from_range(rows.amin(1), rows.amax(1), scheme)
    found = weight_mse(weight, scheme)
    error = lambda q: to_rows(q.fake_quantize(weight) - weight, scheme).square().sum(1)  # noqa: E731
    assert (error(found) <= error(whole) * (1 + 1e-6)).all()
    assert error(found).sum() < 0.97 * error(whole).sum()


def test_what_is_observed_stays_as_it_was():
    x = torch.randn(1, 3, 4, dtype=torch.float64)
    before, statistics = x.clone(), Statistics()
    for _ in range(3):
        statistics.update(x)
    assert torch.equal(x, before)
    assert torch.allclose(statistics.mean, x.float())


def test_a_mean_by_feature_is_the_mean_over_all_positions():
    torch.manual_seed(0)
    batches = [torch.randn(2, 5, 3), torch.randn(1, 7, 3)]
    statistics = Statistics(by_feature=True)
    for x in batches:
        statistics.update(x)
    exact = torch.cat([x.reshape(-1, 3) for x in batches]).double().mean(0)
    assert statistics.mean.shape == (1, 3)
    assert torch.allclose(statistics.mean[0].double(), exact, atol=1e-6)
