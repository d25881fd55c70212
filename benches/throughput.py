"""Throughput of the plan against every uniform precision, in every runtime, predicted and measured.

    python benches/throughput.py                             # every row: hours
    python benches/throughput.py --network mobilenet_v2 --batch 128 --runtime inductor openvino

For each network, batch and runtime: float32, all layers bfloat16, all layers int8, and the plan
that `aiq.search` chooses, timed in turns. Trained networks also get their accuracy on the 10,000
test images of Fashion-MNIST; the others have random weights and no accuracy is claimed. A row that
has been measured is kept: the file in ``benches/results`` is written after every row, and a run
that was stopped continues there (``--again`` measures anew).
"""

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import common
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import aiq
from aiq import cost, data, machine, measure, models, runtimes
from aiq.errors import DataError, RuntimeUnavailableError
from aiq.formats import parse, parse_all
from aiq.runtimes import Compiled

SEED = 0
UNIFORM = ("fp32", "bf16", "w8a8")
console = Console()


@dataclass(frozen=True)
class Network:
    """A network, the shape of one input, and whether accuracy means something."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    trained: bool = False


class Bert(nn.Module):
    """BERT-base without its vocabulary: twelve layers over embedded tokens (Devlin et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(768, 12, 3072, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        """Map (N, tokens, 768) to the same shape."""
        encoded: torch.Tensor = self.encoder(embedded)
        return encoded


def vision(name: str) -> Callable[[], nn.Module]:
    """Return a function that builds a network of torchvision with random weights."""

    def build() -> nn.Module:
        import torchvision  # noqa: PLC0415 - only these rows need it

        if name == "vit_s":
            return torchvision.models.VisionTransformer(224, 16, 12, 6, 384, 1536)
        network: nn.Module = getattr(torchvision.models, name)(weights=None)
        return network

    return build


NETWORKS = {
    "resnet20": Network(partial(models.load, "resnet20"), (3, 32, 32), trained=True),
    "mobilenet_v2": Network(partial(models.load, "mobilenet_v2"), (3, 32, 32), trained=True),
    "resnet18": Network(vision("resnet18"), (3, 224, 224)),
    "resnet50": Network(vision("resnet50"), (3, 224, 224)),
    "mobilenet_v2_224": Network(vision("mobilenet_v2"), (3, 224, 224)),
    "vit_s": Network(vision("vit_s"), (3, 224, 224)),
    "bert_base": Network(Bert, (128, 768)),
}


def main() -> None:
    options = arguments()
    done: dict[str, Any] = {} if options.again else finished()
    for name in options.network:
        for batch in options.batch:
            for runtime in options.runtime:
                key = f"{name}/{batch}/{runtime}"
                if key in done:
                    continue
                console.rule(key)
                done[key] = row(NETWORKS[name], batch, runtime, options.hw, options.seconds)
                common.save("throughput", {"rows": done}, [SEED])
    console.print(report(done))


def row(network: Network, batch: int, runtime: str, hw: str, seconds: float) -> dict[str, Any]:
    """Measure one row; every candidate is compiled, timed in turns, and scored if trained."""
    torch.manual_seed(SEED)
    model = network.build().eval()
    x, calibration = inputs(network, batch)
    engine = runtimes.get(runtime)
    plan = choose(network, model, x, hw, runtime)
    layers = list(plan.formats)
    candidates = {name: dict.fromkeys(layers, parse(name)) for name in UNIFORM}
    programs: dict[str, Compiled] = {}
    for name, formats in {**candidates, "plan": plan.formats}.items():
        try:
            with console.status(f"compiling {name}"):
                programs[name] = engine.compile(model, x, formats, calibration)
        except RuntimeUnavailableError as error:
            console.print(f"{name}: {error}")
    with console.status("timing"):
        timing = measure.compare_timing(
            {name: partial(program, x) for name, program in programs.items()},
            batch=batch,
            min_seconds=seconds,
        )
    table = cost.time_table(
        aiq.extract(model, x),
        parse_all([*UNIFORM, *plan.formats.values()]),
        aiq.Hardware.load(hw),
        runtime,
    )
    best = min((n for n in programs if n != "plan"), key=lambda n: timing[n].seconds.value)
    result = {
        "best_uniform": best,
        "plan_against_best": asdict(timing.speedup("plan", best)),
        "verdict_against_best": str(timing.verdict("plan", best)),
        "noise": timing.noise,
        "steal": timing.steal,
        "formats": {name: str(fmt) for name, fmt in plan.formats.items()},
        "candidates": {
            name: {
                "seconds": asdict(timing[name].seconds),
                "images_per_second": timing[name].throughput,
                "speedup": asdict(timing.speedup(name)),
                "predicted_seconds": table.total(candidates.get(name, plan.formats)),
                "mismatches": [list(mismatch) for mismatch in program.mismatches],
                "accuracy": accuracy(program, batch) if network.trained else None,
            }
            for name, program in programs.items()
        },
        "peak_bytes": machine.peak_memory(partial(programs["plan"], x)),
        "samples": {t.name: t.samples for t in timing.timings},
    }
    console.print(report({"": result}))
    return result


def choose(network: Network, model: nn.Module, x: torch.Tensor, hw: str, runtime: str) -> aiq.Plan:
    """Return the plan for these inputs: on measured losses where there is accuracy to lose."""
    formats = "fp32,w8a8" if runtime == "onnxruntime" else "fp32,bf16,w8a8"
    given = data.batches(data.sample("val")) if network.trained else None
    with console.status("searching"):
        return aiq.search(model, hw, given, example_inputs=x, formats=formats, runtime=runtime)


def inputs(network: Network, batch: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return one batch of inputs, and the batches that activations are observed on."""
    if network.trained:
        calibration = [images for images, _ in data.batches(data.sample("train"), 100)]
        images = torch.cat(calibration)
        return images[torch.arange(batch) % len(images)], calibration
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(batch, *network.shape, generator=generator)
    return x, [x[:8]]


def accuracy(program: Compiled, batch: int) -> float | None:
    """Return the share of the 10,000 test images that the compiled program gets right.

    ``None`` for small batches, whose programs would be at it for long, and without the data set.
    """
    if batch < 100:
        return None
    try:
        test = data.fashion_mnist("test")
    except DataError as error:
        console.print(f"accuracy is not measured: {error}")
        return None
    right = 0
    for images, labels in data.batches(test, batch):
        padded = torch.cat([images, images.new_zeros(batch - len(images), *images.shape[1:])])
        right += int((program(padded)[: len(labels)].argmax(1) == labels).sum())
    return right / len(test)


def report(rows: dict[str, Any]) -> Table:
    """Return the rows as a table."""
    table = Table(
        "row",
        "candidate",
        "images/s",
        "x fp32",
        "predicted",
        "x best uniform",
        "accuracy",
        "layers",
    )
    for key, result in rows.items():
        base = result["candidates"]["fp32"]["predicted_seconds"]
        for name, found in result["candidates"].items():
            against = result["plan_against_best"] if name == "plan" else None
            kinds = list(result["formats"].values())
            table.add_row(
                key if name == "fp32" else "",
                name,
                f"{found['images_per_second']:.1f}",
                span(found["speedup"]),
                f"{base / found['predicted_seconds']:.2f}",
                f"{span(against)} {result['verdict_against_best']}" if against else "",
                "" if found["accuracy"] is None else f"{found['accuracy']:.2%}",
                ", ".join(f"{kinds.count(k)} {k}" for k in sorted(set(kinds)))
                if name == "plan"
                else "",
            )
    return table


def span(interval: dict[str, float]) -> str:
    """Return an interval for reading."""
    return f"{interval['value']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"


def finished() -> dict[str, Any]:
    """Return the rows of an earlier run, if it was of the same machine and versions."""
    path = common.RESULTS / "throughput.json"
    if not path.exists():
        return {}
    document = json.loads(path.read_text())
    return document["rows"] if document["machine"] == machine.describe() else {}


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16, 128])
    names: Iterable[str] = [name for name in runtimes.available() if name != "eager"]
    parser.add_argument("--runtime", nargs="+", choices=names, default=list(names))
    parser.add_argument("--hw", default="xeon_2vcpu", help="profile that predicts and plans")
    parser.add_argument("--seconds", type=float, default=20.0, help="least length of each timing")
    parser.add_argument("--again", action="store_true", help="measure rows that were measured")
    return parser.parse_args()


if __name__ == "__main__":
    main()
