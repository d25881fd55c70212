"""Predicted against measured time, for networks and plans that are not in the calibration.

    python benches/prediction.py --hw epyc_zen4_2vcpu            # predict from a profile
    python benches/prediction.py                                 # calibrate this machine first
    python benches/prediction.py --quick                         # small networks, ten plans

Whole networks are timed in float32 at each batch size in each runtime. Their times are predicted at
three levels: FLOPs at the lower of peak and intensity x bandwidth, the roofline summed over layers,
and the calibrated model. Plans are random mixtures of the runtime's formats for three networks;
half of them are scattered over the layers, half have contiguous runs of one format. All plans of a
network are timed in turns. The number of threads is that of the profile. Rows are kept in
``benches/raw/prediction/<profile>.json``, and a run that was stopped goes on from there;
``--again`` times all rows once more and takes the mean. If the profile has changed, rows are
predicted again from the times that were measured.
"""

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from common import console
from networks import Bert, vision
from numpy.typing import NDArray
from prediction_report import LEVELS, Row, fill, of_mixed, of_networks, plot
from torch import nn

import aiq
from aiq import calibrate, cost, machine, measure, models, runtimes
from aiq.cost import CostTable
from aiq.formats import Format, parse, parse_all
from aiq.graph import LayerGraph
from aiq.hardware import Hardware
from aiq.hardware.profile import to_document

SEED = 0
ANCHOR = "anchor"
LEAST_NOISE = 0.005  # of a pass
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Network:
    """A network with random weights, and the shape of one input."""

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
"""Networks whose mixed plans are timed, with their batch."""


def main() -> None:
    options = arguments()
    hardware = profile(options)
    # Results name the processors: set the threads before reading and writing.
    with machine.threads(hardware.threads):
        rows: dict[str, Row] = common.earlier(f"prediction/{hardware.name}")
        state = digest(hardware)
        for (
            key,
            timed_before,
        ) in rows.items():  # first, so that a run that is stopped leaves no mixture
            if timed_before.get("profile") != state:
                with console.status(f"predicting {key}"):
                    timed_before.update(predicted(key, timed_before, hardware))
        for job in jobs(options, hardware):
            key = "/".join(map(str, job))
            if key not in rows or options.again:
                console.rule(key)
                network, batch, runtime, *kind = job
                timed = time_plans if kind else time_whole
                found = timed(network, batch, runtime, hardware, options)
                rows[key] = mean(rows[key], found) if key in rows else found
                rows[key] |= predicted(key, rows[key], hardware)
                save(rows, hardware)
                console.print({name: rows[key][name] for name in ("measured", "level 2")})
        save(rows, hardware)
    console.print(fill("float32 networks: seconds", of_networks(rows)))
    console.print(fill("mixed plans: speed-up over float32", of_mixed(rows)))
    if options.plot:
        plot({hardware.name: rows}, options.plot)


def jobs(options: argparse.Namespace, hardware: Hardware) -> list[tuple[Any, ...]]:
    """Return network, batch and runtime of every row: whole networks, then mixed plans."""
    able = [name for name in options.runtime if name in hardware.runtimes]
    return [
        *((n, b, r) for r in able for n in options.network for b in options.batch),
        *((n, MIXED[n], r, "plans") for r in able for n in options.mixed),
    ]


def time_whole(
    network: str, batch: int, runtime: str, hardware: Hardware, options: argparse.Namespace
) -> Row:
    """Time the float32 network."""
    model, x = instance(network, batch)
    program = runtimes.get(runtime).compile(model, x, {}, [])
    row = timed({"fp32": partial(program, x)}, batch, runtime, hardware, options.rounds)
    return {**row, "measured": row["measured"][0]}


def time_plans(
    network: str, batch: int, runtime: str, hardware: Hardware, options: argparse.Namespace
) -> Row:
    """Time random plans in turns with float32."""
    model, x = instance(network, batch)
    graph = layers(network, batch)
    engine, known = runtimes.get(runtime), hardware.runtimes[runtime].formats
    names = [n for n in ("fp32", "bf16", "w8a8") if known[n].support == "native"]
    formats = parse_all(names)
    columns = draw(len(graph.quantizable), len(formats), options.plans)
    candidates = {}
    compiled = engine.compiler(model, x, [x[:1]])
    for index, row in enumerate(columns):
        chosen = {y.name: formats[k] for y, k in zip(graph.quantizable, row, strict=True)}
        with console.status(f"compiling plan {index} of {options.plans}"):
            candidates[str(index)] = partial(compiled(chosen), x)
    with console.status("timing"):
        row = timed(candidates, batch, runtime, hardware, 2 * options.rounds)
    return {**row, "formats": names, "plans": columns.tolist()}


def timed(
    candidates: Mapping[str, measure.Call],
    batch: int,
    runtime: str,
    hardware: Hardware,
    rounds: int,
) -> Row:
    """Time `candidates` in turns with the anchor of the calibration."""
    result = measure.compare_timing(
        {ANCHOR: anchor(runtime), **candidates},
        batch=batch,
        baseline=next(iter(candidates)),  # for float32 alone, the noise is that of its time
        min_seconds=4.0,
        min_rounds=rounds,
        max_seconds=max(4.0, rounds),  # six rounds are enough after a second for each
        warmup_seconds=1.0,
        threads=hardware.threads,
    )
    beside, *seconds = result.levelled().values()
    return {
        "measured": seconds,
        "anchor": beside,
        "noise": result.noise,
        "steal": result.steal,
        "passes": 1,
    }


@cache
def anchor(runtime: str) -> measure.Call:
    """Compile the anchor; all rows of a runtime share it."""
    return calibrate.anchor(runtimes.get(runtime))


def mean(before: Row, now: Row) -> Row:
    """Return a row after one more pass, with the geometric mean of its times.

    A pass has the inverse of its squared noise as its weight.
    """
    if "passes" not in before or before.get("plans") != now.get("plans"):
        return now
    weights = [max(row["noise"], LEAST_NOISE) ** -2 for row in (before, now)]
    share = weights[1] / sum(weights)
    means = {
        key: np.exp((1 - share) * np.log(before[key]) + share * np.log(now[key])).tolist()
        for key in ("measured", "anchor")
    }
    return {**now, **means, "noise": sum(weights) ** -0.5, "passes": before["passes"] + 1}


def predicted(key: str, row: Row, hardware: Hardware) -> Row:
    """Return the predictions of each level for a row that was timed.

    The speed of a shared machine changes from minute to minute. A calibrated section holds for the
    speed at which the anchor takes `Fit.anchor_us`, so the predictions are multiplied by the time
    of the anchor in this row over `Fit.anchor_us`.
    """
    network, batch, runtime, *_ = key.split("/")
    graph = layers(network, int(batch))
    formats = parse_all(row.get("formats", "fp32"))
    table = cost.calibrated_table(graph, formats, hardware, runtime)
    plans = np.array(row.get("plans", [[0] * len(graph.quantizable)]), dtype=np.int64)
    said = hardware.runtimes[runtime].fit.anchor_us
    slowdown = row["anchor"] * 1e6 / said if said and "anchor" in row else 1.0
    levels = (
        lower_roof(graph, formats, hardware, plans),
        cost.roofline_table(graph, formats, hardware).totals(plans),
        table.totals(plans),
    )
    times: dict[str, Any] = {
        name: (slowdown * seconds).tolist() for name, seconds in zip(LEVELS, levels, strict=True)
    }
    if "plans" in row:
        return {**times, "plans_per_second": rate(table), "profile": digest(hardware)}
    return {
        **{level: seconds for level, (seconds,) in times.items()},
        "profile": digest(hardware),
        "interval": [slowdown * q * table.total({}) for q in table.spread or (1.0, math.inf)],
    }


def lower_roof(
    graph: LayerGraph, formats: Sequence[Format], hardware: Hardware, plans: NDArray[np.int64]
) -> Floats:
    """Return the seconds of plans (P, L) at the lower of peak and intensity x bandwidth."""
    intensity = cost.intensity_table(graph, formats)
    peak, bandwidth = hardware.peak(parse("fp32").compute) * 1e9, hardware.dram_gbps * 1e9
    flops = intensity.flops
    times: Floats = flops / np.minimum(peak, flops / intensity.totals(plans) * bandwidth)
    return times


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


def rate(table: CostTable, count: int = 200_000) -> float:
    """Return how many plans the model prices in a second."""
    rng = np.random.default_rng(SEED)
    rows = rng.integers(0, len(table.formats), (count, len(table.layers)))
    start = time.perf_counter()
    table.totals(rows)
    return count / (time.perf_counter() - start)


def instance(network: str, batch: int) -> tuple[nn.Module, torch.Tensor]:
    """Return a network and a batch of inputs, both from a fixed seed."""
    torch.manual_seed(SEED)
    return NETWORKS[network].build().eval(), torch.randn(batch, *NETWORKS[network].shape)


@cache
def layers(network: str, batch: int) -> LayerGraph:
    """Return the layers of a network."""
    return aiq.extract(*instance(network, batch))


def profile(options: argparse.Namespace) -> Hardware:
    """Return the profile to predict from; without a name, measure this machine."""
    if options.hw:
        hardware = Hardware.load(options.hw)
        differ = machine.differences(hardware.measured_on)
        if differ:
            raise SystemExit(
                f"{options.hw} was measured on a machine that differs from this one in "
                f"{', '.join(differ)}; calibrate this one, or set the same limits."
            )
        return hardware
    found = None
    for runtime in options.runtime:
        with console.status(f"calibrating {runtime}"):
            found = calibrate.calibrate(runtime, threads=options.threads, add_to=found)
    assert found is not None
    return found


def save(rows: Mapping[str, Row], hardware: Hardware) -> None:
    """Write all rows and the errors over them."""
    name = f"prediction/{hardware.name}"
    errors = {"networks": of_networks(rows), "mixed": of_mixed(rows)}
    results = common.joined(common.published(name), errors, 2, "rows")
    common.save(name, {**results, "description": hardware.description}, [SEED], rows)


def digest(hardware: Hardware) -> str:
    """Return a fingerprint of the numbers of a profile."""
    text = json.dumps(to_document(hardware), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--hw", help="profile that predicts; calibrate this machine without one")
    parser.add_argument("--threads", type=int, help="threads to calibrate with; all by default")
    names = [name for name in runtimes.available() if name != "eager"]
    parser.add_argument("--runtime", nargs="+", choices=names, default=names)
    parser.add_argument("--network", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--mixed", nargs="*", choices=MIXED, default=list(MIXED))
    parser.add_argument("--plans", type=int, default=30, help="random plans of each network")
    parser.add_argument(
        "--rounds", type=int, default=50, help="of a timing (of plans: twice as many)"
    )
    parser.add_argument("--plot", type=Path, help="file for the scatter plot (needs matplotlib)")
    parser.add_argument("--again", action="store_true", help="time once more what was timed")
    parser.add_argument("--quick", action="store_true", help="small networks, ten plans")
    options = parser.parse_args()
    if options.quick:
        options.network = ["resnet20", "squeezenet1_1", "shufflenet_v2_x1_0"]
        options.mixed, options.plans, options.batch = ["resnet20"], 10, [1]
    return options


if __name__ == "__main__":
    main()
