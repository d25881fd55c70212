"""Integer arithmetic against its simulation, and the gain from cross-layer equalisation.

    python benches/integer.py [--images 2000] [--network resnet20 mobilenet_v2]

Both trained networks with every layer in w8a8, on test images of Fashion-MNIST. The simulation
rounds in float32; `aiq.quantize.reference.integer` computes the same network in integers only
(Jacob et al. 2018). The result is the share of images for which both give the same class, and the
accuracy of both. The simulation also runs with one scale for all channels of a weight, with and
without equalised weights (Nagel et al. 2019), and is compared with one scale per channel.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from common import console, joined, published, save
from torch import Tensor

from aiq import data, graph, models, text
from aiq.formats import Format, Granularity, parse
from aiq.quantize.fold import fold
from aiq.quantize.reference.equalize import equalize
from aiq.quantize.reference.integer import IntegerNetwork
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe

BATCH = 25
WEIGHTS = (8, 6, 5)
Run = Callable[[Tensor], Any]


def classes(run: Run, images: Tensor) -> Tensor:
    with console.status(""), torch.inference_mode():
        return torch.cat([run(x).argmax(1) for x in images.split(BATCH)])


def uniform(simulator: Simulator, fmt: Format) -> dict[str, Format]:
    return {layer.name: fmt for layer in simulator.layers}


def measure(name: str, images: Tensor, labels: Tensor, calibration: Tensor) -> dict[str, Any]:
    model = models.load(name)
    folded = fold(graph.trace(model, images[:BATCH]))
    equal = equalize(folded)
    as_is, equalised = (Simulator(t, observe(t, [calibration])) for t in (folded, equal))

    def accuracy(found: Tensor) -> float:
        return float((found == labels).double().mean())

    def simulated(simulator: Simulator, fmt: Format) -> Tensor:
        formats = uniform(simulator, fmt)
        return classes(lambda x: simulator.run(x, formats), images)

    rounded = simulated(as_is, parse("w8a8"))
    integers = classes(IntegerNetwork(as_is, uniform(as_is, parse("w8a8"))).run, images)
    scales = {}
    for bits in WEIGHTS:
        channel = parse(f"w{bits}a8")
        tensor = replace(channel, weight_granularity=Granularity.TENSOR)
        scales[channel.name] = {
            "per channel": accuracy(simulated(as_is, channel)),
            "per tensor": accuracy(simulated(as_is, tensor)),
            "per tensor, equalised": accuracy(simulated(equalised, tensor)),
        }
    return {
        "layers": len(as_is.layers),
        "images": len(images),
        "agreement": float((integers == rounded).double().mean()),
        "float32": accuracy(classes(model, images)),
        "simulated": accuracy(rounded),
        "integers": accuracy(integers),
        "scales": scales,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--network", nargs="+", choices=models.NETWORKS, default=models.NETWORKS)
    options = parser.parse_args()
    test, train = data.sample("test"), data.sample("train")
    images = test.inputs(test.images[: options.images])
    labels = torch.as_tensor(test.labels[: options.images])
    calibration = train.inputs(train.images[:250])
    found = {name: measure(name, images, labels, calibration) for name in options.network}
    console.print(
        text.table(
            "w8a8: integers alone against their simulation",
            ["<network", "images", "same class", "float32", "simulated", "integers"],
            (
                (
                    name,
                    f"{row['images']:,}",
                    f"{100 * row['agreement']:.2f} %",
                    *(f"{100 * row[k]:.2f} %" for k in ("float32", "simulated", "integers")),
                )
                for name, row in found.items()
            ),
        )
    )
    console.print(
        text.table(
            "Weights that share a scale: accuracy",
            ["<network", "<format", "per channel", "per tensor", "equalised"],
            (
                (name, fmt, *(f"{100 * value:.2f} %" for value in accuracies.values()))
                for name, row in found.items()
                for fmt, accuracies in row["scales"].items()
            ),
        )
    )
    known = published("integer").get("networks")
    save("integer", {"networks": joined(known, found, count="images")}, [0])


if __name__ == "__main__":
    main()
