"""Train the networks that aiq ships on Fashion-MNIST, on the CPU, and write what they reached.

    python benches/train.py                          # ResNet-20, a quarter of an hour on two cores
    python benches/train.py --network mobilenet_v2   # 76 minutes on one core
    python benches/train.py --sample                 # writes the shipped sample of images

Needs the whole data set (Debian: ``apt install dataset-fashion-mnist``). A run that was stopped
continues from its last finished epoch. Weights go to ``python/aiq/assets``, numbers to
``benches/results``.
"""

import argparse
import io
import json
import lzma
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import platformdirs
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.optim.lr_scheduler import OneCycleLR

from aiq import data, models

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "python" / "aiq" / "assets"
RESULTS = ROOT / "benches" / "results"


@dataclass(frozen=True)
class Cycle:
    """Epochs at learning rates from low to `lr` to zero; a teacher is a network that aiq ships."""

    epochs: int
    lr: float
    teacher: str | None = None


@dataclass(frozen=True)
class Recipe:
    """How a network is trained and stored."""

    cycles: tuple[Cycle, ...]
    weight_decay: float
    dtype: torch.dtype
    at_least: float


RECIPES = {
    "resnet20": Recipe((Cycle(13, 0.2),), 5e-4, torch.float32, 0.93),
    "mobilenet_v2": Recipe(
        (Cycle(10, 0.1), Cycle(4, 0.05), Cycle(5, 0.06, "resnet20")), 2e-4, torch.float16, 0.925
    ),
}
BATCH = 128
SHIFT = 2


def main() -> None:
    options = arguments()
    if options.sample:
        write_sample()
        return
    recipe = RECIPES[options.network]
    torch.set_num_threads(options.threads)
    try:
        model, seconds, cpu_seconds = train(options.network, recipe, options.seed)
    except KeyboardInterrupt:
        sys.exit("stopped; run the same command to continue from the last finished epoch")
    # Round the weights as they are stored: the accuracy below is that of the shipped network.
    weights = {
        name: (value.to(recipe.dtype) if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(weights)
    reached = {split: accuracy(model, data.fashion_mnist(split)) for split in ("val", "test")}
    print(", ".join(f"{split} {100 * value:.2f} %" for split, value in reached.items()))
    if reached["test"] < recipe.at_least:
        sys.exit(f"below {100 * recipe.at_least:.1f} %: nothing was written; train longer")
    write(ASSETS / f"{options.network}.safetensors", save_safetensors(weights))
    result = {
        "network": options.network,
        "data": "Fashion-MNIST, 55,000 training, 5,000 validation and 10,000 test images",
        "test_accuracy": reached["test"],
        "val_accuracy": reached["val"],
        "stored_as": str(recipe.dtype).removeprefix("torch."),
        "seed": options.seed,
        "cycles": [asdict(cycle) for cycle in recipe.cycles],
        "batch_size": BATCH,
        "weight_decay": recipe.weight_decay,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "threads": options.threads,
        "machine": machine(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "command": shlex.join(["python", *sys.argv]),
    }
    text = json.dumps(result, indent=2) + "\n"
    write(RESULTS / f"train_{options.network}.json", text.encode())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=RECIPES, default="resnet20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--sample", action="store_true", help="write the sample instead")
    return parser.parse_args()


def train(name: str, recipe: Recipe, seed: int) -> tuple[nn.Module, float, float]:
    """Return the trained network, and the wall and CPU seconds of all runs that trained it."""
    torch.manual_seed(seed)
    model = models.load(name, pretrained=False).to(memory_format=torch.channels_last)
    spent = (0.0, 0.0)
    for done in range(len(recipe.cycles)):
        spent = train_cycle(model, name, recipe, done, seed, spent)
    return model, *spent


def train_cycle(
    model: nn.Module, name: str, recipe: Recipe, cycle: int, seed: int, before: tuple[float, float]
) -> tuple[float, float]:
    """Train `model` through one cycle of learning rates; return wall and CPU seconds so far."""
    dataset = data.fashion_mnist("train")
    steps = len(dataset) // BATCH
    epochs, lr, teacher = astuple(recipe.cycles[cycle])
    loss_of = distillation(teacher) if teacher else smoothed_cross_entropy
    earlier = sum(past.epochs for past in recipe.cycles[:cycle])
    optimizer = torch.optim.SGD(
        groups(model, recipe.weight_decay), lr=lr, momentum=0.9, nesterov=True
    )
    schedule = OneCycleLR(optimizer, lr, total_steps=epochs * steps, pct_start=0.25)
    plan = "+".join(str(past.epochs) for past in recipe.cycles[: cycle + 1])
    checkpoint = (
        platformdirs.user_cache_path("aiq") / "train" / f"{name}-{plan}epochs-seed{seed}.pt"
    )
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first, (spent, spent_cpu) = 0, before
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        for key, part in parts.items():
            part.load_state_dict(saved[key])
        first, spent, spent_cpu = saved["epoch"], saved["seconds"], saved["cpu_seconds"]
        print(f"continuing after epoch {first} of {plan} from {checkpoint}")
    for epoch in range(first, epochs):
        start, start_cpu = time.perf_counter(), time.process_time()
        model.train()
        # Each epoch has a seed of its own, so that a continued run equals an uninterrupted one.
        torch.manual_seed(seed * 1000 + earlier + epoch)
        order = torch.randperm(len(dataset))
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            x = dataset.inputs(augment(dataset.images[chosen]))
            x = x.to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x)
            loss = loss_of(x, logits.float(), dataset.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 10 == 0:
                rate = (time.perf_counter() - start) / (step + 1)
                left = rate * (steps * (epochs - epoch) - step - 1)
                progress(
                    f"{name}: epoch {epoch + 1}/{epochs} of {plan}, step {step + 1}/{steps}, "
                    f"loss {loss.item():.3f}, {left / 60:.0f} min left"
                )
        spent += time.perf_counter() - start
        spent_cpu += time.process_time() - start_cpu
        state: dict[str, object] = {key: part.state_dict() for key, part in parts.items()}
        state |= {"epoch": epoch + 1, "seconds": spent, "cpu_seconds": spent_cpu}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write(checkpoint, buffer.getvalue())
        val = accuracy(model, data.fashion_mnist("val"))
        print(
            f"\nepoch {epoch + 1}/{epochs} of {plan}: val {100 * val:.2f} %, {spent / 60:.1f} min",
            flush=True,
        )
    return spent, spent_cpu


def smoothed_cross_entropy(x: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy against labels of which a twentieth is spread over all classes."""
    return cross_entropy(logits, labels, label_smoothing=0.05)


def distillation(teacher: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the mean of the loss against the labels and that against a trained network's output.

    Hinton et al. 2015, equation 1, at temperature 2; gradients scaled by its square as they advise.
    """
    network = models.load(teacher).to(memory_format=torch.channels_last)
    temperature = 2.0

    def loss(x: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            soft = (network(x).float() / temperature).softmax(1)
        soft = soft.clone()
        against_teacher = cross_entropy(logits / temperature, soft) * temperature**2
        return (against_teacher + smoothed_cross_entropy(x, logits, labels)) / 2

    return loss


def groups(model: nn.Module, decay: float) -> list[dict[str, object]]:
    """Return parameter groups: only matrices and filters decay, scales and biases do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def augment(images: Tensor) -> Tensor:
    """Return uint8 (N, C, H, W) shifted by up to two pixels each way and mirrored at random."""
    n, _, height, width = images.shape
    padded = pad(images, (SHIFT,) * 4)
    dy, dx = torch.randint(0, 2 * SHIFT + 1, (2, n, 1))
    rows = dy + torch.arange(height)
    columns = dx + torch.arange(width)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    one = torch.arange(n).view(n, 1, 1)
    return padded[one, :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


@torch.inference_mode()
def accuracy(model: nn.Module, dataset: data.Dataset) -> float:
    """Return top-1 accuracy in float32."""
    model.eval()
    right = sum(
        int((model(x).argmax(1) == y).sum()) for x, y in data.batches(dataset, batch_size=500)
    )
    return right / len(dataset)


def write_sample() -> None:
    """Write the first images of every class: 50 to calibrate, 200 to choose, 200 to report."""
    tensors = {}
    for split, per_class in {"train": 50, "val": 200, "test": 200}.items():
        part = data.fashion_mnist(split).take(per_class)
        tensors[f"{split}.images"] = part.images
        tensors[f"{split}.labels"] = part.labels.to(torch.uint8)
    packed = lzma.compress(save_safetensors(tensors), preset=9 | lzma.PRESET_EXTREME)
    write(ASSETS / data.SAMPLE_FILE, packed)


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.replace(path)


def progress(line: str) -> None:
    start, end = ("\r\033[K", "") if sys.stderr.isatty() else ("", "\n")
    print(f"{start}{line}", end=end, file=sys.stderr, flush=True)


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} CPUs"


if __name__ == "__main__":
    main()
