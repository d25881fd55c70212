"""One format for each layer against one for each group of output channels (the paper's question 3).

For each network, plans of most intensity by 1, 2, 4 and 8 groups of output channels, around one
divergence from the float32 network. The divergence stands for the accuracy drop,
because it tells plans apart that differ in a few answers of a thousand. A straight line through the
plans of a number of groups, bits of a weight against the logarithm of the divergence, gives the
bits at equal divergence. Divergences are measured on 250 or 500 validation images; the drop of the
plan next to that divergence is measured on the 2,000 test images that aiq ships.

    python benches/channels.py [--network resnet20]
    python benches/channels.py --stopwatch       # whole against split convolutions, in OpenVINO

Plans have weights of 2 to 8 bits or float32; activations are float32, and one image is a batch, as
in the paper. Bytes of the index count.
"""

import argparse
import math
import time
from dataclasses import dataclass
from typing import Any

import channels_split
import numpy as np
import small_networks
import torch
from common import console, earlier, joined, published, save

from aiq import data, graph, models, text
from aiq.evaluate import Evaluator
from aiq.formats import parse_all
from aiq.planning.channel_choices import ChannelTables, channel_tables
from aiq.planning.channels import FORMATS
from aiq.planning.task import Formats
from aiq.sensitivity import estimate_by_channel


@dataclass(frozen=True)
class Network:
    """The validation images of each class, and the divergence in nats at which plans are compared.

    The vision transformer loses so little by 2 bits that 0.05 nats would compare nothing else.
    """

    val: int
    divergence: float


GROUPS = (1, 2, 4, 8)
AROUND = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Budgets of the tables, relative to the one at which whole layers have the divergence."""

FIRST_BUDGET = 0.01
STEPS = 5
CLOSE = 1.2
"""Ratio of divergences that is close enough for the middle budget."""

NETWORKS = {
    "resnet20": Network(50, 0.05),
    "mobilenet_v2": Network(25, 0.05),
    "vit": Network(50, 0.015),
}


def load(name: str) -> torch.nn.Module:
    return small_networks.load(name) if name in small_networks.RECIPES else models.load(name)


def describe(choices: ChannelTables, formats: Formats, weights: int) -> dict[str, Any]:
    """Return intensity, mean bits of a weight with its share of the index, and the index."""
    table = choices.tables.intensity
    layers = [choices.layer_of[name, formats[name].name] for name in table.layers]
    moved = table.total(formats) - (table.total({}) - 4 * weights)
    return {
        "intensity": table.intensity(formats),
        "weight_bits": 8 * moved / weights,
        "index_bytes": sum(layer.index_bytes for layer in layers),
        "split_layers": sum(layer.is_split for layer in layers),
    }


def around(choices: ChannelTables, evaluator: Evaluator, budget: float, weights: int) -> list[Any]:
    """Return the best plans at budgets around one, with their divergences."""
    plans = [
        choices.tables.formats(choices.tables.within(share * budget).choices) for share in AROUND
    ]
    found = evaluator.evaluate_many(plans)
    return [
        (plan, {**describe(choices, plan, weights), "kl": evaluation.kl})
        for plan, evaluation in zip(plans, found, strict=True)
    ]


def middle_budget(choices: ChannelTables, evaluator: Evaluator, divergence: float) -> float:
    """Return a budget of the tables at which the best plan has about this divergence."""
    budget = FIRST_BUDGET
    for _ in range(STEPS):
        plan = choices.tables.formats(choices.tables.within(budget).choices)
        ratio = evaluator.evaluate(plan).kl / divergence
        if 1 / CLOSE < ratio < CLOSE:
            break
        budget /= ratio
    return budget


def at_equal_divergence(rows: list[dict[str, Any]], divergence: float) -> dict[str, float]:
    """Return the bits of a weight by a line, and the deviation of the plans from it."""
    x = np.log2([row["kl"] / divergence for row in rows])
    y = np.array([row["weight_bits"] for row in rows])
    slope, bits = np.polyfit(x, y, 1)
    return {"weight_bits": float(bits), "deviation": float(np.std(y - slope * x - bits, ddof=2))}


def measure(name: str) -> dict[str, Any]:
    started, model, network = time.process_time(), load(name), NETWORKS[name]
    chosen_on = data.batches(data.sample("val").take(network.val))
    calibration = data.batches(data.sample("train"))
    trace = graph.trace(model, next(iter(chosen_on))[0][:1])
    weights = sum(x.weight_elements - x.repeated_elements for x in trace.graph.quantizable)
    evaluator = Evaluator(trace, chosen_on, calibration=calibration)
    drops = estimate_by_channel(evaluator, parse_all(FORMATS))
    sensitivities = time.process_time() - started
    choices = {groups: channel_tables(trace.graph, drops, groups) for groups in GROUPS}
    budget = middle_budget(choices[1], evaluator, network.divergence)
    judge = Evaluator(trace, data.batches(data.sample("test")), calibration=calibration)
    table, rows = choices[1].tables.intensity, {}
    rest = table.total({}) - 4 * weights
    for groups in GROUPS:
        plans = around(choices[groups], evaluator, budget, weights)
        fitted = at_equal_divergence([row for _, row in plans], network.divergence)
        plan, near = min(plans, key=lambda p: abs(math.log(p[1]["kl"] / network.divergence)))
        judged = judge.evaluate(plan)
        rows[str(groups)] = {
            "at_equal_divergence": {
                **fitted,
                "intensity": table.flops / (rest + weights * fitted["weight_bits"] / 8),
            },
            "nearest": {**near, "drop_test": judged.drop, "drop_test_error": judged.drop_error},
            "plans": [row for _, row in plans],
        }
    return {
        "fp32_intensity": table.intensity({}),
        "intensity_without_weights": table.flops / rest,
        "layers": len(table.layers),
        "val_images": evaluator.baseline.samples,
        "test_images": judge.baseline.samples,
        "test_accuracy": judge.baseline.accuracy,
        "groups": rows,
        "sensitivities_cpu_s": round(sensitivities, 1),
        "cpu_s": round(time.process_time() - started, 1),
    }


def show(name: str, found: dict[str, Any]) -> None:
    columns = ["groups", "bits of a weight", "+-", "FLOP/byte", "| plan: divergence", "bits"]
    columns += ["index bytes", "layers split", "drop on test images", "+-"]
    console.print(
        text.table(
            f"{name}: at a divergence of {NETWORKS[name].divergence} nats; float32 has "
            f"{found['fp32_intensity']:.2f} FLOP/byte, and without any weights it were "
            f"{found['intensity_without_weights']:.2f}",
            columns,
            (
                (
                    groups,
                    f"{row['at_equal_divergence']['weight_bits']:.2f}",
                    f"{row['at_equal_divergence']['deviation']:.2f}",
                    f"{row['at_equal_divergence']['intensity']:.2f}",
                    f"{row['nearest']['kl']:.4f}",
                    f"{row['nearest']['weight_bits']:.2f}",
                    f"{row['nearest']['index_bytes']:,}",
                    f"{row['nearest']['split_layers']} of {found['layers']}",
                    text.points(row["nearest"]["drop_test"]),
                    text.points(row["nearest"]["drop_test_error"]),
                )
                for groups, row in found["groups"].items()
            ),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--stopwatch", action="store_true", help="time split convolutions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = earlier("channels")
    if options.stopwatch:
        found["stopwatch"] = channels_split.measure()
    else:
        for name in options.network:
            found[name] = measure(name)
            show(name, found[name])
            summary(found)
    summary(found)


def summary(found: dict[str, Any]) -> None:
    networks = {
        name: {"divergence": network.divergence, **found[name]}
        for name, network in NETWORKS.items()
        if name in found
    }
    document = {"networks": networks, "stopwatch": found.get("stopwatch", {})}
    save("channels", joined(published("channels"), document, 2), [0], found)


if __name__ == "__main__":
    main()
