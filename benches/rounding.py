"""Rounding: what weights lose that are rounded to nearest, by GPTQ, and adaptively.

All three round the same weights with the same scales, on 512 training images. Each row is judged
on the same 10,000 test images (2,000 shipped ones if Fashion-MNIST is not on disk): uniform
formats, and the plan of ``objective="accuracy"`` whose weights have 3 bits in the mean.

    python benches/rounding.py [--network resnet20]
"""

import argparse
import itertools
import time
from dataclasses import replace
from typing import Any

import torch
from common import console, earlier, joined, published, save

import aiq
from aiq import data, graph, models, text
from aiq.data.datasets import Batches
from aiq.errors import DataError
from aiq.evaluate import Evaluation, Evaluator
from aiq.formats import WeightRounding, parse, parse_all
from aiq.graph import Trace

CALIBRATION = 512
UNIFORM = ("w8a8", "w4a8", "w3a8", "w2a8")
MIXED = tuple(f"w{bits}a8" for bits in range(2, 9))
MEAN_BITS = 3.0


def images() -> tuple[list[Any], Batches]:
    """Return 512 images to calibrate and search on, and the images to judge on."""
    try:
        train, test = data.load("fashion_mnist", "train"), data.load("fashion_mnist", "test")
    except DataError:
        train, test = data.sample("val"), data.sample("test")
    size = 128
    few = list(itertools.islice(data.batches(train, size), CALIBRATION // size))
    return few, data.batches(test)


def row(name: str, how: str, found: Evaluation, seconds: float) -> dict[str, Any]:
    return {
        "plan": name,
        "rounding": how,
        "kl": found.kl,
        "kl_error": found.kl_error,
        "drop": found.drop,
        "drop_error": found.drop_error,
        "cpu_seconds": seconds,
    }


def budget(trace: Trace) -> int:
    """Return the bytes of all weights if those with a choice have `MEAN_BITS` bits."""
    layers = trace.graph.quantizable
    elements = sum(layer.weight_elements - layer.repeated_elements for layer in layers)
    fixed = sum(parameter.bytes for parameter in trace.graph.undecided)
    return fixed + int(elements * MEAN_BITS / 8)


def measure(network: str) -> list[dict[str, Any]]:
    model = models.load(network)
    few, judged = images()
    exported, rows = graph.trace(model, few[0][0]), []
    names = [layer.name for layer in exported.graph.quantizable]
    for how in WeightRounding:
        trace = replace(exported, rounding=how)
        evaluator = Evaluator(trace, judged, calibration=few)
        for name in UNIFORM:
            started = time.process_time()
            found = evaluator.evaluate(dict.fromkeys(names, parse(name)))
            rows.append(row(name, how, found, time.process_time() - started))
        started = time.process_time()
        plan = aiq.search(
            model,
            "xeon_2vcpu",
            few,
            objective="accuracy",
            formats=parse_all(MIXED),
            max_size=budget(exported),
            rounding=str(how),
            sensitivity="kl",
            cache=False,
            progress=None,
        )
        spent = time.process_time() - started
        rows.append(row("mixed, 3 bits", how, evaluator.evaluate(plan.formats), spent))
        console.print(f"{network}, {how}: {time.process_time():.0f} CPU s so far")
    return rows


def show(network: str, rows: list[dict[str, Any]]) -> None:
    columns = ["<weights", "<rounding", "divergence, nats", "drop", "standard error", "CPU s"]
    console.print(
        text.table(
            network,
            columns,
            (
                (
                    r["plan"],
                    r["rounding"],
                    f"{r['kl']:.4f}",
                    text.points(r["drop"]),
                    text.points(r["drop_error"]),
                    f"{r['cpu_seconds']:.0f}",
                )
                for r in rows
            ),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="append", choices=["resnet20", "mobilenet_v2"])
    asked = parser.parse_args().network or ["resnet20", "mobilenet_v2"]
    torch.set_num_threads(1)
    found = earlier("rounding")
    for network in asked:
        found[network] = measure(network)
        show(network, found[network])
        networks = joined(published("rounding").get("networks"), found, 2)
        save("rounding", {"calibration_images": CALIBRATION, "networks": networks}, [0], found)


if __name__ == "__main__":
    main()
