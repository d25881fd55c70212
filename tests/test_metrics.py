"""Metrics against their definitions, and every shape of outputs and targets."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from aiq.errors import DataError, InputError
from aiq.evaluate import Evaluator, metrics
from aiq.formats import parse


class Tokens(nn.Module):
    """A tiny language model: (batch, length) of tokens to (batch, length, vocabulary)."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.hidden = nn.Linear(8, 16)
        self.head = nn.Linear(16, 11)

    def forward(self, x):
        return self.head(self.hidden(self.embedding(x)).relu())


@pytest.fixture(scope="module")
def tokens():
    torch.manual_seed(0)
    return Tokens().eval()


@pytest.fixture(scope="module")
def text():
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(11, (20, 6), generator=generator)
    y = x.roll(-1, 1)
    y[:, -1] = metrics.IGNORED
    return x, y


@torch.no_grad()
def test_perplexity_is_the_mean_log_likelihood(tokens, text):
    x, y = text
    evaluator = Evaluator(tokens, [text], metric="perplexity")
    logits = tokens(x)
    expected = float(cross_entropy(logits[:, :-1].flatten(0, 1), y[:, :-1].flatten()))
    assert evaluator.baseline.accuracy == pytest.approx(-expected, rel=1e-5)
    assert evaluator.baseline.cross_entropy == pytest.approx(expected, rel=1e-5)
    found = evaluator.evaluate({"head": parse("w2")})
    rounded = evaluator.runner.simulator.run(x, {"head": parse("w2")})
    loss = float(cross_entropy(rounded[:, :-1].flatten(0, 1), y[:, :-1].flatten()))
    assert found.drop == pytest.approx(loss - expected, rel=1e-4)
    ratio = math.exp(loss) / math.exp(expected)
    assert math.exp(found.drop) == pytest.approx(ratio, rel=1e-4), "of perplexities"


@torch.no_grad()
def test_top1_of_sequences_counts_positions(tokens, text):
    x, y = text
    evaluator = Evaluator(tokens, [text])
    counted = y != metrics.IGNORED
    right = (tokens(x).argmax(2) == y)[counted]
    assert evaluator.baseline.accuracy == pytest.approx(float(right.double().mean()))


@torch.no_grad()
def test_cosine_needs_no_targets(tokens, text):
    x, _ = text
    evaluator = Evaluator(tokens, [x], metric="cosine")
    assert evaluator.baseline.accuracy == pytest.approx(1)
    found = evaluator.evaluate({"head": parse("w2a2")})
    rounded = evaluator.runner.simulator.run(x, {"head": parse("w2a2")})
    expected = cosine_similarity(rounded.flatten(1), tokens(x).flatten(1))
    assert found.scores == pytest.approx(expected.numpy(), abs=1e-5)
    assert math.isnan(found.cross_entropy)


@torch.no_grad()
def test_own_metric_sees_outputs_and_targets():
    torch.manual_seed(0)
    model = nn.Linear(3, 2).eval()
    x, y = torch.randn(20, 3), torch.randn(20, 2)

    def negative_error(outputs, targets):
        return -(outputs - targets).square().sum(1)

    evaluator = Evaluator(model, [(x, y)], metric=negative_error)
    expected = -(model(x) - y).square().sum(1)
    assert evaluator.baseline.scores == pytest.approx(expected.double().numpy(), abs=1e-5)
    rounded = (
        evaluator.runner.simulator.run(x, {"": parse("w2")}) if "" in evaluator.layers else None
    )
    assert rounded is None or rounded.shape == (20, 2)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda outputs, targets: 0.5, r"shape \(\) for 8 samples"),
        (lambda outputs, targets: torch.ones(3), r"shape \(3,\) for 8 samples"),
        (lambda outputs, targets: torch.full((8,), torch.nan), "one finite number"),
    ],
)
def test_bad_own_metrics(metric, message):
    with pytest.raises(InputError, match=message):
        Evaluator(nn.Linear(3, 2), [(torch.randn(8, 3), torch.zeros(8))], metric=metric)


def test_images_have_classes_second():
    logits = torch.zeros(2, 5, 4, 4)
    assert metrics.class_axis(logits, torch.zeros(2, 4, 4, dtype=torch.int64)) == 1
    assert metrics.class_axis(torch.zeros(2, 6, 5), torch.zeros(2, 6, dtype=torch.int64)) == 2
    assert metrics.class_axis(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64)) == 1
    assert metrics.class_axis(torch.zeros(2, 5), torch.zeros(2)) is None


@torch.no_grad()
def test_segmentation():
    torch.manual_seed(0)
    model = nn.Conv2d(2, 4, 1).eval()
    x = torch.randn(6, 2, 5, 5)
    y = torch.randint(4, (6, 5, 5))
    y[:, 0] = metrics.IGNORED
    evaluator = Evaluator(model, [(x, y)])
    right = (model(x).argmax(1) == y)[y != metrics.IGNORED]
    assert evaluator.baseline.accuracy == pytest.approx(float(right.double().mean()))


def test_no_tensor_is_no_output():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(x).argmax(1)

    with pytest.raises(DataError, match="without a floating-point tensor"):
        Evaluator(Words(), [(torch.randn(4, 3), torch.zeros(4, dtype=torch.int64))])


def test_scores_are_finite_numbers(tokens, text):
    found = Evaluator(tokens, [text], metric="perplexity").evaluate({"head": parse("w2a2")})
    assert np.isfinite(found.scores).all()


def test_logarithms_of_a_large_vocabulary_take_little_memory():
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor) and found.dtype == torch.float64:
                largest = max(largest, found.numel())
            return found

    logits, targets = torch.randn(2, 3, 2**15), torch.zeros(2, 3, dtype=torch.int64)
    exact, _ = metrics.evaluate("perplexity", logits, targets, None)
    with Sizes():
        found, _ = metrics.evaluate("perplexity", logits, targets, None)
    assert torch.equal(found.score, exact.score)
    assert largest <= metrics.PIECE
