"""Two small networks for questions that the shipped ones cannot answer, trained on Fashion-MNIST.

* ``vit``: a vision transformer of timm, patches of 4 x 4 pixels, 64 wide, 4 blocks;
* ``resnet56``: ResNet-56 (He et al. 2016, section 4.2) with 4, 8 and 16 channels.

    python benches/small_networks.py    # trains those that are missing, about two CPU minutes each

Needs the whole data set (Debian: ``apt install dataset-fashion-mnist``). Weights go to the folder
``raw`` beside this script, which git ignores, and numbers to ``benches/results``. One thread and
one seed give the same weights on the same kind of processor.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from common import RAW, console, save
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR
from train import accuracy, augment, groups

from aiq import data
from aiq.models import BasicBlock

SEED = 0
BATCH = 128


class ResNet56(nn.Module):
    """ResNet-56 for 3 x 32 x 32 images with `width`, twice and four times as many channels."""

    def __init__(self, width: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        blocks, inputs = [], width
        for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            for block in range(9):
                blocks.append(BasicBlock(inputs, outputs, stride if block == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, classes)."""
        x = self.blocks(self.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def vit() -> nn.Module:
    """Return an untrained vision transformer."""
    from timm.models import VisionTransformer  # noqa: PLC0415 - only this network needs it

    return VisionTransformer(
        img_size=32, patch_size=4, num_classes=10, embed_dim=64, depth=4, num_heads=4, mlp_ratio=2
    )


@dataclass(frozen=True)
class Recipe:
    """How a network is built and trained."""

    build: Callable[[], nn.Module]
    steps: int
    optimizer: Callable[..., torch.optim.Optimizer]
    rate: float
    decay: float


def sgd(parameters: object, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True)


RECIPES = {
    "vit": Recipe(vit, 300, torch.optim.AdamW, 2e-3, 0.05),
    "resnet56": Recipe(ResNet56, 200, sgd, 0.2, 5e-4),
}


def load(name: str) -> nn.Module:
    """Return a trained network in evaluation mode; it is trained first if it is missing."""
    path = RAW / f"{name}.safetensors"
    if not path.exists():
        train(name)
    model = RECIPES[name].build()
    model.load_state_dict(load_file(path))
    return model.eval()


def train(name: str) -> None:
    """Train a network, and write its weights and what it reached."""
    recipe, started = RECIPES[name], time.process_time()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model, dataset = recipe.build(), data.load("fashion_mnist", "train")
    model = model.to(memory_format=torch.channels_last)
    optimizer = recipe.optimizer(groups(model, recipe.decay), lr=recipe.rate)
    schedule = OneCycleLR(optimizer, recipe.rate, total_steps=recipe.steps, pct_start=0.25)
    order = torch.randperm(len(dataset))
    model.train()
    for step in range(recipe.steps):
        chosen = order[step * BATCH : (step + 1) * BATCH]
        x = dataset.inputs(augment(dataset.images[chosen]))
        logits = model(x.to(memory_format=torch.channels_last))
        loss = cross_entropy(logits, dataset.labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            spent = time.process_time() - started
            console.print(f"{name}: step {step + 1}, loss {loss.item():.2f}, {spent:.0f} CPU s")
    RAW.mkdir(exist_ok=True)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        RAW / f"{name}.safetensors",
    )
    summary = {
        "network": name,
        "data": "Fashion-MNIST",
        "test_accuracy": accuracy(model, data.sample("test")),
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": recipe.steps,
        "test_images": 2000,
        "batch_size": BATCH,
        "cpu_seconds": round(time.process_time() - started, 1),
    }
    save(f"train_{name}", summary, [SEED])
    console.print(f"{name}: {100 * summary['test_accuracy']:.2f} % of the test images")


if __name__ == "__main__":
    for each in RECIPES:
        load(each)
