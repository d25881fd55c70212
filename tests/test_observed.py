"""Observed activations are kept, and used only where they are those that would be observed."""

import pytest
import torch
from torch import nn

from aiq import cache
from aiq.evaluate import Evaluator, observed
from aiq.formats import parse

X = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 4


def net(width=8):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 4)
    ).eval()


def evaluator(folder, model=None, x=X, **options):
    return Evaluator(model or net(), [(x, Y[: len(x)])], cache=folder, **options)


@pytest.fixture
def runs(monkeypatch):
    """Count how often activations are really observed."""
    count, real = [0], observed.observe

    def observe(*arguments):
        count[0] += 1
        return real(*arguments)

    monkeypatch.setattr(observed, "observe", observe)
    return count


def statistics(found):
    return found.runner.simulator._statistics


def test_what_was_observed_is_kept_to_the_bit(runs, tmp_path):
    first, second = statistics(evaluator(tmp_path)), statistics(evaluator(tmp_path))
    assert runs == [1]
    assert list(first) == list(second)
    for one, other in zip(first.values(), second.values(), strict=True):
        assert one.extremes == other.extremes
        assert (one.limit, one.batch) == (other.limit, other.batch)
        assert torch.equal(one.counts, other.counts)
        assert torch.equal(one.total, other.total)
        assert one.total.dtype == other.total.dtype
    formats = {"0": parse("w4a4"), "3": parse("w4a4")}
    alone = Evaluator(net(), [(X, Y)]).evaluate(formats)
    kept = evaluator(tmp_path).evaluate(formats)
    assert (kept.divergence == alone.divergence).all()


def test_other_data_weights_or_models_are_observed_anew(runs, tmp_path):
    evaluator(tmp_path)
    changed = net()
    with torch.no_grad():
        changed[0].weight[0, 0, 0, 0] += 1e-6
    gelu = net()
    gelu[1] = nn.GELU()
    evaluator(tmp_path, changed)
    evaluator(tmp_path, gelu)
    evaluator(tmp_path, net(4))
    evaluator(tmp_path, x=X + 1e-6)
    evaluator(tmp_path, x=X[:20])
    evaluator(tmp_path, calibration=[X[:10]])
    assert runs == [7]
    assert len(list(tmp_path.glob("statistics-*"))) == 7


@pytest.mark.parametrize("damage", ["emptied", "shortened", "changed", "no tensors", "renamed"])
def test_a_damaged_file_is_observed_anew(runs, tmp_path, damage):
    expected = statistics(evaluator(tmp_path))
    (path,) = tmp_path.glob("statistics-*")
    raw = path.read_bytes()
    at = len(raw) // 2
    path.write_bytes(
        {
            "emptied": b"",
            "shortened": raw[:at],
            "changed": raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :],
            "no tensors": b"cos\nsystem\n(S'touch owned'\ntR." * 100,
            "renamed": raw.replace(b"/counts/", b"/counsT/"),
        }[damage]
    )
    again = statistics(evaluator(tmp_path))
    assert runs == [2]
    assert all(torch.equal(expected[n].counts, again[n].counts) for n in expected)
    assert path.read_bytes() == raw


def test_very_large_statistics_are_not_kept(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(observed, "MOST_BYTES", 1000)
    evaluator(tmp_path)
    evaluator(tmp_path)
    assert runs == [2]
    assert not list(tmp_path.glob("statistics-*"))


def test_nothing_is_kept_without_a_folder(runs):
    evaluator(None)
    evaluator(None)
    assert runs == [2]
    assert not cache.folder(cache.EVALUATIONS).exists()
