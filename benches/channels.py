"""One format for each layer against one for each group of output channels (the paper's question 3).

For each network: the plan of most intensity within an accuracy drop of one percentage point whose
layers have one format each, and plans by 2, 4 and 8 groups of channels of the same divergence. The
divergence from the float32 network stands for the drop, because it tells plans apart that differ
in a few answers of a thousand. It is measured on 250 or 500 validation images; the drop of each
plan is measured on the 2,000 test images that aiq ships.

    python benches/channels.py [--network resnet20]
    python benches/channels.py --stopwatch       # whole against split convolutions, in OpenVINO

Plans have weights of 2 to 8 bits or float32; activations are float32, as in the paper. Bytes of the
index count.
"""

import argparse
import time
from typing import Any

import channels_split
import small_networks
import torch
from common import RESULTS, console, earlier, save

from aiq import data, graph, models, text
from aiq.evaluate import Evaluator
from aiq.formats import parse_all
from aiq.planning import loop
from aiq.planning.accuracy import AccuracyMeter
from aiq.planning.channel_choices import ChannelTables, channel_tables
from aiq.planning.channels import FORMATS
from aiq.planning.task import Formats, Task
from aiq.progress import silent
from aiq.sensitivity import estimate_by_channel

MAX_DROP = 0.01
GROUPS = (1, 2, 4, 8)
ROUNDS = 8
CLOSE = 0.02
"""Relative difference of divergences that counts as equal."""


NETWORKS = {"resnet20": 50, "mobilenet_v2": 25, "vit": 50}
"""Network -> validation images of each class on which its plans are chosen."""


def load(name: str) -> torch.nn.Module:
    return small_networks.load(name) if name in small_networks.RECIPES else models.load(name)


def same_divergence(
    choices: ChannelTables, evaluator: Evaluator, wanted: float, most: float
) -> Formats:
    """Return the plan of most intensity found whose measured divergence is at most `wanted`.

    The budget of the tables moves in proportion to the divergence, or to the middle of what is
    known to hold and to fail. `most` is the first budget that is taken to fail.
    """
    low, high, budget, best = 0.0, most, most / 4, None
    for _ in range(ROUNDS):
        formats = choices.tables.formats(choices.tables.within(budget).choices)
        kl = evaluator.evaluate(formats).kl
        if kl <= wanted:
            best, low = formats, budget
            if kl >= (1 - CLOSE) * wanted:
                break
        else:
            high = budget
        aimed = budget * wanted / kl
        budget = aimed if low < aimed < high else (low + high) / 2
    assert best is not None, "no plan has so little divergence"
    return best


def describe(choices: ChannelTables, formats: Formats) -> dict[str, Any]:
    """Return intensity, bits and bytes of a plan."""
    table = choices.tables.intensity
    layers = [choices.layer_of[name, formats[name].name] for name in table.layers]
    column = {f: k for k, f in enumerate(table.formats)}
    reference = column[parse_all("fp32")[0]]
    saved = sum(
        int(row[reference] - row[column[formats[name]]])
        for name, row in zip(table.layers, table.cost, strict=True)
    )
    return {
        "intensity": table.intensity(formats),
        "bytes_saved": saved / 8,
        "index_bytes": sum(layer.index_bytes for layer in layers),
        "split_layers": sum(layer.is_split for layer in layers),
        "layers": len(layers),
    }


def measure(name: str) -> dict[str, Any]:
    started, model = time.process_time(), load(name)
    chosen_on = data.batches(data.sample("val").take(NETWORKS[name]))
    calibration = data.batches(data.sample("train"))
    trace = graph.trace(model, next(iter(chosen_on))[0])
    weights = sum(x.weight_elements - x.repeated_elements for x in trace.graph.quantizable)
    evaluator = Evaluator(trace, chosen_on, calibration=calibration)
    drops = estimate_by_channel(evaluator, parse_all(FORMATS))
    sensitivities = time.process_time() - started
    choices = {groups: channel_tables(trace.graph, drops, groups) for groups in GROUPS}
    task = Task(choices[1].tables, None, MAX_DROP, 0.5, None, "exact", None)
    outcome = loop.search_verified(task, AccuracyMeter(evaluator, 0.5), silent)
    wanted = evaluator.evaluate(outcome.formats).kl
    plans = {1: outcome.formats}
    most = 4 * choices[1].tables.predicted_drop(outcome.formats)
    for groups in GROUPS[1:]:
        plans[groups] = same_divergence(choices[groups], evaluator, wanted, most)
    judge = Evaluator(trace, data.batches(data.sample("test")), calibration=calibration)
    rows = {}
    for groups, formats in plans.items():
        found = judge.evaluate(formats)
        row = describe(choices[groups], formats)
        row |= {
            "weight_bits": 32 - 8 * row["bytes_saved"] / weights,
            "kl_val": evaluator.evaluate(formats).kl,
            "kl_test": found.kl,
            "drop_test": found.drop,
            "drop_test_error": found.drop_error,
        }
        rows[str(groups)] = row
    table = choices[1].tables.intensity
    return {
        "fp32_intensity": table.intensity({}),
        "intensity_without_weights": table.flops / (table.total({}) - 4 * weights),
        "val_images": evaluator.baseline.samples,
        "test_images": judge.baseline.samples,
        "test_accuracy": judge.baseline.accuracy,
        "groups": rows,
        "sensitivities_cpu_s": round(sensitivities, 1),
        "cpu_s": round(time.process_time() - started, 1),
    }


def show(name: str, found: dict[str, Any]) -> None:
    columns = ["groups", "FLOP/byte", "bits of a weight", "index bytes", "layers split"]
    columns += ["divergence", "drop on test images", "+-"]
    console.print(
        text.table(
            f"{name}: float32 {found['fp32_intensity']:.2f} FLOP/byte, without any weights "
            f"{found['intensity_without_weights']:.2f}",
            columns,
            (
                (
                    groups,
                    f"{r['intensity']:.2f}",
                    f"{r['weight_bits']:.2f}",
                    f"{r['index_bytes']:,}",
                    f"{r['split_layers']} of {r['layers']}",
                    f"{r['kl_val']:.4f}",
                    text.points(r["drop_test"]),
                    text.points(r["drop_test_error"]),
                )
                for groups, r in found["groups"].items()
            ),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--stopwatch", action="store_true", help="time split convolutions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = earlier("channels") if (RESULTS / "channels.json").exists() else {}
    if options.stopwatch:
        found["stopwatch"] = channels_split.measure()
    else:
        for name in options.network:
            found[name] = measure(name)
            show(name, found[name])
            summary(found)
    summary(found)


def summary(found: dict[str, Any]) -> None:
    networks = {name: found[name] for name in NETWORKS if name in found}
    document = {"max_drop": MAX_DROP, "networks": networks, "stopwatch": found.get("stopwatch")}
    save("channels", document, [0], found)


if __name__ == "__main__":
    main()
