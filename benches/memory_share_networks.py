"""A small ViT and a small VGG, each trained on Fashion-MNIST within a minute."""

import common
import torch
import train
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from aiq import data

FOLDER = common.RAW / "memory_share"
CLASSES, BATCH, SEED = 10, 128, 0
STEPS, LR = {"vgg": 200, "vit": 430}, {"vgg": 3e-3, "vit": 2e-3}


def build(name: str) -> nn.Module:
    """Return an untrained network."""
    torch.manual_seed(SEED)
    return Vit() if name == "vit" else vgg()


class Vit(nn.Module):
    """A transformer over the sixteen patches of an image of 32 x 32 (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int = 96, depth: int = 6, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.places = nn.Parameter(0.02 * torch.randn(1, 16, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, 32, 32) to logits, (N, classes)."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.head(self.norm(self.encoder(tokens)).mean(1))
        return logits


def vgg() -> nn.Module:
    """Return convolutions in three stages and two linear layers (Simonyan and Zisserman 2015)."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in (16, 32, 64):
        for _ in range(2):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, CLASSES)]
    return nn.Sequential(*layers, *head)


def trained(name: str) -> nn.Module:
    """Return a trained network; it is trained once, and kept beside the raw results."""
    model, path = build(name), FOLDER / f"{name}.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    dataset = data.fashion_mnist("train")
    optimizer = AdamW(train.groups(model, 0.05), lr=LR[name])
    schedule = OneCycleLR(optimizer, LR[name], total_steps=STEPS[name])
    model.train()
    for chosen in torch.randperm(len(dataset))[: STEPS[name] * BATCH].split(BATCH):
        x = dataset.inputs(dataset.images[chosen])
        loss = cross_entropy(model(x), dataset.labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    reached = train.accuracy(model, data.sample("val"))
    print(f"{name}: {100 * reached:.2f} % of the shipped sample", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), path)
    return model.eval()
