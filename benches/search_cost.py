"""What a search costs, and what its plan is worth: estimated against measured sensitivities.

    python benches/search_cost.py resnet50 --images 512
    python benches/search_cost.py resnet50 --images 512 --max-cosine-drop 1e-5
    python benches/search_cost.py resnet20 --sensitivity measured    # one row a call

One call runs one search, whose peak memory is that of the process, and adds a row to its results;
rows of other calls stay, each with its date and processor. ResNet-50 has random weights and random
images of 224 x 224; the right answers are those of its own float32 network, and the formats the
default ones. Its plan that would be the cheapest answers all of them right. A budget of the cosine
between its outputs and those of float32 can be so small that this plan misses it. In the trained
networks the search maximises the intensity within 1 pp over weights and activations of 2 to 8 bits,
on images that were held out of training, and the plan is judged on the 10,000 test images.
"""

import argparse
import resource
import time
from collections import Counter, defaultdict
from typing import Any

import networks
import torch
from common import console, joined, published, save
from torch import nn

import aiq
from aiq import data, models, text
from aiq.data.datasets import Batches
from aiq.evaluate import Evaluator

BATCH = 64
TRAINED = ("resnet20", "mobilenet_v2")
SEED = 0


class Stages:
    """Counts the CPU seconds of each stage of a search, as its progress tells them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._name, self._started = "start", time.process_time()

    def __call__(self, name: str, done: int, total: int) -> None:
        """Take a step of a stage."""
        now = time.process_time()
        self.seconds[self._name] += now - self._started
        self._name, self._started = name, now


def given(network: str, images: int) -> tuple[nn.Module, Batches | list[Any], dict[str, Any]]:
    """Return a network, its data, and the options of its search."""
    if network in TRAINED:
        batches = data.batches(data.load("fashion_mnist", "val"), BATCH)
        few = [batch for batch, _ in zip(batches, range(images // BATCH), strict=False)]
        return models.load(network), few, {"objective": "intensity", "max_drop": 0.01}
    torch.manual_seed(SEED)
    model = networks.vision(network)().eval()
    few = []
    for _ in range(0, images, BATCH):
        x = torch.randn(min(BATCH, images), 3, 224, 224)
        with torch.inference_mode():
            y = torch.cat([model(part).argmax(1) for part in x.split(8)])
        few.append((x, y))
    return model, few, {"runtime": "openvino"}


def main() -> None:
    """Run one search."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("network")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--sensitivity", default="auto", choices=["auto", "measured"])
    parser.add_argument("--max-cosine-drop", type=float, help="budget of ResNet-50")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    key = f"{asked.network}/{asked.images}/{asked.sensitivity}"
    model, batches, options = given(asked.network, asked.images)
    if asked.max_cosine_drop is not None:
        options |= {"metric": "cosine", "max_drop": asked.max_cosine_drop}
        key += f", cosine within {asked.max_cosine_drop:g}"
    stages, started, cpu = Stages(), time.perf_counter(), time.process_time()
    plan = aiq.search(
        model,
        "epyc_zen4_2vcpu",
        batches,
        sensitivity=asked.sensitivity,
        cache=False,
        progress=stages,
        **options,
    )
    row: dict[str, Any] = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "threads": asked.threads,
        "evaluations": plan.evaluations,
        "stages_cpu_seconds": {k: round(v, 1) for k, v in stages.seconds.items() if v >= 0.1},
        "speedup": plan.baseline.seconds / plan.predicted.seconds,
        "intensity": plan.predicted.intensity,
        "drop_on_the_images": plan.accuracy.drop if plan.accuracy else None,
        "tried_first_is_optimal": plan.proof.cheapest,
        "formats": Counter(fmt.name for fmt in plan.formats.values()),
    }
    if asked.network in TRAINED:
        test = data.batches(data.load("fashion_mnist", "test"), BATCH)
        judged = Evaluator(model, test, calibration=batches).evaluate(plan.formats)
        row |= {"drop": judged.drop, "drop_error": judged.drop_error, "kl": judged.kl}
    found = joined(published("search_cost").get("rows"), {key: row})
    save("search_cost", {"rows": found}, [SEED])
    show(found)


def show(found: dict[str, Any]) -> None:
    """Print all rows."""
    columns = ["<network, images, sensitivity", "CPU s", "s", "GiB", "evaluations"]
    columns += ["intensity", "drop on 10,000", "divergence"]
    rows = (
        (
            key.replace("/", ", "),
            f"{row['cpu_seconds']:.0f}",
            f"{row['seconds']:.0f}",
            f"{row['peak_gib']:.1f}",
            str(row["evaluations"]),
            f"{row['intensity']:.1f}",
            text.points(row["drop"]) if "drop" in row else "",
            f"{row['kl']:.4f}" if "kl" in row else "",
        )
        for key, row in found.items()
    )
    console.print(text.table("Cost of a search", columns, rows))


if __name__ == "__main__":
    main()
