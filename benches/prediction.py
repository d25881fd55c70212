"""Predicted against measured time, for networks and plans that the calibration never saw.

    python benches/prediction.py --hw epyc_zen4_2vcpu            # predict from a profile
    python benches/prediction.py                                 # calibrate this machine first
    python benches/prediction.py --quick                         # small networks, ten plans

Whole networks: float32, at each batch size, in each runtime, timed and predicted by the levels of
`aiq.cost`: 0 (the network's FLOPs at the lower of peak and intensity x bandwidth), 1 (the roofline,
summed over layers), 2 (calibrated). Plans: for three networks, random mixtures of the runtime's
formats, half of them scattered over the layers, half in contiguous runs, all timed in turns.
Threads are those of the profile: another profile predicts the same machine with one thread.
A row that has been measured is kept: ``benches/results/prediction.json`` is written after every row
and a run that was stopped continues there (``--again`` measures anew).
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau, spearmanr
from throughput import Bert, vision
from torch import nn

import aiq
from aiq import calibrate, cost, machine, measure, models, runtimes
from aiq.cost import CostTable
from aiq.formats import Format, parse, parse_all
from aiq.graph import LayerGraph
from aiq.hardware import Hardware
from aiq.hardware.profile import to_document

SEED = 0
LEVELS = ("level 0", "level 1", "level 2")
console = Console()
Statistics = dict[str, float | None]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Network:
    """A network with random weights, which take as long as any others, and one input's shape."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


NETWORKS = {
    "resnet20": Network(models.resnet20, (3, 32, 32)),
    "resnet18": Network(vision("resnet18"), (3, 224, 224)),
    "resnet50": Network(vision("resnet50"), (3, 224, 224)),
    "mobilenet_v2": Network(vision("mobilenet_v2"), (3, 224, 224)),
    "mobilenet_v3_large": Network(vision("mobilenet_v3_large"), (3, 224, 224)),
    "efficientnet_b0": Network(vision("efficientnet_b0"), (3, 224, 224)),
    "squeezenet1_1": Network(vision("squeezenet1_1"), (3, 224, 224)),
    "shufflenet_v2_x1_0": Network(vision("shufflenet_v2_x1_0"), (3, 224, 224)),
    "regnet_y_400mf": Network(vision("regnet_y_400mf"), (3, 224, 224)),
    "convnext_tiny": Network(vision("convnext_tiny"), (3, 224, 224)),
    "vit_s": Network(vision("vit_s"), (3, 224, 224)),
    "bert_base": Network(Bert, (128, 768)),
}
MIXED = {"resnet20": 16, "mobilenet_v2": 1, "squeezenet1_1": 1}
"""Networks whose mixed plans are timed, and at which batch."""


def main() -> None:
    options = arguments()
    hardware = profile(options)
    done = {} if options.again else finished(hardware)
    with machine.threads(hardware.threads):
        for job in jobs(options, hardware):
            key = "/".join((hardware.name, *map(str, job)))
            if key not in done:
                console.rule(key)
                network, batch, runtime, *kind = job
                measured = plans if kind else whole
                done[key] = measured(network, batch, runtime, hardware, options)
                save(done, hardware)
    save(done, hardware)
    networks, mixed = of_networks(done), of_mixed(done)
    console.print(fill("float32 networks: seconds", networks))
    console.print(fill("mixed plans: speed-up over float32", mixed))
    if options.plot:
        plot(done, options.plot)


Row = dict[str, Any]


def jobs(options: argparse.Namespace, hardware: Hardware) -> list[tuple[Any, ...]]:
    """Return network, batch and runtime of every row, then those of mixed plans."""
    able = [name for name in options.runtime if name in hardware.runtimes]
    return [
        *((n, b, r) for r in able for n in options.network for b in options.batch),
        *((n, MIXED[n], r, "plans") for r in able for n in options.mixed),
    ]


def whole(
    network: str, batch: int, runtime: str, hardware: Hardware, options: argparse.Namespace
) -> Row:
    """Time the float32 network, and predict it."""
    model, x = instance(network, batch)
    graph = aiq.extract(model, x)
    predictors = predict(graph, parse_all("fp32"), hardware, runtime)
    program = runtimes.get(runtime).compile(model, x, {}, [])
    timing = measure.compare_timing(
        {"fp32": partial(program, x)},
        batch=batch,
        min_seconds=options.seconds,
        min_rounds=5,
        warmup_seconds=0.5,
        threads=hardware.threads,
    )
    table = cost.calibrated_table(graph, parse_all("fp32"), hardware, runtime)
    plan = np.zeros((1, len(graph.quantizable)), dtype=np.int64)
    result = {
        "measured": timing["fp32"].seconds.value,
        "noise": timing.noise,
        "steal": timing.steal,
        **{level: float(times(plan)[0]) for level, times in predictors.items()},
        "interval": list(table.interval({})),
        "bound": shares(table),
    }
    console.print({key: result[key] for key in ("measured", *LEVELS)})
    return result


def plans(
    network: str, batch: int, runtime: str, hardware: Hardware, options: argparse.Namespace
) -> Row:
    """Time random plans in turns with float32, and predict them."""
    model, x = instance(network, batch)
    graph = aiq.extract(model, x)
    engine, known = runtimes.get(runtime), hardware.runtimes[runtime].formats
    names = [n for n in ("fp32", "bf16", "w8a8") if known[n].support == "native"]
    formats = tuple(parse(name) for name in names)
    columns = draw(len(graph.quantizable), len(formats), options.plans)
    candidates = {}
    for index, row in enumerate(columns):
        chosen = {y.name: formats[k] for y, k in zip(graph.quantizable, row, strict=True)}
        with console.status(f"compiling plan {index} of {options.plans}"):
            candidates[str(index)] = partial(engine.compile(model, x, chosen, [x[:1]]), x)
    with console.status("timing"):
        timing = measure.compare_timing(
            candidates,
            batch=batch,
            min_seconds=3 * options.seconds,
            warmup_seconds=0.5,
            threads=hardware.threads,
        )
    predictors = predict(graph, formats, hardware, runtime)
    result = {
        "formats": names,
        "plans": columns.tolist(),
        "measured": [t.seconds.value for t in timing.timings],
        "noise": timing.noise,
        "steal": timing.steal,
        **{level: times(columns).tolist() for level, times in predictors.items()},
        "plans_per_second": rate(cost.calibrated_table(graph, formats, hardware, runtime)),
    }
    console.print(f"{result['plans_per_second']:.2g} plans costed in a second")
    return result


def draw(layers: int, formats: int, count: int) -> NDArray[np.int64]:
    """Return float32, and `count` plans: scattered ones, and as many in runs of one format."""
    rng = np.random.default_rng(SEED)
    found = [np.zeros(layers, dtype=np.int64)]
    for index in range(count):
        if index % 2:
            cuts = np.sort(rng.integers(0, layers + 1, rng.integers(1, 4)))
            kinds = rng.integers(0, formats, len(cuts) + 1)
            found.append(kinds[np.searchsorted(cuts, np.arange(layers), side="right")])
        else:
            weights = rng.dirichlet(np.ones(formats))
            found.append(rng.choice(formats, layers, p=weights))
    return np.array(found, dtype=np.int64)


Predictor = Callable[[NDArray[np.int64]], Floats]


def predict(
    graph: LayerGraph, formats: Sequence[Format], hardware: Hardware, runtime: str
) -> dict[str, Predictor]:
    """Return the seconds of plans (P, L), by level."""
    intensity = cost.intensity_table(graph, formats)
    peak, bandwidth = hardware.peak(parse("fp32").compute) * 1e9, hardware.dram_gbps * 1e9
    flops = intensity.flops

    def lower_roof(plans: NDArray[np.int64]) -> Floats:
        return flops / np.minimum(peak, flops / intensity.totals(plans) * bandwidth)

    return {
        "level 0": lower_roof,
        "level 1": cost.roofline_table(graph, formats, hardware).totals,
        "level 2": cost.calibrated_table(graph, formats, hardware, runtime).totals,
    }


def shares(table: CostTable) -> dict[str, float]:
    """Return which part of the float32 time is bound by what."""
    found: dict[str, float] = {}
    for index, cause in enumerate(table.binding({}).values()):
        found[cause] = found.get(cause, 0.0) + float(table.cost[index, 0]) / table.cost[:, 0].sum()
    return found


def rate(table: CostTable, count: int = 200_000) -> float:
    """Return how many plans are costed in a second."""
    rng = np.random.default_rng(SEED)
    rows = rng.integers(0, len(table.formats), (count, len(table.layers)))
    start = time.perf_counter()
    table.totals(rows)
    return count / (time.perf_counter() - start)


def instance(network: str, batch: int) -> tuple[nn.Module, torch.Tensor]:
    """Return a network and a batch of inputs, the same every time."""
    torch.manual_seed(SEED)
    return NETWORKS[network].build().eval(), torch.randn(batch, *NETWORKS[network].shape)


def errors(predicted: Sequence[float], measured: Sequence[float]) -> Statistics:
    """Return what is said of predictions."""
    p, m = np.asarray(predicted), np.asarray(measured)
    error = np.abs(p / m - 1)
    several = len(p) > 2 and np.ptp(p) > 0
    return {
        "MAPE": float(error.mean()),
        "median": float(np.median(error)),
        "worst": float(error.max()),
        "within 10 %": float((error <= 0.1).mean()),
        "within 20 %": float((error <= 0.2).mean()),
        "bias": float((p / m - 1).mean()),
        "Spearman": float(spearmanr(p, m).statistic) if several else None,
        "Kendall": float(kendalltau(p, m).statistic) if several else None,
    }


def of_plans(result: Mapping[str, Any], level: str) -> Statistics:
    """Return what is said of the predicted speed-ups over float32, the first plan."""
    predicted, measured = np.array(result[level]), np.array(result["measured"])
    said, real = predicted[0] / predicted[1:], measured[0] / measured[1:]
    told = np.abs(np.log(real)) > np.log1p(result["noise"])  # the others are neither
    right = np.sign(np.log(said)) == np.sign(np.log(real))
    chosen = measured[int(np.argmin(predicted))]
    return {
        **errors(said, real),
        "sign": float(right[told].mean()) if told.any() else 1.0,
        "regret": float(chosen / measured.min() - 1),
    }


def of_networks(rows: Mapping[str, Row]) -> dict[str, Statistics]:
    """Return what is said of whole networks, by profile, runtime and level."""
    found: dict[str, Statistics] = {}
    singles = {tuple(key.split("/")): row for key, row in rows.items() if "measured" in row}
    singles = {key: row for key, row in singles.items() if len(key) == 4}
    for hw, runtime in dict.fromkeys((key[0], key[3]) for key in singles):
        mine = [row for key, row in singles.items() if (key[0], key[3]) == (hw, runtime)]
        real = [row["measured"] for row in mine]
        inside = [row["interval"][0] <= row["measured"] <= row["interval"][1] for row in mine]
        for level in LEVELS:
            found[f"{hw}/{runtime}/{level}"] = {
                "rows": len(mine),
                "noise": float(np.median([row["noise"] for row in mine])),
                **errors([row[level] for row in mine], real),
                "in interval": float(np.mean(inside)) if level == LEVELS[-1] else None,
            }
    return found


def of_mixed(rows: Mapping[str, Row]) -> dict[str, Statistics]:
    """Return what is said of mixed plans, by profile, network, runtime and level."""
    found = {}
    for key, row in rows.items():
        if key.endswith("/plans"):
            for level in LEVELS:
                name = f"{key.removesuffix('/plans')}/{level}"
                found[name] = {
                    "rows": len(row["measured"]) - 1,
                    "noise": row["noise"],
                    **of_plans(row, level),
                }
    return found


def fill(title: str, rows: Mapping[str, Statistics]) -> Table:
    """Return a table with a line for each row."""
    table = Table("", title=title)
    for name in next(iter(rows.values()), ()):
        table.add_column(name, justify="right")
    for key, values in rows.items():
        table.add_row(key, *(number(name, value) for name, value in values.items()))
    return table


def number(name: str, value: float | None) -> str:
    """Return a number for reading: ranks and counts as they are, the rest in percent."""
    if name == "rows" or value is None:
        return "" if value is None else str(int(value))
    return f"{value:.3f}" if name in {"Spearman", "Kendall"} else f"{value:.1%}"


def plot(rows: Mapping[str, Row], path: Path) -> None:
    """Draw predicted over measured: networks on the left, plans on the right."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - an extra

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.2))
    styles: dict[str, str] = {}
    for key, row in rows.items():
        hw, _, _, runtime, *kind = key.split("/")
        name = f"{runtime}, {hw}"
        color = styles.setdefault(name, f"C{len(styles)}")
        for level, marker in (("level 1", "x"), ("level 2", "o")):
            real, said = np.array(row["measured"]), np.array(row[level])
            axes = right if kind else left
            if kind:
                real, said = real[0] / real[1:], said[0] / said[1:]
            axes.scatter(real, said, color=color, marker=marker, s=16, label=f"{name}, {level}")
    for axes, title in ((left, "seconds, float32"), (right, "speed-up over float32, mixed plans")):
        axes.set(xscale="log", yscale="log", xlabel="measured", ylabel="predicted", title=title)
        ends = (*axes.get_xlim(), *axes.get_ylim())
        limits = np.array([min(ends), max(ends)])
        axes.plot(limits, limits, "k-", linewidth=0.8)
        axes.fill_between(limits, limits * 0.9, limits * 1.1, color="0.85", zorder=0)
        unique = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.legend(unique.values(), unique.keys(), fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    console.print(f"wrote {path}")


def profile(options: argparse.Namespace) -> Hardware:
    """Return the profile to predict from; without a name, measure this machine."""
    if options.hw:
        return Hardware.load(options.hw)
    hardware = None
    for runtime in options.runtime:
        with console.status(f"calibrating {runtime}"):
            hardware = calibrate.calibrate(runtime, threads=options.threads, add_to=hardware)
    assert hardware is not None
    return hardware


def save(rows: Mapping[str, Row], hardware: Hardware) -> None:
    """Write all rows and what is said of them."""
    results = {
        "networks": of_networks(rows),
        "mixed": of_mixed(rows),
        "profiles": {**earlier().get("profiles", {}), hardware.name: digest(hardware)},
        "rows": dict(rows),
    }
    common.save("prediction", results, [SEED])


def finished(hardware: Hardware) -> dict[str, Row]:
    """Return the rows of earlier runs here, without those of another state of the profile."""
    document = earlier()
    if document.get("machine") != machine.describe():
        return {}
    same = document["profiles"].get(hardware.name) == digest(hardware)
    return {k: v for k, v in document["rows"].items() if same or k.split("/")[0] != hardware.name}


def earlier() -> dict[str, Any]:
    """Return what an earlier run wrote."""
    path = common.RESULTS / "prediction.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def digest(hardware: Hardware) -> str:
    """Return what tells one state of a profile from another."""
    text = json.dumps(to_document(hardware), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--hw", help="profile that predicts; calibrate this machine without one")
    parser.add_argument("--threads", type=int, help="threads to calibrate with; all by default")
    names = [name for name in runtimes.available() if name != "eager"]
    parser.add_argument("--runtime", nargs="+", choices=names, default=names)
    parser.add_argument("--network", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--mixed", nargs="*", choices=MIXED, default=list(MIXED))
    parser.add_argument("--plans", type=int, default=30, help="random plans of each network")
    parser.add_argument("--seconds", type=float, default=2.0, help="least length of each timing")
    parser.add_argument("--plot", type=Path, help="file for the scatter plot (needs matplotlib)")
    parser.add_argument("--again", action="store_true", help="measure rows that were measured")
    parser.add_argument("--quick", action="store_true", help="small networks, ten plans")
    options = parser.parse_args()
    if options.quick:
        options.network = ["resnet20", "squeezenet1_1", "shufflenet_v2_x1_0"]
        options.mixed, options.plans, options.batch = ["resnet20"], 10, [1]
    return options


if __name__ == "__main__":
    main()
