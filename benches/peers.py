"""Our int8 programs against those of the runtimes' own tools, in turns, by the stopwatch.

    pip install --group bench                            # or only: pip install "nncf>=3.4"
    python benches/peers.py                              # all rows; goes on where it was stopped
    python benches/peers.py --only resnet20/1/ vit_s     # rows whose names contain one of these
    python benches/peers.py --again --only resnet20/1/openvino

NNCF must not change the versions of torch and OpenVINO. If it would, put it in a folder of its own
and name the folder in ``PYTHONPATH``: ``pip install --target FOLDER --no-deps nncf ninja pydot
tabulate scikit-learn joblib threadpoolctl pyparsing narwhals``.

A row is ``network/batch/runtime``. Its candidates are aiq in w8a8, the plan that aiq's search finds
and times fastest with the profile ``--hw``, the runtime's own tool (NNCF's ``quantize`` and, for
trained networks, ``quantize_with_accuracy_control``; ``quantize_static`` of ONNX Runtime; torchao's
PT2E with Inductor), what the runtime does by default, and aiq in bf16 and in float32 as controls.
All use one thread and the same calibration samples, and are timed in turns in CPU time. A ratio is
the time of a candidate over that of aiq in w8a8, with its 95 % interval: below 1 aiq is slower. A
call of aiq is the call that a user makes, with checks and with outputs of its own; a call of
OpenVINO alone is a request whose inputs were bound before. OpenVINO computes what NNCF leaves in
float32 in bfloat16 where the processor has it; so does ``aiq w8a8bf16``, and ``aiq`` does not. The
seconds to produce a program count everything from the module to the first result. Trained networks
are evaluated on all 10,000 test images of Fashion-MNIST; the others have random weights.

``benches/results/peers/<profile>.json`` is written after every row. It keeps rows of earlier days
that were not measured now; each has its date.
"""

import argparse
import gc
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import common
import networks
import numpy as np
import torch
from common import console
from peers_report import markdown
from peers_tools import CALIBRATION, CONTROLLED, TOOLS, Given, Made
from torch import nn

import aiq
from aiq import data, measure, models
from aiq.errors import DataError

SEED = 0
RANDOM_SAMPLES = 16  # calibration samples of networks with random weights
PACKAGES = ("nncf", "openvino", "onnxruntime", "torch", "torchao")


@dataclass(frozen=True)
class Network:
    """The shape of one sample, the batches to time, and what the network is."""

    shape: tuple[int, ...]
    batches: tuple[int, ...] = (1, 16)
    trained: bool = False
    transformer: bool = False

    def build(self, name: str) -> nn.Module:
        """Return the network, always with the same weights."""
        torch.manual_seed(SEED)
        if self.trained:
            return models.load(name).eval()
        model = networks.Bert() if name == "bert_base" else networks.vision(name)()
        return settled(model, self.shape)


def settled(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Return a network whose batch norms know the statistics of random samples.

    Without them, the activations of a deep network with random weights vanish.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all samples
    with torch.no_grad():
        model.train()(torch.randn(RANDOM_SAMPLES, *shape))
    return model.eval()


IMAGE = (3, 224, 224)
NETWORKS = {
    "resnet20": Network((3, 32, 32), (1, 128), trained=True),
    "mobilenet_v2": Network((3, 32, 32), (1, 128), trained=True),
    "resnet50": Network(IMAGE),
    "efficientnet_b0": Network(IMAGE),
    "vit_s": Network(IMAGE, transformer=True),
    "bert_base": Network((128, 768), transformer=True),
}


def main() -> None:
    """Measure the rows that are missing, and print the table."""
    options = arguments()
    torch.set_num_threads(1)
    profile = aiq.Hardware.load(options.hw)
    place = f"peers/{profile.name}"
    done: dict[str, Any] = common.earlier(place)
    published = common.published(place).get("rows")
    chosen = [
        row for row in rows() if any(part in "/".join(map(str, row)) for part in options.only)
    ]
    for name, batch, runtime in chosen:
        key = f"{name}/{batch}/{runtime}"
        if key in done and not options.again:
            continue
        console.rule(key)
        done[key] = row(name, batch, runtime, options)
        common.save(place, {"rows": common.joined(published, done)}, [SEED], done)
        console.print(markdown({profile.name: {key: done[key]}}), soft_wrap=True)
    console.print(markdown({profile.name: done}), soft_wrap=True)


def rows() -> Iterator[tuple[str, int, str]]:
    """Yield network, batch and runtime of every row; those of trained networks come first."""
    for name, network in NETWORKS.items():
        for batch in network.batches:
            for runtime in TOOLS:
                yield name, batch, runtime


def row(name: str, batch: int, runtime: str, options: argparse.Namespace) -> dict[str, Any]:
    """Make all programs of a row, and time and evaluate them."""
    network = NETWORKS[name]
    given = inputs(network, network.build(name), batch, options.hw)
    made: dict[str, Made] = {}
    produced: dict[str, float] = {}
    failures: dict[str, str] = {}
    for candidate, tool in TOOLS[runtime].items():
        if candidate == CONTROLLED and not network.trained:
            continue
        console.print(f"make {candidate}")
        torch.compiler.reset()
        started = time.process_time()
        try:
            made[candidate] = tool(given)
            made[candidate].call()
        except Exception as error:  # noqa: BLE001 - the table shows any error
            made.pop(candidate, None)
            failures[candidate] = common.said(error)
        else:
            produced[candidate] = time.process_time() - started
    calls = {candidate: program.call for candidate, program in made.items()}
    with console.status("timing"):
        timing = measure.compare_timing(
            calls,
            batch=batch,
            baseline="aiq",
            threads=1,
            min_seconds=options.seconds * len(calls),
            max_seconds=8 * options.seconds * len(calls),
            clock=time.process_time,
        )
    scores = {c: evaluated(p, batch) for c, p in made.items()} if network.trained else {}
    found = {
        "candidates": {
            candidate: {
                "produced_s": round(produced[candidate], 1),
                "seconds": asdict(timing[candidate].seconds),
                "ratio": asdict(timing.speedup("aiq", candidate)),
            }
            for candidate in made
        },
        "noise": timing.noise,
        "load": asdict(timing.load),
        "failures": failures,
        "versions": {package: version(package) for package in PACKAGES},
    }
    for candidate, right in scores.items():
        found["candidates"][candidate] |= accuracy(right, scores["aiq"], reference(given.model))
    made.clear()
    gc.collect()
    return found


def inputs(network: Network, model: nn.Module, batch: int, hardware: str) -> Given:
    """Return what the tools get: the same samples for all of them."""
    if network.trained:
        (images, _), *_ = data.batches(data.sample("train"), CALIBRATION)
        (seen, labels), *_ = data.batches(data.sample("val"), 2000)
        x = images[torch.arange(batch) % len(images)].contiguous()
        return Given(model, x, images, (seen, labels), transformer=False, hardware=hardware)
    generator = torch.Generator().manual_seed(SEED)
    samples = torch.randn(RANDOM_SAMPLES, *network.shape, generator=generator)
    return Given(
        model, samples[:batch], samples, None, transformer=network.transformer, hardware=hardware
    )


def evaluated(program: Made, batch: int) -> np.ndarray | None:
    """Return which test images a program classifies correctly; ``None`` without test images."""
    try:
        test = data.fashion_mnist("test")
    except DataError as error:
        console.print(f"accuracy is not measured: {error}")
        return None
    right = []
    for images, labels in data.batches(test, batch):
        padded = torch.cat([images, images.new_zeros(batch - len(images), *images.shape[1:])])
        right.append(program.outputs(padded)[: len(labels)].argmax(1) == labels)
    return torch.cat(right).double().numpy()


def reference(model: nn.Module) -> np.ndarray:
    """Return which test images the float32 network classifies correctly in PyTorch."""
    with torch.inference_mode():
        batches = data.batches(data.fashion_mnist("test"))
        return torch.cat([model(x).argmax(1) == y for x, y in batches]).double().numpy()


def accuracy(
    right: np.ndarray | None, mine: np.ndarray | None, exact: np.ndarray
) -> dict[str, Any]:
    """Return accuracy and drop, and by how much aiq is worse, with the paired standard error."""
    if right is None or mine is None:
        return {}
    worse = right - mine
    return {
        "accuracy": float(right.mean()),
        "drop": float((exact - right).mean()),
        "aiq_is_worse_by": float(worse.mean()),
        "aiq_is_worse_by_error": float(worse.std() / np.sqrt(len(worse))),
        "images": len(right),
    }


def version(package: str) -> str | None:
    """Return the version of a package, or ``None``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", default=[""], help="parts of names of rows")
    parser.add_argument("--hw", default="auto", help="profile by which aiq searches")
    parser.add_argument("--seconds", type=float, default=4.0, help="timing of each candidate")
    parser.add_argument("--again", action="store_true", help="measure rows that were measured")
    return parser.parse_args()


if __name__ == "__main__":
    main()
