"""The paper's three experiments (arXiv 2512.14090) on our own network and data.

(i)   each layer alone at 8 and 4 bits: gain of arithmetic intensity against accuracy drop;
(ii)  greedy, coordinate descent and exact search at lambda 0.9, and the most intensity that exact
      search finds within one point, against the paper's 29.85 -> 45.25 FLOP/byte at -0.9 pp;
(iii) throughput of MobileNetV2, float32 against quantised, against the paper's 1.66x.

ResNet-20 on Fashion-MNIST: plans are chosen on the 5,000 validation images, which were held out of
training, and scored on all 10,000 test images. Without the data set on disk the shipped samples
(2,000 and 2,000 images) are used, and the output says so.

    python benches/paper.py [--quick]
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import paper_plots
import torch
from common import console, save

import aiq
from aiq import calibrate, comparison_table, cost, data, graph, models, sensitivity, text
from aiq.comparison import compare
from aiq.drops import DropTable
from aiq.errors import DataError
from aiq.evaluate import Evaluator
from aiq.formats import PAPER, REFERENCE, Format, parse

LAMBDA = 0.9
MAX_DROP = 0.01
PAPER_RESULT = {"fp32": 29.85, "intensity": 45.25, "drop_points": 0.9, "throughput": 1.66}


def splits() -> tuple[data.Dataset, data.Dataset, str]:
    try:
        return data.load("fashion_mnist", "val"), data.load("fashion_mnist", "test"), "all images"
    except DataError as error:
        console.print(f"[yellow]{error}\nUsing the shipped samples instead.[/]")
        return data.sample("val"), data.sample("test"), "shipped samples"


def layers_alone(
    table: cost.CostTable, evaluator: Evaluator, drops: DropTable
) -> list[dict[str, Any]]:
    """(i) Measure the drop of each layer alone in each format."""
    rows = []
    for i, layer in enumerate(drops.layers):
        for k, chosen in enumerate(drops.formats):
            if chosen.name == "fp32":
                continue
            gain = table.intensity({layer: chosen}) / table.intensity({}) - 1
            measured = evaluator.baseline.accuracy - evaluator.evaluate({layer: chosen}).accuracy
            rows.append(
                {
                    "layer": layer,
                    "format": chosen.name,
                    "intensity_gain": gain,
                    "drop_measured": measured,
                    "drop_table": float(drops.drop[i, k]),
                    "drop_table_error": float(drops.error[i, k]),
                }
            )
    return rows


@dataclass(frozen=True, slots=True)
class Setting:
    """ResNet-20, the images it is judged on, and the roofs of this machine."""

    quick: bool
    val: data.Dataset
    test: data.Dataset
    source: str
    model: torch.nn.Module
    calibration: data.Batches
    image: torch.Tensor
    profile: aiq.Hardware


def setting(quick: bool) -> Setting:
    val, test, source = (data.sample("val"), data.sample("test"), "shipped samples")
    if not quick:
        val, test, source = splits()
    model, calibration = models.load("resnet20"), data.batches(data.sample("train"))
    image = test.inputs(test.images[:1])
    return Setting(quick, val, test, source, model, calibration, image, calibrate.quick())


def show_layers_alone(rows: Sequence[Mapping[str, Any]], images: int) -> None:
    console.print(
        text.table(
            f"(i) Each layer alone ({images:,} validation images)",
            ["<layer", "<format", "AI gain", "drop measured", "drop by table", "+-"],
            (
                (
                    row["layer"],
                    row["format"],
                    f"{100 * row['intensity_gain']:.3f} %",
                    text.points(row["drop_measured"]),
                    text.points(row["drop_table"]),
                    text.points(row["drop_table_error"]),
                )
                for row in rows
            ),
        )
    )


def searches(given: Setting, layers: Sequence[str]) -> list[dict[str, Any]]:
    """(ii) Score uniform formats, the two searches of the paper, and ours on the test images."""
    unseen = Evaluator(given.model, data.batches(given.test), calibration=given.calibration)
    layer_graph = graph.extract(given.model, given.image)
    found: list[dict[str, Any]] = []

    def score(
        name: str, formats: Mapping[str, Format], evaluations: int = 0, seconds: float = 0.0
    ) -> None:
        columns = tuple(dict.fromkeys([REFERENCE, *formats.values()]))
        intensity = cost.intensity_table(layer_graph, columns)
        evaluation = unseen.evaluate(formats)
        found.append(
            {
                "name": name,
                "intensity": intensity.intensity(formats),
                "ratio": intensity.intensity(formats) / intensity.intensity({}),
                "accuracy": evaluation.accuracy,
                "drop": unseen.baseline.accuracy - evaluation.accuracy,
                "evaluations": evaluations,
                "seconds": seconds,
                "formats": {name: f.name for name, f in formats.items()},
            }
        )

    def search(name: str, **arguments: Any) -> None:
        plan = aiq.search(
            given.model,
            given.profile,
            arguments.pop("data", data.batches(given.val)),
            example_inputs=given.image,
            calibration=given.calibration,
            sensitivity="measured",
            **arguments,
        )
        score(name, plan.formats, plan.evaluations, plan.seconds)

    for name in ("fp32", "w8", "w4", "w8a8", "w4a4"):
        score(f"uniform {name}", dict.fromkeys(layers, parse(name)))
    few = data.batches(given.val.take(10 if given.quick else 50))
    weighted: dict[str, Any] = {"objective": "weighted", "lam": LAMBDA}
    search("paper: greedy", method="greedy", data=few, **weighted)
    search("paper: coordinate", method="coordinate", data=few, **weighted)
    search("aiq: exact, same objective", **weighted)
    budget: dict[str, Any] = {"objective": "intensity", "max_drop": MAX_DROP}
    search("aiq: most AI, weights 2-8 bits", formats="fp32,w8,w7,w6,w5,w4,w3,w2", **budget)
    search("aiq: most AI, weights and activations 2-8 bits", **budget)
    return found


def show_searches(rows: Sequence[Mapping[str, Any]], images: int, source: str) -> None:
    console.print(
        text.table(
            f"(ii) Searches (scored on {images:,} test images, {source}); the paper: "
            "29.85 -> 45.25 at 0.9 pp",
            ["<chosen by", "FLOP/byte", "x fp32", "accuracy", "drop", "evaluations", "time"],
            (
                (
                    row["name"],
                    f"{row['intensity']:.2f}",
                    f"{row['ratio']:.3f}",
                    f"{100 * row['accuracy']:.2f} %",
                    text.points(row["drop"]),
                    str(row["evaluations"]),
                    text.duration(row["seconds"]) if row["seconds"] else "-",
                )
                for row in rows
            ),
        )
    )


def throughput(given: Setting, batch: int, name: str) -> dict[str, Any]:
    """(iii) Compare MobileNetV2 in one format with float32, predicted and measured."""
    network = models.mobilenet_v2().eval()
    inputs = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plan = aiq.search(
        network,
        given.profile,
        example_inputs=inputs,
        formats=[name],
        max_drop=1.0,
        objective="throughput",
    )
    result = compare(
        plan,
        network,
        given.profile,
        example_inputs=inputs,
        calibration=[inputs],
        min_seconds=2 if given.quick else 10,
    )
    console.print(f"\n(iii) MobileNetV2 (random weights), batch {batch}, all {name}")
    console.print(comparison_table.throughput(result))
    return {
        "batch": batch,
        "format": name,
        "predicted_speedup": result.predicted_speedup,
        "measured_speedup": asdict(result.measured_speedup),
        "verdict": str(result.verdict),
        "noise": result.timing.noise,
        "mismatches": len(result.mismatches),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer images and candidates, not written"
    )
    started = time.perf_counter()
    given = setting(parser.parse_args().quick)

    evaluator = Evaluator(given.model, data.batches(given.val), calibration=given.calibration)
    weight_only = cost.intensity_table(graph.extract(given.model, given.image), PAPER)
    drops = sensitivity.measure(evaluator, PAPER)
    alone = layers_alone(weight_only, evaluator, drops)
    show_layers_alone(alone, len(given.val))

    found = searches(given, drops.layers)
    show_searches(found, len(given.test), given.source)
    compared = [throughput(given, batch, name) for batch in (1, 128) for name in ("bf16", "w8a8")]
    summary = {
        "paper": PAPER_RESULT,
        "images": {"val": len(given.val), "test": len(given.test), "source": given.source},
        "layers_alone": alone,
        "searches": found,
        "throughput": compared,
        "seconds": time.perf_counter() - started,
    }
    if not given.quick:
        save("paper", summary, seeds=[0])
        paper_plots.draw(summary)


if __name__ == "__main__":
    main()
