"""The evaluator against the plain model, and against itself by other ways."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from aiq.errors import InputError
from aiq.evaluate import Evaluator
from aiq.formats import parse, parse_all

FORMATS = parse_all("fp32,bf16,w8,w4,w2,w8a8,w4a4,w2a2")


class Net(nn.Module):
    """Three convolutions, one of them a shortcut, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.shortcut = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        y = self.norm(self.conv1(x)).relu()
        y = (self.conv2(y) + self.shortcut(y)).relu()
        return self.fc(y.mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = Net()
    model(torch.randn(64, 3, 8, 8))  # statistics
    return model.eval()


def batches(sizes, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, 3, 8, 8, generator=generator), torch.randint(5, (n,), generator=generator))
        for n in sizes
    ]


@pytest.fixture(scope="module")
def data():
    return batches([40, 17, 40, 3])


@pytest.fixture(scope="module")
def evaluator(net, data):
    return Evaluator(net, data)


def small_chunks(net, data, **options):
    """Evaluate in many chunks: as if memory were short."""
    evaluator = Evaluator(net, data, memory=100_000, **options)
    assert len(evaluator._chunks) > 3
    return evaluator


PLANS = [
    {},
    {"fc": parse("w2")},
    {"conv1": parse("w4a4")},
    {"conv2": parse("w8a8"), "shortcut": parse("w2a2")},
    dict.fromkeys(("conv1", "conv2", "shortcut", "fc"), parse("w4a4")),
]


def test_layers_are_evaluated_in_the_bits_that_kernels_have(net, data):
    held = Evaluator(net, data, weight_bits=4)
    for asked, done in (("w8a8", "w4a8"), ("w3a8", "w3a8"), ("w8", "w8"), ("bf16", "bf16")):
        found, exact = (
            evaluator.evaluate({"conv1": parse(name), "fc": parse(name)})
            for evaluator, name in ((held, asked), (Evaluator(net, data), done))
        )
        assert np.array_equal(found.divergence, exact.divergence)
    assert held.evaluate({"fc": parse("w8a8")}).divergence.max() > 0


@torch.no_grad()
def test_without_formats_it_is_the_model(net, data, evaluator):
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    logits = net(x)
    right = (logits.argmax(1) == y).numpy()
    assert np.array_equal(evaluator.baseline.scores == 1, right), "in the order of the data"
    assert evaluator.baseline.accuracy == right.mean()
    assert evaluator.baseline.cross_entropy == pytest.approx(float(cross_entropy(logits, y)))
    assert evaluator.baseline.kl == evaluator.baseline.drop == 0
    again = evaluator.evaluate({})
    assert np.array_equal(again.scores, evaluator.baseline.scores)


@torch.no_grad()
def test_divergence_is_kullback_leibler(net, data, evaluator):
    plan = {"conv1": parse("w2a2")}
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    p = net(x).double().log_softmax(1)
    logits = evaluator.runner.simulator.run(x, plan)
    q = logits.double().log_softmax(1)
    expected = kl_div(q, p, reduction="none", log_target=True).sum(1)
    found = evaluator.evaluate(plan)
    assert found.divergence == pytest.approx(expected.numpy(), abs=1e-6)
    assert found.kl == pytest.approx(float(expected.mean()), rel=1e-4)
    assert found.kl_error == pytest.approx(float(expected.std(correction=0)) / 10, rel=1e-4)
    assert found.drop == pytest.approx(
        evaluator.baseline.accuracy - float((logits.argmax(1) == y).float().mean())
    )


def same(one, other):
    return np.array_equal(one.scores, other.scores) and np.array_equal(
        one.divergence, other.divergence
    )


def test_reuse_changes_nothing(net, data):
    fresh = [small_chunks(net, data).evaluate(plan) for plan in PLANS]
    reused = small_chunks(net, data)
    assert all(same(reused.evaluate(plan), f) for plan, f in zip(PLANS, fresh, strict=True))
    together = small_chunks(net, data).evaluate_many(PLANS + PLANS[::-1])
    assert all(same(a, b) for a, b in zip(together, fresh + fresh[::-1], strict=True))
    starved = Evaluator(net, data, memory=1)
    assert starved.evaluate(PLANS[-1]).kl == pytest.approx(fresh[-1].kl, rel=1e-4)


@settings(max_examples=30)
@given(names=st.lists(st.tuples(*[st.sampled_from(FORMATS)] * 4), min_size=1, max_size=6))
def test_any_order_of_plans(evaluator, names):
    plans = [dict(zip(evaluator.layers, name, strict=True)) for name in names]
    one_by_one = [evaluator.evaluate(plan) for plan in plans]
    assert all(same(a, b) for a, b in zip(one_by_one, evaluator.evaluate_many(plans), strict=True))


def test_memory_is_bounded(net, data):
    evaluator = small_chunks(net, data)
    evaluator.evaluate(PLANS[-1])
    kept = evaluator._workers._paths.values()
    assert 0 < sum(path.bytes for path in kept) == evaluator._workers._kept <= 100_000


def test_batches_of_any_size_give_the_same(net, data):
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    one = Evaluator(net, [(x, y)]).evaluate(PLANS[-1])
    many = Evaluator(net, zip(x.split(7), y.split(7), strict=True)).evaluate(PLANS[-1])
    assert same(one, many)


def test_sorted_data_is_mixed_before_a_part_of_it_is_trusted(net):
    x, y = batches([100])[0]
    order = y.argsort()
    evaluator = small_chunks(net, [(x[order], y[order])])
    assert all(len(chunk.targets.unique()) > 1 for chunk in evaluator._chunks)


def test_training_mode_is_left_as_it_was(net, data):
    net.train()
    try:
        evaluator = Evaluator(net, data)
        assert net.training
    finally:
        net.eval()
    assert same(evaluator.baseline, Evaluator(net, data).baseline)


def test_enough_stops_early(net, data):
    evaluator = small_chunks(net, data)
    seen = []

    def enough(evaluation):
        seen.append(evaluation.samples)
        return evaluation.samples >= 20

    part = evaluator.evaluate(PLANS[-1], enough)
    assert part.samples == seen[-1] < 100
    assert len(part.baseline) == part.samples
    full = small_chunks(net, data).evaluate(PLANS[-1])
    assert set(part.divergence) < set(full.divergence)
    many = evaluator.evaluate_many([PLANS[1], PLANS[-1]], enough)
    assert same(many[1], part)


def test_progress_ends_where_it_says(net, data):
    calls = []
    evaluator = Evaluator(net, data, memory=100_000, progress=lambda *call: calls.append(call))
    assert (calls[0][0], calls[-1][0]) == ("observe activations", "evaluate")
    calls.clear()
    evaluator.evaluate_many(PLANS, enough=lambda evaluation: evaluation.samples > 30)
    assert calls[-1][1] == calls[-1][2]
    assert all(stage == "evaluate" and 0 < done <= total for stage, done, total in calls)


def test_work_is_counted(net, data):
    evaluator = Evaluator(net, data)
    assert evaluator.evaluations == 1
    evaluator.evaluate_many(PLANS)
    assert evaluator.evaluations == 1 + len(PLANS)


def test_a_network_of_one_batch_size_is_filled_up():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x):
            return self.fc(x.reshape(4, 6))

    torch.manual_seed(0)
    model = Fixed().eval()
    x, y = torch.randn(10, 6), torch.randint(3, (10,))
    from aiq.graph import trace  # noqa: PLC0415

    traced = trace(model, x[:4])
    assert not traced.dynamic_batch
    evaluator = Evaluator(traced, [(x, y)])
    expected = model.fc(x).argmax(1) == y
    assert np.array_equal(evaluator.baseline.scores == 1, expected.numpy())
    assert evaluator.evaluate({"fc": parse("w8a8")}).samples == 10


def test_inputs_may_be_tuples_and_dicts():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, left, right):
            return {"logits": self.fc(left - right), "right": right}

    torch.manual_seed(0)
    model = Pair().eval()
    a, b, y = torch.randn(20, 6), torch.randn(20, 6), torch.randint(3, (20,))
    expected = (model.fc(a - b).argmax(1) == y).numpy()
    for inputs in ((a, b), {"right": b, "left": a}):
        evaluator = Evaluator(model, [(inputs, y)])
        assert np.array_equal(evaluator.baseline.scores == 1, expected)


def test_unknown_layer_and_metric_and_observer(net, evaluator):
    with pytest.raises(InputError, match="no convolution or linear layer 'conv9'"):
        evaluator.evaluate({"conv9": parse("w8")})
    with pytest.raises(InputError, match="no metric 'f1'; use top1, perplexity, cosine"):
        Evaluator(net, batches([8]), metric="f1")
    with pytest.raises(InputError, match="no observer 'max'; use min_max"):
        Evaluator(net, batches([8]), observer="max")


# Networks that are not a plain chain


class Tied(nn.Module):
    """Two layers of one weight, and a layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.twice = nn.Linear(6, 6, bias=False)
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        x = self.second(self.first(x).relu()).relu()
        return self.out(self.twice(self.twice(x).relu()).relu())


@torch.no_grad()
def test_tied_weights_and_a_layer_called_twice():
    """Every call has a format of its own; one rounds its weight, another does not."""
    torch.manual_seed(0)
    model = Tied().eval()
    x, y = torch.randn(60, 6), torch.randint(3, (60,))
    evaluator = Evaluator(model, [(x, y)])
    assert evaluator.layers == ("first", "second", "twice", "twice#2", "out")
    logits = model(x)
    assert np.array_equal(evaluator.baseline.scores == 1, (logits.argmax(1) == y).numpy())
    simulator = evaluator.runner.simulator

    def expected(**rounded):
        w = {
            name: simulator.weight(name, parse("w2").weight)
            if name in rounded.get("w2", ())
            else model.get_parameter(f"{name.partition('#')[0]}.weight")
            for name in evaluator.layers[:-1]
        }
        h = x
        for name in evaluator.layers[:-1]:
            h = (h @ w[name].T).relu()
        return model.out(h)

    for names in (["first"], ["second"], ["twice#2"], ["first", "twice"]):
        plan = dict.fromkeys(names, parse("w2"))
        found = simulator.run(x, plan)
        assert torch.allclose(found, expected(w2=names), atol=1e-5)
        divergence = evaluator.evaluate(plan).divergence
        assert divergence.max() > 0
    assert torch.equal(
        simulator.weight("first", parse("w2").weight),
        simulator.weight("second", parse("w2").weight),
    )


@torch.no_grad()
def test_constant_channels_and_weights_of_zero():
    torch.manual_seed(0)
    model = Net()
    model(torch.randn(64, 3, 8, 8))
    model.eval()
    model.conv2.weight.zero_()
    model.conv1.weight[3] = 0
    evaluator = Evaluator(model, batches([50]))
    found = evaluator.evaluate(dict.fromkeys(evaluator.layers, parse("w2a2")))
    assert np.isfinite(found.divergence).all()
    assert evaluator.evaluate({"conv2": parse("w2")}).kl == 0, "zero is exact in every format"


def test_inputs_come_in_random_order_and_chunks(net, data):
    evaluator = small_chunks(net, data)
    some = evaluator.inputs(40)
    assert 1 < len(some) < evaluator.chunks
    assert 20 <= sum(map(len, some)) <= 60
    assert len(torch.cat(evaluator.inputs(10**6))) == 100


def test_groups_and_channels_are_told_apart(net, data, tmp_path):
    """Formats of the same width are different records in the journal."""
    wide = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval()
    for _ in range(2):
        evaluator = Evaluator(wide, data, cache=tmp_path)
        channel, group = (evaluator.evaluate({"1": parse(f)}).kl for f in ("w3", "w3g32"))
        assert channel != group
        assert group == Evaluator(wide, data).evaluate({"1": parse("w3g32")}).kl
