"""Outputs of the float32 network that are kept: all come back, whatever the memory holds."""

import errno
import io
from pathlib import Path

import pytest
import torch
from torch import nn

from aiq.evaluate import Evaluator, references
from aiq.evaluate.metrics import Reference
from aiq.evaluate.references import References
from aiq.formats import parse

OUTPUTS = (
    torch.randn(2, 3, 5),
    torch.randn(4, 7).bfloat16(),
    torch.randn(3, 2, 6).transpose(0, 2),
    torch.randn(1, 9).double(),
    torch.randn(8, 4)[2:3],
    torch.zeros(0, 4),
)


DEVICE = Path("/dev/full")  # takes nothing, as a full disk does
KINDS = ["a full disk", "a disk that fills up", *(["a full device"] if DEVICE.exists() else [])]


@pytest.fixture(params=KINDS)
def no_disk(request, monkeypatch):
    """A disk that takes nothing, or a file of which the second write fails."""

    class Filling(io.BytesIO):
        def write(self, data):
            if self.tell() > 0:
                raise full
            return super().write(data)

    full = OSError(errno.ENOSPC, "No space left on device")

    def opened(buffering):
        if request.param == "a full device":
            return DEVICE.open("r+b", buffering=buffering)
        if request.param == "a full disk":
            raise full
        return Filling()

    monkeypatch.setattr(references, "TemporaryFile", opened)


@pytest.mark.parametrize("memory", [0, 100, 10**6])
def test_what_is_kept_comes_back(memory):
    kept = References(memory)
    for chunk, output in enumerate(OUTPUTS):
        kept.put(chunk, Reference(output, torch.full((len(output),), chunk)))
    for _ in range(2):
        for chunk, output in reversed([*enumerate(OUTPUTS)]):
            found = kept.get(chunk)
            assert found.output.dtype == output.dtype
            assert torch.equal(found.output, output)
            assert torch.equal(found.scores, torch.full((len(output),), chunk))
    assert kept.get(len(OUTPUTS)) is None


def test_the_memory_is_not_exceeded():
    kept = References(1_000)
    for chunk in range(20):
        kept.put(chunk, Reference(torch.zeros(100), torch.zeros(1)))
    held = [reference.output.nbytes for reference in kept._kept.values()]
    assert sum(held) == 800


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 12, generator=generator)
    return [(x, torch.randint(6, (40,), generator=generator))]


def evaluations(data):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 6)).eval()
    evaluator = Evaluator(model, data, memory=200)
    assert evaluator.chunks > 4
    plans = [dict.fromkeys(evaluator.layers, parse(name)) for name in ("w8a8", "w4a4", "w2")]
    return [*map(evaluator.evaluate, plans), *evaluator.evaluate_many(plans)]


@pytest.fixture(scope="module")
def with_disk(data):
    return evaluations(data)


def test_without_a_disk_they_are_computed_again(data, with_disk, no_disk):
    for one, other in zip(with_disk, evaluations(data), strict=True):
        assert one.scores.tolist() == other.scores.tolist()
        assert one.divergence.tolist() == other.divergence.tolist()
