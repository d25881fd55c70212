"""The built-in networks: the paper's counts, torchvision's function, and trained accuracy."""

import math
from importlib import resources

import pytest
import torch
import torchvision
from safetensors.torch import save
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from aiq import data, models
from aiq.errors import DataError, InputError


def layers(model, x):
    """Weight, input and output elements of every convolution and linear layer, by forward hooks."""
    counted = []

    def count(module, inputs, output):
        weights = sum(p.numel() for p in module.parameters())
        counted.append((weights, inputs[0].numel(), output.numel()))

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.inference_mode():
        model(x)
    return counted


def accuracy(model, dataset):
    with torch.inference_mode():
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in data.batches(dataset))
    return right / len(dataset)


def test_resnet20_has_the_counts_of_the_paper():
    model = models.resnet20().eval()
    image = torch.zeros(1, 3, 32, 32)
    with FlopCounterMode(display=False) as flops:
        model(image)
    counted = layers(model, image)
    assert len(counted) == 22  # 19 in the main path, 2 shortcuts, 1 linear
    assert sum(w for w, _, _ in counted) == 270_906
    assert flops.get_total_flops() == 81_626_368
    total_bytes = sum(4 * (w + x + y) for w, x, y in counted)
    assert total_bytes == 2_734_608
    assert math.isclose(81_626_368 / total_bytes, 29.8494, abs_tol=5e-5)


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_number_of_classes(num_classes):
    images = torch.zeros(2, 3, 32, 32)
    assert models.resnet20(num_classes).eval()(images).shape == (2, num_classes)
    assert models.mobilenet_v2(num_classes).eval()(images).shape == (2, num_classes)


def test_mobilenet_v2_at_224_computes_what_torchvision_computes():
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2(num_classes=100).eval()
    ours = models.mobilenet_v2(num_classes=100, image_size=224).eval()
    values = list(theirs.state_dict().values())
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image))


def test_mobilenet_v2_at_32_keeps_the_layers_and_leaves_4_by_4():
    small, large = models.mobilenet_v2(), models.mobilenet_v2(image_size=224)
    shapes = [p.shape for p in small.parameters()]
    assert shapes == [p.shape for p in large.parameters()]
    assert small.features(torch.zeros(2, 3, 32, 32)).shape == (2, 1280, 4, 4)


@pytest.mark.parametrize("size", [0, 31, 64, None])
def test_mobilenet_v2_refuses_sizes_without_strides(size):
    with pytest.raises(InputError, match="use 32 or 224"):
        models.mobilenet_v2(image_size=size)


def test_shipped_resnet20_reaches_its_accuracy():
    model = models.load("resnet20")
    assert not model.training
    assert accuracy(model, data.sample("test")) >= 0.94
    assert accuracy(model, data.sample("val")) >= 0.925


def test_shipped_weights_are_small():
    shipped = [
        path
        for path in (resources.files("aiq") / "assets").iterdir()
        if path.name.endswith(".safetensors")
    ]
    assert "resnet20.safetensors" in [path.name for path in shipped]
    assert all(len(path.read_bytes()) < 5_000_000 for path in shipped)


def test_load_without_weights_follows_the_seed():
    def conv1():
        torch.manual_seed(3)
        return models.load("resnet20", pretrained=False).conv1.weight

    assert torch.equal(conv1(), conv1())
    assert not torch.equal(conv1(), models.load("resnet20").conv1.weight)


def test_load_refuses_unknown_names():
    with pytest.raises(InputError, match="'resnet18'; use one of resnet20, mobilenet_v2"):
        models.load("resnet18")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"benches/train\.py --network resnet20"),
        (b"", "is damaged; install aiq again"),
        (b"not safetensors", "is damaged; install aiq again"),
        (save({"conv1.weight": torch.zeros(1)}), "is damaged; install aiq again"),
    ],
)
def test_load_says_when_weights_are_missing_or_damaged(content, message, tmp_path, monkeypatch):
    (tmp_path / "assets").mkdir()
    if content is not None:
        (tmp_path / "assets" / "resnet20.safetensors").write_bytes(content)
    monkeypatch.setattr(models.resources, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match=rf"resnet20\.safetensors: .*{message}"):
        models.load("resnet20")
