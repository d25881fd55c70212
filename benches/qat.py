"""Training with a plan: accuracy against FLOP/byte of ResNet-20, before and after training.

`aiq.finetune_search` alternates search and training, once with formats that quantise weights only
and once with weights and activations. It trains on training images, against labels and against the
softmax of the float32 network in equal parts, and chooses on the validation images. Each plan is
then scored on all 10,000 test images, without training in the weights as they were, and trained.

    python benches/qat.py [--quick]

Needs Fashion-MNIST on disk; ``--quick`` takes the shipped samples and a few steps.
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import qat_report
import torch
from common import RESULTS, console, earlier, joined, published, save
from torch import Tensor, nn
from torch.nn.functional import one_hot

import aiq
from aiq import bars, cost, data, graph, models
from aiq.deployment import prepare
from aiq.evaluate import Evaluator
from aiq.formats import Format, parse_all
from aiq.training.alternate import Round, TrainedSearch

MAX_DROP = 0.01
BATCH = 128
SEED = 0
STEPS, LR = 200, 7e-4
STRIDE, ROUNDS, CONFIDENCE = 0.06, 3, 0.8
BOTH = "fp32,w8a8,w6a6,w4a4,w4a3,w3a4,w3a3,w3a2,w2a4,w2a3,w2a2"
SEARCHES = {
    "weights": "fp32,w8,w6,w4,w3,w2",
    "weights and activations": BOTH,
}


@dataclass(frozen=True, slots=True)
class Images:
    """Random batches of training images, others in each epoch, with probabilities as targets."""

    dataset: data.Dataset
    targets: Tensor
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.dataset))[: self.steps * BATCH]
        for chosen in order.split(BATCH):
            yield self.dataset.inputs(self.dataset.images[chosen]), self.targets[chosen]


@torch.inference_mode()
def soft_targets(model: nn.Module, dataset: data.Dataset) -> Tensor:
    """Return the mean of the labels and of the softmax of the float32 network: (N, classes)."""
    batches = data.batches(dataset, 500)
    found = torch.cat([model(x.to(memory_format=torch.channels_last)) for x, _ in batches])
    return (found.softmax(1) + one_hot(dataset.labels, found.shape[1])).div(2).clone()


def intensities(layers: graph.LayerGraph) -> dict[str, float]:
    """Return the FLOP/byte of float32, and of all layers in the narrowest formats."""
    formats = parse_all("fp32,w2,w2a2")
    table = cost.intensity_table(layers, formats)
    return {f.name: table.intensity(dict.fromkeys(table.layers, f)) for f in formats}


def scores(evaluator: Evaluator, formats: Mapping[str, Format], exact: float) -> dict[str, float]:
    found = evaluator.evaluate(formats)
    return {"accuracy": found.accuracy, "drop": exact - found.accuracy}


def row(one: Round, plain: Evaluator, test: data.Batches) -> dict[str, Any]:
    """Return what a round found, on test images."""
    trained, exact = one.trained, plain.baseline.accuracy
    accuracy = trained.plan.accuracy
    assert accuracy is not None
    traced = prepare(trained.plan, trained.model, data=test).traced
    evaluator = Evaluator(traced, test, calibration=data.batches(data.sample("train")))
    formats = trained.plan.formats
    return {
        "stride": one.stride,
        "kept": one.kept,
        "intensity": trained.plan.predicted.intensity,
        "ratio": trained.plan.predicted.intensity / trained.plan.baseline.intensity,
        "weight_bytes": trained.plan.predicted.weight_bytes,
        "before": scores(plain, formats, exact),
        "trained": scores(evaluator, formats, exact),
        "validation_drop": accuracy.drop,
        "validation_drop_limit": accuracy.drop_limit,
        "losses": list(trained.losses),
        "formats": {name: fmt.name for name, fmt in formats.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the shipped samples, a few steps")
    quick = parser.parse_args().quick
    name, steps = ("sample", 4) if quick else ("fashion_mnist", STEPS)
    torch.set_num_threads(1)
    model = models.load("resnet20")
    train, val, test = (data.load(name, split) for split in data.SPLITS)
    images = Images(train, soft_targets(model, train), steps)
    test_batches, sample = data.batches(test), data.batches(data.sample("train"))
    traced = graph.trace(model, val.inputs(val.images[:1]))
    plain = Evaluator(traced, test_batches, calibration=sample)
    summary = {
        "images": {"train": len(train), "val": len(val), "test": len(test)},
        "batch": BATCH,
        "steps": steps,
        "max_drop": MAX_DROP,
        "confidence": CONFIDENCE,
        "float32_accuracy": plain.baseline.accuracy,
        "intensities": intensities(traced.graph),
    }
    rows = {} if quick else earlier("qat")
    for kind in SEARCHES:
        if kind in rows:
            continue
        started = time.process_time()
        with bars.shown(console) as progress:
            found = search(model, images, data.batches(val), kind, progress)
            rounds = [row(one, plain, test_batches) for one in found.rounds]
        spent = time.process_time() - started
        rows[kind] = {"stopped": found.stopped, "cpu_seconds": spent, "rounds": rounds}
        console.print(qat_report.table({"searches": rows}), markup=False)
        if not quick:
            searches = joined(published("qat").get("searches"), rows)
            save("qat", {**summary, "searches": searches}, [SEED], rows)
    if not quick:
        qat_report.write(RESULTS / "qat.json")


def search(
    model: nn.Module,
    images: Images,
    val: data.Batches,
    kind: str,
    progress: bars.Shown,
) -> TrainedSearch:
    return aiq.finetune_search(
        model,
        "xeon_2vcpu",
        images,
        val,
        max_drop=MAX_DROP,
        rounds=ROUNDS,
        calibration=data.batches(data.sample("train")),
        example_inputs=val.dataset.inputs(val.dataset.images[:1]),
        training=aiq.TrainingOptions(epochs=1, lr=LR, seed=SEED),
        search_options={
            "runtime": None,
            "cache": False,
            "sensitivity": "kl",
            "confidence": CONFIDENCE,
        },
        progress=progress,
        stride=STRIDE,
        formats=SEARCHES[kind],
    )


if __name__ == "__main__":
    main()
