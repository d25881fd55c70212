"""What a runtime computes is compared with the graph that it was given before anyone gets it."""

import math

import pytest
import torch
from compared import away, formats, mlp
from torch import nn

from aiq import runtimes
from aiq.errors import InputError, RuntimeUnavailableError, VerificationError
from aiq.runtimes.door import door
from aiq.runtimes.eager import Eager
from aiq.runtimes.verification import ExpectedOutputs


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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
