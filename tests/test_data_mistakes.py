"""Data that is not what it should be: right, or one sentence."""

import numpy as np
import pytest
import torch
from torch import nn

import aiq
from aiq.errors import AiqError, DataError, InputError
from aiq.evaluate import Evaluator, metrics
from aiq.evaluate.gather import gather
from aiq.formats import parse
from aiq.graph import trace
from aiq.runtimes.calibration import calibration_batches

X, Y = torch.randn(6, 3, 8, 8), torch.arange(6) % 5


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    return nn.Sequential(*layers).eval()


def midway():
    yield X, Y
    raise OSError("disk gone\nand more")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (midway(), r"raised OSError after 1 batches \(disk gone\)"),
        ([(X, Y), (X[:, :, :4], Y)], "do not fit together .*6x3x4x8.*pad or crop"),
        ([(X, Y), (X.double(), Y)], "do not fit together .*float64"),
        ([(X, Y), (X, Y.float())], "do not fit together .*targets"),
        ([(X, Y), ((X,), Y)], "do not fit together"),
        ([(X.to_sparse(), Y)], "dense tensors in main memory"),
        ([(X.to("meta"), Y)], "dense tensors in main memory"),
        ([(X, Y.to(torch.complex64))], "targets of batch 0"),
        ([(np.array(["cat"]), Y)], "not all tensors"),
        ([(X, torch.full_like(Y, -100))], "Every target is -100"),
        (np.zeros((2, 3)), "is a ndarray"),
    ],
)
def test_data_is_refused_with_a_sentence(data, words):
    with pytest.raises(DataError, match=words) as caught:
        gather(data).counted()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "yields no samples"),
        (iter([]), "yields no samples.*generator can be read only once"),
        (X, "is a Tensor; give an iterable"),
        (5, "is an int; give an iterable"),
        ([X], "is a Tensor, not a pair.*metric cosine"),
        ([(X, Y, Y)], "is a tuple, not a pair"),
        ([(X, Y[:5])], "6 inputs but 5 targets"),
        ([(X, Y.float())], r"targets are torch.float32 of shape \(6,\); give class indices"),
        ([(X, torch.stack([Y, Y], 1))], r"shape \(6, 2\); give class indices"),
        ([(X, Y + 5)], "Targets range from 5 to 9 but the model has 5 classes"),
        ([(X, Y - 5)], "Targets range from -5"),
        ([(X, "cat")], "targets of batch 0 are str"),
        ([("cat", Y)], "inputs of batch 0 are str"),
        ([((X, X[:4]), Y)], "first dimensions 6, 4"),
        ([(X, Y), (X[:, :2], Y)], "do not fit together"),
    ],
)
def test_bad_data(net, data, message):
    with pytest.raises(DataError, match=message):
        Evaluator(net, data)


def test_an_exhausted_generator(net):
    generator = iter([(X, Y)])
    Evaluator(net, generator)
    with pytest.raises(DataError, match="pass a list, a DataLoader, or a fresh generator"):
        Evaluator(net, generator)


def test_empty_calibration(net):
    with pytest.raises(DataError, match="yields no samples"):
        Evaluator(net, [(X, Y)], calibration=[])


def test_nan_inputs_are_found_in_calibration(net):
    x = X.clone()
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="read by layer '0' is NaN or infinite in float32"):
        Evaluator(net, [(x, Y)])


def test_infinite_activations_name_the_layer():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        for layer, size in zip((0, 2, 4), (1.0, 1e30, 1.0), strict=True):
            model[layer].weight.fill_(size)
    y = torch.tensor([0, 1])
    with pytest.raises(DataError, match=r"layer '2' \(as fp32\) writes them first"):
        Evaluator(model, [(torch.full((2, 2), 1e20), y)], calibration=[torch.ones(2, 2)])


def test_outputs_without_classes():
    model = nn.Sequential(nn.Linear(3, 4), nn.Flatten(0))
    with pytest.raises(DataError, match="for 4 samples, so no dimension counts samples"):
        Evaluator(model, [(torch.randn(4, 3), torch.zeros(4, dtype=torch.long))])


def test_an_infinity_in_one_format_names_layer_and_format():
    """Float16 overflows where float32 does not: an error that says so, no accuracy of NaN."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[0].weight.fill_(1e5)
    x, y = torch.full((4, 2), 10.0), torch.tensor([0, 1, 0, 1])
    evaluator = Evaluator(model, [(x, y)])
    with pytest.raises(DataError, match=r"layer '0' \(as fp16\) writes them first"):
        evaluator.evaluate({"0": parse("fp16")})
    assert np.isfinite(evaluator.evaluate({"0": parse("w8a8")}).divergence).all()


def test_numpy_lists_and_mappings_are_read():
    reverse = np.ascontiguousarray(X.numpy())[::-1]
    assert torch.equal(gather([([reverse], list(range(6)))]).inputs[0], X.flip(0))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (torch.randn(6, 1, 8, 8), "6x1x8x8 and the model was exported for Nx3x8x8"),
        (torch.randn(6, 3, 9, 9), "6x3x9x9"),
        (torch.randn(6, 3, 8), "6x3x8 "),
        (X.double(), "float64 and the model was exported for torch.float32"),
        (X > 0, "torch.bool"),
    ],
)
def test_other_inputs_than_the_example(net, inputs, words):
    traced = trace(net, X[:2])
    with pytest.raises(DataError, match=words):
        Evaluator(traced, [(inputs, Y)])
    with pytest.raises(DataError, match=words):
        Evaluator(traced, [(X, Y)], calibration=[inputs])


def test_calibration_of_programs(net):
    traced = trace(net, X[:2])
    assert len(calibration_batches([X, (X, Y), [X[:1]]], traced)) == 3
    with pytest.raises(DataError, match="calibration is a Tensor"):
        calibration_batches(X, traced)
    fixed = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (4, 6)), nn.Linear(6, 3)).eval()
    fixed = trace(fixed, torch.randn(4, 6))
    assert not fixed.dynamic_batch
    found = calibration_batches([torch.randn(7, 6), torch.randn(2, 6)], fixed)
    assert [len(batch) for batch in found] == [4, 4, 4]


@torch.no_grad()
def test_images_that_are_wholly_ignored_are_left_out():
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 1).eval()
    y = model(X).argmax(1)
    y[0, 0] = (y[0, 0] + 1) % 4
    partly = y.clone()
    partly[2:4] = -100
    evaluator = Evaluator(model, [(X, partly), (X[:1], torch.full_like(y[:1], -100))])
    keep = [0, 1, 4, 5]
    expected = (model(X).argmax(1) == y).double().mean((1, 2))[keep]
    assert evaluator.baseline.scores.tolist() == expected.tolist()
    assert evaluator.evaluate({"": parse("w4")}).samples == 4 if "" in evaluator.layers else True
    single = Evaluator(nn.Linear(3, 2), [(torch.randn(3, 3), torch.tensor([0, -100, 1]))])
    assert single.baseline.samples == 2


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1.0, 1e30, 1e38])
def test_metrics_do_not_depend_on_the_size_of_outputs(size):
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(5, 7, generator=generator)
    other = exact + 0.1 * torch.randn(5, 7, generator=generator)
    exact, other = exact.clamp(-3, 3), other.clamp(-3, 3)
    plain, scaled = (
        metrics.evaluate("cosine", other * s, None, metrics.Reference(exact * s, torch.zeros(5)))[0]
        for s in (1.0, size)
    )
    assert torch.allclose(scaled.score, plain.score, atol=1e-5)
    assert torch.allclose(scaled.divergence, plain.divergence, rtol=1e-3)


def test_outputs_of_one_number_and_of_zero():
    def divergence(output, exact):
        reference = metrics.Reference(exact, torch.zeros(len(exact)))
        found = metrics.evaluate("cosine", output, None, reference)[0]
        return found.divergence.tolist(), found.score.tolist()

    assert divergence(torch.full((2, 1), 1.1), torch.ones(2, 1))[0] == pytest.approx([0.01] * 2)
    zeros = torch.zeros(1, 3)
    assert divergence(zeros, zeros) == ([0.0], [1.0])
    assert divergence(torch.ones(1, 3), zeros) == ([1.0], [0.0])


def test_a_metric_that_raises(net):
    def broken(output, targets):
        raise KeyError("missing")

    with pytest.raises(InputError, match="metric raised KeyError"):
        Evaluator(net, [(X, Y)], metric=broken)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_drop": "1%"}, r"'1%', a text; give a number, as a fraction, here 0.01"),
        ({"max_drop": "2pp"}, "here 0.02"),
        ({"max_drop": 1}, r"1 means 100 percentage points; write 0.01"),
        ({"max_drop": 5.0}, r"write 0.05 for 5 percentage points"),
        ({"max_drop": None}, "max_drop is None"),
        ({"max_drop": True}, "max_drop is True"),
        ({"max_drop": -0.5}, "max_drop"),
        ({"time_limit": "1"}, "time_limit is '1'"),
        ({"time_limit": -1}, "time_limit is -1"),
        ({"time_limit": float("nan")}, "time_limit is nan"),
        ({"max_size": "1MB"}, "max_size is '1MB'; give bytes"),
        ({"max_size": -1}, "max_size is -1"),
        ({"max_size": 1.5}, "max_size is 1.5"),
        ({"seed": "0"}, "seed is '0'"),
        ({"seed": 1.0}, "seed is 1.0"),
        ({"measure_top": "3"}, "measure_top"),
        ({"confidence": "high"}, "confidence"),
        ({"lam": "x", "objective": "weighted"}, "lam"),
        ({"runtime": "onnxruntim"}, "did you mean 'onnxruntime'"),
        ({"runtime": 5}, "runtime is 5"),
        ({"method": "exat"}, "did you mean 'exact'"),
        ({"objective": "intensty"}, "did you mean 'intensity'"),
        ({"objective": None}, "objective is None"),
        ({"sensitivity": "measure"}, "did you mean 'measured'"),
        ({"sensitivity": 3}, "sensitivity is 3"),
        ({"metric": "top-1"}, "did you mean 'top1'"),
        ({"formats": 8}, "formats are 8"),
        ({"formats": ",,"}, "Unknown format ''"),
        ({"formats": [None]}, "Unknown format None"),
        ({"pin": "fc=fp32"}, "pin is 'fc=fp32'"),
        ({"pin": {"fc": 8}}, "pin is"),
        ({"cache": 5}, "cache is 5"),
        ({"batch_dim": "0"}, "batch_dim is '0'"),
    ],
)
def test_arguments_are_checked_before_any_work(net, arguments, words):
    with pytest.raises(AiqError, match=words) as caught:
        aiq.search(net, **({"hw": "xeon_2vcpu_roofs", "data": [(X, Y)]} | arguments))
    assert "\n" not in str(caught.value)
