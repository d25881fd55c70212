"""What a runtime computes is compared with the graph that it was given before anyone gets it."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import aiq
from aiq import runtimes
from aiq.errors import InputError, RuntimeUnavailableError, VerificationError
from aiq.formats import parse
from aiq.runtimes.door import door
from aiq.runtimes.eager import Eager
from aiq.runtimes.verification import ExpectedOutputs


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def formats(model, x, name):
    return {layer.name: parse(name) for layer in aiq.extract(model, x).quantizable}


def mlp(*sizes, bias=False, activation=nn.ReLU):
    layers = [nn.Linear(a, b, bias=bias) for a, b in pairwise(sizes)]
    parts = [part for layer in layers for part in (layer, activation())]
    return nn.Sequential(*parts[:-1]).eval()


def away(found, expected):
    return float((found - expected).norm() / expected.norm())


class Broken(Eager):
    """A runtime that spoils its results."""

    name = "broken"

    def __init__(self, spoil):
        self.spoil = spoil

    def _build(self, job):
        function, kernels = super()._build(job)
        return lambda *inputs: [self.spoil(y) for y in function(*inputs)], kernels


@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: 1e10 * y,
        lambda y: y.flip(0),
        torch.zeros_like,
        lambda y: 1.01 * y,
        lambda y: torch.where(y == y.max(), math.nan, y),
        lambda y: torch.where(y == y.max(), math.inf, y),
        lambda y: y[:, :1],
    ],
)
def test_a_wrong_program_is_not_handed_out(spoil):
    model, x = mlp(8, 16, 4), torch.randn(4, 8)
    with pytest.raises(VerificationError, match=r"broken made \(2 layers in fp32\).*another runt"):
        Broken(spoil).compile(model, x, {})


def test_the_error_names_both_numbers():
    model, x = mlp(8, 16, 4), torch.randn(4, 8)
    with pytest.raises(VerificationError, match=r"is 9 of its size away .* explains 0\.0"):
        Broken(lambda y: 10 * y).compile(model, x, {})


class Logistic(nn.Module):
    """Doubles an error in every step; `factored` rounds in another order."""

    def __init__(self, factored, steps):
        super().__init__()
        self.factored, self.steps = factored, steps

    def forward(self, x):
        for _ in range(self.steps):
            x = 3.9 * x * (1 - x) if self.factored else 3.9 * x - 3.9 * x * x
        return x


def reference(model, x):
    graph = torch.export.export(model, (x,)).module(check_guards=False)
    return ExpectedOutputs("chaos", {}, frozenset(), (x,), graph, graph)


def test_a_network_that_amplifies_rounding_errors_may_differ_by_what_it_makes_of_them():
    x = torch.rand(64)
    one, other = (Logistic(factored, 24) for factored in (True, False))
    assert away(other(x), one(x)) > 2**-9
    reference(one, x).check(lambda x: [other(x)])
    with pytest.raises(VerificationError):
        reference(one, x).check(lambda x: [100 * other(x)])


@pytest.mark.parametrize("offset", [0.0, -0.5, 3.0])
def test_no_network_is_so_chaotic_that_it_excuses_random_answers(offset):
    class Moved(Logistic):
        def forward(self, x):
            return super().forward(x) + offset

    x = torch.rand(4, 64)
    model = Moved(True, 80)
    right = model(x)
    for answer in (model(1 - 0.7 * x), right.flip(0), right.mean().expand_as(right)):
        with pytest.raises(VerificationError, match="explains"):
            reference(model, x).check(lambda _, answer=answer: [answer])


def test_the_mean_of_few_values_is_no_measure():
    class Mean(nn.Module):
        def forward(self, x):
            return torch.sin(1e5 * x).mean((1, 2), keepdim=True)

    x = torch.rand(1, 16, 16)
    right = Mean()(x)
    reference(Mean(), x).check(lambda x: [1.2 * right])
    with pytest.raises(VerificationError):
        reference(Mean(), x).check(lambda x: [right * 4])


class Edges(nn.Module):
    """Returns values that are not finite, a difference that cancels, and indices."""

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        return x.masked_fill(x < 0, -math.inf), x - mean - (x - mean), x.argmax(1), x.log()


def test_values_that_are_not_finite_cancelled_differences_and_indices():
    model, x = Edges(), torch.randn(4, 8)
    judge = reference(model, x)
    judge.check(model)
    masked, zero, index, logs = model(x)
    judge.check(lambda x: [masked, zero + 1e-7, index, logs])
    one_flip = index.clone()
    one_flip[0] = (one_flip[0] + 1) % 8
    judge.check(lambda x: [masked, zero, one_flip, logs])
    for wrong in (
        [masked.nan_to_num(), zero, index, logs],
        [-masked, zero, index, logs],
        [masked, zero + 1e-2, index, logs],
        [masked, zero, (index + 1) % 8, logs],
        [masked, zero, index, logs.nan_to_num()],
    ):
        with pytest.raises(VerificationError):
            judge.check(lambda x, wrong=wrong: wrong)


class Overflow(nn.Module):
    """Returns what rounding makes infinite, and an ordinary result."""

    def forward(self, x):
        largest = torch.full_like(x, torch.finfo(torch.float32).max)
        return x * 0 + largest, x + 1


def test_a_result_that_rounding_makes_infinite_hides_no_wrong_one():
    model, x = Overflow(), torch.randn(4, 8)
    judge = reference(model, x)
    first, second = model(x)
    judge.check(lambda x: [first * 2, second])
    with pytest.raises(VerificationError):
        judge.check(lambda x: [first * 2, 2 * second])


class Masked(nn.Module):
    """Reads an additive mask, whose values are far larger than the result."""

    def __init__(self):
        super().__init__()
        self.scores = nn.Linear(8, 8)

    def forward(self, x, mask):
        return (self.scores(x) + mask).softmax(-1) * 1e-6


@pytest.mark.parametrize("least", [-1e9, torch.finfo(torch.float32).min])
def test_large_inputs_excuse_no_small_result(least):
    model, x = Masked().eval(), torch.randn(4, 8)
    mask = torch.where(torch.eye(4, 8) > 0, least, 0.0)
    with pytest.raises(VerificationError, match=r"1 layers in fp32.* is wrong"):
        Broken(lambda y: 1.5 * y).compile(model, (x, mask), {})


@pytest.mark.parametrize("scale", [1e-3, 1e-7, 1e-11])
def test_results_much_smaller_than_the_inputs_are_compared_too(scale):
    model, x = mlp(8, 16, 4), torch.randn(4, 8)
    with torch.no_grad():
        model[0].weight.mul_(scale)
        model[2].weight.mul_(scale)
    with pytest.raises(VerificationError):
        Broken(lambda y: y.flip(0)).compile(model, x, {})


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Identity, lambda: nn.Softmax(-1)])
@pytest.mark.parametrize(("rows", "sizes"), [(1, (48, 32, 16)), (4, (64, 64, 64, 4))])
def test_small_products_in_openvino(rows, sizes, activation, tmp_path):
    openvino = pytest.importorskip("openvino")
    model, x = mlp(*sizes, activation=activation), torch.randn(rows, sizes[0])
    chosen = formats(model, x, "w8a8")
    engine = runtimes.get("openvino")
    program = engine.compile(model, x, chosen, [x])
    expected = model(x).detach()
    assert away(program(x), expected) < 0.05
    assert program.mismatches == ()
    engine.export(model, tmp_path / "m.xml", x, chosen, [x])
    alone = openvino.Core().compile_model(tmp_path / "m.xml", "CPU")
    assert away(torch.from_numpy(alone([x.numpy()])[0]), expected) < 0.05


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("inductor", lambda: nn.Conv2d(4, 8, 3, padding="valid", stride=2)),
        ("inductor", lambda: nn.Conv2d(4, 8, (3, 5), padding="same", dilation=(2, 1))),
        ("inductor", lambda: nn.Conv1d(12, 8, 3, padding="valid")),
        ("inductor", lambda: nn.Conv1d(12, 8, 4, padding="same", dilation=3)),
        ("inductor", lambda: nn.Conv2d(4, 8, (4, 3), padding="same")),
        ("openvino", lambda: nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular")),
        ("openvino", lambda: nn.Conv2d(4, 8, 3, padding=(2, 1), padding_mode="circular")),
        ("openvino", lambda: nn.Conv1d(12, 8, 4, padding="same", padding_mode="circular")),
    ],
)
def test_paddings_that_a_compiler_lacks(name, model):
    if name not in runtimes.available():
        pytest.skip(f"{name} is not installed")
    net = nn.Sequential(model(), nn.ReLU()).eval()
    x = torch.randn(2, 4, 12, 12) if isinstance(net[0], nn.Conv2d) else torch.randn(2, 12, 12)
    program = runtimes.get(name).compile(net, x, formats(net, x, "w8a8"), [x])
    assert away(program(x), net(x).detach()) < 0.05


POOLINGS = [
    (32, nn.MaxPool2d(3, 2, ceil_mode=True)),
    (33, nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)),
    (33, nn.MaxPool2d(2, ceil_mode=True)),
    (34, nn.MaxPool2d((3, 5), (2, 3), padding=(1, 2), dilation=(2, 1), ceil_mode=True)),
    (12, nn.MaxPool2d(1, 5, ceil_mode=True)),
    (12, nn.MaxPool2d(2, 5, ceil_mode=True)),
    (12, nn.AvgPool2d(1, 5, ceil_mode=True)),
    (13, nn.AvgPool2d(2, 5, padding=1, ceil_mode=True)),
    (14, nn.AvgPool2d((3, 2), 2, ceil_mode=True, count_include_pad=False)),
    (14, nn.AvgPool2d(3, 2, padding=1, ceil_mode=True)),
    (14, nn.AvgPool2d((2, 3), (3, 2), padding=(1, 0), ceil_mode=True, count_include_pad=False)),
    (13, nn.AvgPool2d(2, 2, divisor_override=3)),
    (13, nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, divisor_override=5)),
]
"""Width of an image, and a pooling whose last window goes over its edge."""


class Side(nn.ModuleList):
    """Networks that have nothing in common, side by side in one program."""

    def forward(self, *inputs):
        return tuple(network(x) for network, x in zip(self, inputs, strict=True))


@pytest.mark.parametrize("name", ["inductor", "onnxruntime", "openvino"])
def test_poolings_whose_last_window_is_not_full(name):
    if name not in runtimes.available():
        pytest.skip(f"{name} is not installed")
    net = Side(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(8, 8, 1))
        for _, pool in POOLINGS
    ).eval()
    x = tuple(torch.randn(2, 3, size, size) for size, _ in POOLINGS)
    program = runtimes.get(name).compile(net, x, formats(net, x, "w8a8"), [x])
    for (_, pool), found, expected in zip(POOLINGS, program(*x), net(*x), strict=True):
        assert away(found, expected.detach()) < 0.05, pool


class Joined(nn.Module):
    """Pools what two layers wrote side by side, as GoogLeNet does."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(16, 4, 1),
        )

    def forward(self, x):
        joined = torch.cat([self.a(x).relu(), self.b(x).relu()], 1)
        return self.c(nn.functional.max_pool2d(joined, 3, 2, ceil_mode=True))


def test_a_pooling_of_joined_results_in_inductor():
    net, x = Joined().eval(), torch.randn(2, 3, 14, 14)
    program = runtimes.get("inductor").compile(net, x, formats(net, x, "w8a8"), [x])
    assert away(program(x), net(x).detach()) < 0.05


class Residual(nn.Module):
    """Adds to a layer's result what further layers, with biases of a given size, make of it."""

    def __init__(self, layer, bias):
        super().__init__()
        self.first, self.second, self.third = layer(), layer(), layer()
        for module in (self.first, self.second, self.third):
            nn.init.uniform_(module.bias, -bias, bias)

    def forward(self, x):
        x = self.first(x)
        return x + self.third(nn.functional.hardswish(self.second(x)))


@pytest.mark.parametrize(("scale", "bias"), [(1e-6, 1e-6), (1e-7, 0.0), (1e-9, 1e-9)])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv2d(8, 8, 1), (2, 8, 3, 3)),
        (lambda: nn.Conv1d(8, 8, 3, padding=1, groups=8), (2, 8, 5)),
        (lambda: nn.Linear(8, 8), (4, 8)),
        (lambda: nn.Linear(8, 8), (2, 5, 8)),
    ],
)
def test_sums_of_vanishing_activations_in_openvino(layer, shape, scale, bias):
    pytest.importorskip("openvino")
    model, x = Residual(layer, bias).eval(), scale * torch.randn(shape)
    w8a8 = formats(model, x, "w8a8")
    program = runtimes.get("openvino").compile(model, x, w8a8, [x])
    with torch.no_grad():
        assert away(program(x), model(x)) < 0.05
    assert set(program.realised.values()) == {"w8a8"}


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.c(torch.cond(x.sum() > 0, self.a, self.b, (x,)))


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(100, 16, mode="sum"), nn.Linear(16, 1)

    def forward(self, index):
        return self.head(self.bag(index))


@pytest.mark.parametrize(
    ("model", "x"), [(Branch(), torch.randn(2, 8)), (Bag(), torch.randint(0, 100, (4, 3)))]
)
def test_branches_and_loops_in_onnx_runtime(model, x):
    pytest.importorskip("onnxruntime")
    program = runtimes.get("onnxruntime").compile(model.eval(), x, {})
    assert away(program(x), model(x).detach()) < 1e-5


def foreign():
    try:
        raise KeyError("b")
    except KeyError as error:
        raise RuntimeError("\x1b[96mstep 3\x1b[0m\n failed") from error


def test_exceptions_of_others_become_one_sentence():
    with (
        pytest.raises(
            RuntimeUnavailableError, match=r"^Runtime x cannot y \(KeyError: 'b'\); choo"
        ),
        door("x", "y"),
    ):
        foreign()
    with pytest.raises(InputError, match=r"^as it is$"), door("x", "y"):
        raise InputError("as it is")
    with pytest.raises(KeyboardInterrupt), door("x", "y"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("calibration", [5, torch.zeros(2, 8)])
def test_calibration_that_is_no_list_of_batches(calibration):
    pytest.importorskip("onnxruntime")
    model, x = mlp(8, 16, 4), torch.randn(4, 8)
    with pytest.raises(InputError, match="pass a list of batches"):
        runtimes.get("onnxruntime").compile(model, x, formats(model, x, "w8a8"), calibration)


class PaddedMean(nn.Module):
    """Two readers of an integer convolution, one of them a mean that counts its padding."""

    def __init__(self, dims):
        super().__init__()
        conv = nn.Conv1d if dims == 1 else nn.Conv2d
        pool = nn.AvgPool1d if dims == 1 else nn.AvgPool2d
        self.first, self.pool = conv(8, 8, 3, padding=1), pool(3, 2, 1)
        self.one, self.other = conv(8, 4, 1), conv(8, 4, 1, stride=2)

    def forward(self, x):
        y = self.first(x) + 2  # a range with a zero point
        return self.one(self.pool(y)) + self.other(y)


@pytest.mark.parametrize("dims", [1, 2])
def test_means_over_padded_codes_in_openvino(dims):
    torch.manual_seed(0)
    net, x = PaddedMean(dims).eval(), torch.randn(2, 8, *[16] * dims)
    formats = {"first": parse("w8a8")}
    program = runtimes.get("openvino").compile(net, x, formats, [x])
    with torch.no_grad():
        exact = net(x)
    assert (program(x) - exact).norm() < 0.02 * (exact - exact.mean()).norm()
    assert program.realised["first"] == "w8a8"
