"""Samples that are not in the first dimension, and models that cannot be cut into samples."""

import numpy as np
import pytest
import torch
from torch import nn

import aiq
from aiq.errors import DataError, InputError
from aiq.evaluate import Evaluator, independence
from aiq.formats import parse
from aiq.graph import trace

TIME, BATCH, FEATURES, CLASSES = 7, 5, 6, 4


class Recurrent(nn.Module):
    """Time steps come first, as `nn.LSTM` has it; `last`: one answer for a whole sequence."""

    def __init__(self, *, last=False, batch_first=False):
        super().__init__()
        self.rnn = nn.LSTM(FEATURES, 8, batch_first=batch_first)
        self.fc = nn.Linear(8, CLASSES)
        self.last = last

    def forward(self, x):
        y = self.fc(self.rnn(x)[0])
        return y[-1] if self.last else y


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(FEATURES, 2, 12)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x):
        return self.fc(self.layer(x))


class Contrastive(nn.Module):
    """Logits of each picture against each text of the batch: (batch, batch)."""

    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Linear(FEATURES, 8), nn.Linear(3, 8)

    def forward(self, image, text):
        return self.image(image) @ self.text(text).T


class Centred(nn.Module):
    """Samples are compared with the mean of their batch."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x):
        return self.fc(x - x.mean(0))


class Summed(nn.Module):
    """Time steps add up."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x):
        return self.fc(x).cumsum(0)


class Pairs(nn.Module):
    """Two neighbours in the batch are one pair."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2 * FEATURES, CLASSES)

    def forward(self, x):
        return self.fc(x.reshape(-1, 2 * FEATURES))


class Shared(nn.Module):
    """All samples share the positions."""

    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Embedding(9, FEATURES), nn.Linear(FEATURES, CLASSES)

    def forward(self, x, positions):
        return self.fc((x + self.embed(positions)).relu())


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x):
        return self.fc(x + torch.rand_like(x))


def made(model):
    torch.manual_seed(0)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model.eval()


def sequences(sizes=(BATCH, 3, BATCH)):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(TIME, n, FEATURES, generator=generator) for n in sizes]


@torch.no_grad()
@pytest.mark.parametrize("network", [Recurrent, Attention])
def test_sequence_first_models_are_evaluated_by_sequence(network):
    model = made(network())
    data = [(x, model(x).argmax(-1)) for x in sequences()]
    evaluator = Evaluator(model, data, batch_dim=1)
    assert evaluator.baseline.samples == 13
    assert evaluator.baseline.accuracy == 1.0
    found = evaluator.evaluate({"fc": parse("w2")})
    simulator = evaluator.runner.simulator
    agree = [
        (simulator.run(x, {"fc": parse("w2")}).argmax(-1) == y).double().mean(0) for x, y in data
    ]
    assert found.scores == pytest.approx(torch.cat(agree).numpy())


@torch.no_grad()
def test_one_answer_for_a_sequence_and_targets_that_have_the_batch_first():
    model = made(Recurrent(last=True))
    assert Evaluator(model, [(x, model(x).argmax(-1)) for x in sequences()], batch_dim=1).baseline
    every = made(Recurrent())
    for last, net in ((False, every), (True, model)):
        data = [(x, net(x).argmax(-1) if last else net(x).argmax(-1).T) for x in sequences()]
        evaluator = Evaluator(net, data, batch_dim=1)
        assert (evaluator.baseline.samples, evaluator.baseline.accuracy) == (13, 1.0)


@torch.no_grad()
def test_a_metric_of_ones_own_sees_what_the_model_returns_and_the_targets_as_given():
    model = made(Recurrent())
    data = [(x, model(x).argmax(-1)) for x in sequences()]

    def steps(output, targets):
        assert output.shape[:2] == targets.shape
        assert output.shape[0] == TIME
        return (output.argmax(-1) == targets).double().mean(0)

    assert Evaluator(model, data, batch_dim=1, metric=steps).baseline.accuracy == 1.0


@pytest.mark.parametrize(
    "network",
    [Recurrent, Attention, Centred, Summed, Pairs, lambda: Recurrent(last=True)],
)
def test_a_dimension_that_counts_no_samples_is_refused(network):
    model = made(network())
    x = torch.randn(8, 3, FEATURES) if network not in (Centred, Pairs) else torch.randn(8, FEATURES)
    y = torch.zeros(8, dtype=torch.long) if x.ndim == 2 else torch.zeros(8, 3, dtype=torch.long)
    with pytest.raises(DataError, match=r"pass batch_dim, the dimension that counts samples"):
        Evaluator(model, [(x, y)])


def test_a_wrong_batch_dim_is_refused_too():
    model = made(Recurrent(batch_first=True))
    x, y = torch.randn(BATCH, TIME, FEATURES), torch.zeros(BATCH, TIME, dtype=torch.long)
    assert Evaluator(model, [(x, y)]).baseline.samples == BATCH
    with pytest.raises(DataError, match="Dimension 1 of the inputs does not count samples"):
        Evaluator(model, [(x, y)], batch_dim=1)


@pytest.mark.parametrize("network", [Centred, Pairs, lambda: nn.Linear(FEATURES, CLASSES)])
def test_large_outputs_are_probed_with_fewer_samples(network, monkeypatch):
    sizes, run = [], independence._run

    def counted(program, inputs):
        sizes.append(len(inputs))
        return run(program, inputs)

    monkeypatch.setattr(independence, "_run", counted)
    monkeypatch.setattr(independence, "ELEMENTS", 8)
    x, y = torch.randn(8, FEATURES), torch.zeros(8, dtype=torch.long)
    if network in (Centred, Pairs):
        with pytest.raises(DataError, match="the dimension that counts samples"):
            Evaluator(made(network()), [(x, y)])
        assert max(sizes) == independence.FEW[network is Centred]
    else:
        Evaluator(made(network()), [(x, y)])
        assert sizes == [2, 1, 1]


def test_random_outputs_are_said_to_be_random():
    x, y = torch.randn(8, FEATURES), torch.zeros(8, dtype=torch.long)
    with pytest.raises(DataError, match="output is random"):
        Evaluator(made(Noisy()), [(x, y)])


@torch.no_grad()
def test_models_that_compare_samples_are_evaluated_by_whole_batches():
    model = made(Contrastive())
    data = [((torch.randn(6, FEATURES), torch.randn(6, 3)), torch.arange(6)) for _ in range(4)]
    with pytest.raises(DataError, match="batch_dim=None"):
        Evaluator(model, data)
    evaluator = Evaluator(model, data, batch_dim=None)
    expected = [float((model(*x).argmax(1) == y).double().mean()) for x, y in data]
    assert evaluator.baseline.scores.tolist() == expected
    assert evaluator.evaluate({"image": parse("w2")}).kl > 0


@torch.no_grad()
def test_inputs_without_a_batch():
    model = made(nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES)))
    xs = torch.randn(9, FEATURES)
    data = [(x, model(x).argmax()) for x in xs]
    assert Evaluator(model, data, batch_dim=None).baseline.accuracy == 1.0
    with pytest.raises(DataError, match="targets of batch 0"):
        Evaluator(model, data)


@torch.no_grad()
def test_inputs_that_all_samples_share():
    model = made(Shared())
    positions = torch.arange(TIME)
    xs = [torch.randn(n, TIME, FEATURES) for n in (4, 2)]
    for inputs, dims in (
        ([(x, positions) for x in xs], (0, None)),
        ([{"x": x, "positions": positions} for x in xs], {"x": 0, "positions": None}),
    ):
        data = [(i, model(x, positions).argmax(-1)) for i, x in zip(inputs, xs, strict=True)]
        evaluator = Evaluator(model, data, batch_dim=dims)
        assert (evaluator.baseline.samples, evaluator.baseline.accuracy) == (6, 1.0)
    with pytest.raises(DataError, match=r"\(0, None\) if all samples share the second"):
        Evaluator(model, data[:1])
    other = [data[0], ({"x": xs[1], "positions": positions.flip(0)}, data[1][1])]
    with pytest.raises(DataError, match="differs between batch 1"):
        Evaluator(model, other, batch_dim={"x": 0, "positions": None})


@pytest.mark.parametrize("wrong", [-1, "1", True, 1.0, (0,), (0, 0, 0), {"x": 0}, 5])
def test_a_batch_dim_that_does_not_fit(wrong):
    with pytest.raises(InputError, match="batch_dim"):
        trace(made(Contrastive()), (torch.randn(4, FEATURES), torch.randn(4, 3)), wrong)


@torch.no_grad()
def test_from_search_to_deployment():
    model = made(Recurrent())
    data = [(x, model(x).argmax(-1)) for x in sequences()]
    plan = aiq.search(model, "xeon_2vcpu_roofs", data, batch_dim=1, max_drop=0.9, formats="w8a8")
    assert plan.provenance["batch"] == BATCH
    assert plan.accuracy.samples == 13
    again = aiq.Plan.from_json(plan.to_json())
    assert again.batch_dim == 1
    program = aiq.deploy(
        again,
        model,
        example_inputs=data[0][0],
        calibration=[x for x, _ in data],
        runtime="onnxruntime",
    )
    exact = model(data[0][0])
    assert (program(data[0][0]) - exact).norm() <= 0.1 * exact.norm()


@pytest.mark.parametrize("sensitivity", ["kl", "mse", "fisher", "hessian"])
def test_estimates_see_samples(sensitivity):
    last = made(Recurrent(last=True))
    with torch.no_grad():
        data = [(x, last(x).argmax(-1)) for x in sequences()]
    arguments = {"max_drop": 0.9, "formats": "w8a8", "sensitivity": sensitivity}
    assert (
        aiq.search(last, "xeon_2vcpu_roofs", data, batch_dim=1, **arguments).accuracy.samples == 13
    )


@torch.no_grad()
def test_a_kl_estimate_is_the_same_whatever_the_order_of_dimensions():
    first, second = made(Recurrent(batch_first=True)), made(Recurrent())
    second.load_state_dict(first.state_dict())
    drops = []
    for model, dim in ((first, 0), (second, 1)):
        data = [(x.movedim(1, dim), model(x.movedim(1, dim)).argmax(-1)) for x in sequences()]
        evaluator = Evaluator(model, data, batch_dim=dim)
        drops.append(aiq.sensitivity.estimate(evaluator, "w4,w8a8", "kl").divergence)
    assert np.allclose(drops[0], drops[1], rtol=1e-3)
