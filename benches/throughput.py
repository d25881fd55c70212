"""Throughput of plans and of every uniform precision, in every runtime, predicted and measured.

    python benches/throughput.py                       # all rows, about an hour on two cores
    python benches/throughput.py --minutes 45          # start no row later; the next call goes on
    python benches/throughput.py --network mobilenet_v2 --batch 128 --runtime inductor openvino

For each network, batch and runtime four programs are timed in turns once the search is over: all
layers in float32, all in bfloat16, all in int8, and the plan that ``aiq.search(...,
measure_top=N)`` returns. For trained networks float32 in eager PyTorch, the baseline of the paper,
is timed as well. The accuracy of trained networks is measured on the 10,000 test images of
Fashion-MNIST; the other networks have random weights, and no accuracy is claimed. All rows are kept
in ``benches/raw/throughput/<profile>.json``, and a run that was stopped goes on from there;
``--again`` measures them again. The summary keeps rows of earlier days that were not measured now;
each has its date.

Batch 128 is timed for the networks of 32 x 32 images and the smallest transformer. In the others
one call of 128 takes up to a minute on two cores, and as at batch 16 only arithmetic matters.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from common import console
from networks import Bert, vision
from throughput_report import EAGER, PLAN, brief, report, summary
from torch import nn

import aiq
from aiq import calibrate, cost, data, hardware, machine, measure, models, runtimes, sensitivity
from aiq.data import Batches
from aiq.drops import DropTable
from aiq.errors import DataError
from aiq.evaluate import Evaluation, Evaluator
from aiq.evaluate.confidence import drop_limit
from aiq.formats import Format, parse_all
from aiq.graph import Op
from aiq.graph.export import Inputs
from aiq.runtimes import Compiled, Runtime, Support, instructions

SEED = 0
UNIFORM = ("fp32", "bf16", "w8a8")
FORMATS = (*UNIFORM, "w8a8bf16")  # of the plan
MAX_DROP, CONFIDENCE = 0.01, 0.95
CALIBRATION_IMAGES = 250
SENSITIVITY_IMAGES = (
    50  # of each class, enough to compare layers; plans are evaluated on all images
)
CACHE = Path(tempfile.gettempdir()) / "aiq-throughput"  # evaluations that rows share


@dataclass(frozen=True)
class Network:
    """A network, the shape of one input, the batches to time, and whether it is trained."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batches: tuple[int, ...]
    trained: bool = False


NETWORKS = {
    "mobilenet_v2": Network(
        partial(models.load, "mobilenet_v2"), (3, 32, 32), (128, 16, 1), trained=True
    ),
    "resnet20": Network(partial(models.load, "resnet20"), (3, 32, 32), (128, 16, 1), trained=True),
    "mobilenet_v2_224": Network(vision("mobilenet_v2"), (3, 224, 224), (1, 16)),
    "mobilenet_v3": Network(vision("mobilenet_v3_large"), (3, 224, 224), (1, 16)),
    "efficientnet_b0": Network(vision("efficientnet_b0"), (3, 224, 224), (1, 16)),
    "regnet_y_400mf": Network(vision("regnet_y_400mf"), (3, 224, 224), (1, 16)),
    "shufflenet_v2": Network(vision("shufflenet_v2_x1_0"), (3, 224, 224), (1, 16)),
    "convnext_t": Network(vision("convnext_tiny"), (3, 224, 224), (1, 16)),
    "resnet18": Network(vision("resnet18"), (3, 224, 224), (1, 16)),
    "vit_s": Network(vision("vit_s"), (3, 224, 224), (1, 16, 128)),
    "resnet50": Network(vision("resnet50"), (3, 224, 224), (1, 16)),
    "bert_base": Network(Bert, (128, 768), (1, 16)),
}
"""Networks in the order in which they are measured; the slowest come last."""


def main() -> None:
    options = arguments()
    profile = this_machine() if options.hw is None else aiq.Hardware.load(options.hw)
    done: dict[str, Any] = common.earlier(f"throughput/{profile.name}")
    published = common.published(f"throughput/{profile.name}").get("rows")
    started = time.monotonic()
    for name, batch, runtime in rows(options):
        key = f"{name}/{batch}/{runtime}"
        known = key in done and not options.again
        if known or time.monotonic() - started > 60 * options.minutes:
            continue
        console.rule(key)
        begun = time.monotonic()
        try:
            done[key] = row(name, batch, runtime, profile, options)
        except DataError as error:  # the weights are not there (yet)
            console.print(f"left out: {error}")
            continue
        done[key]["minutes"] = round((time.monotonic() - begun) / 60, 2)
        summaries = {key: brief(found) for key, found in done.items()}
        rows_now = common.joined(published, summaries)
        results = {"description": profile.description, "rows": rows_now}
        common.save(f"throughput/{profile.name}", results, [SEED], done)
    console.print(report(done))
    console.print(summary(done))


def rows(options: argparse.Namespace) -> Iterator[tuple[str, int, str]]:
    """Yield network, batch and runtime of each row; the big batches of big networks come last."""
    for heavy in (False, True):
        for name in options.network:
            network = NETWORKS[name]
            for batch in network.batches:
                if batch not in options.batch or heavy != (not network.trained and batch > 1):
                    continue
                for runtime in options.runtime:
                    yield name, batch, runtime


@dataclass
class Remembering:
    """A runtime that keeps its programs, because search and final timing share them."""

    engine: Runtime
    programs: dict[tuple[tuple[str, str], ...], Compiled] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def version(self) -> str:
        return self.engine.version

    def support(self, op: Op, fmt: Format) -> Support:
        return self.engine.support(op, fmt)

    def compiler(
        self, model: nn.Module, example_inputs: Inputs, calibration: Iterable[Inputs], **more: Any
    ) -> Callable[[Mapping[str, Format]], Compiled]:
        compiled = self.engine.compiler(model, example_inputs, calibration, **more)

        def remembered(formats: Mapping[str, Format]) -> Compiled:
            key = tuple((layer, fmt.name) for layer, fmt in formats.items())
            if key not in self.programs:
                self.programs[key] = compiled(formats)
            return self.programs[key]

        return remembered


def row(
    name: str, batch: int, runtime: str, profile: aiq.Hardware, options: argparse.Namespace
) -> dict[str, Any]:
    """Measure one row: search with the stopwatch, then time all candidates in turns again."""
    network, model = NETWORKS[name], build(name)
    x, calibration = inputs(network, batch)
    engine = Remembering(runtimes.get(runtime))
    graph = aiq.extract(model, x)
    formats = [
        fmt
        for fmt in parse_all(FORMATS)
        if all(engine.support(layer.op, fmt) is Support.NATIVE for layer in graph.quantizable)
    ]
    with console.status("searching") as status:
        plan = aiq.search(
            model,
            profile,
            data.batches(data.sample("val")) if network.trained else None,
            calibration=calibration,
            example_inputs=x,
            formats=formats,
            runtime=engine,
            # Random weights have no accuracy to lose.
            sensitivity=drops(name) if network.trained else lambda layer, fmt: 0.0,
            max_drop=MAX_DROP,
            confidence=CONFIDENCE,
            measure_top=options.top,
            cache=CACHE,
            progress=lambda stage, done, total: status.update(f"{stage} {done}/{total}"),
        )
    candidates = {f.name: dict.fromkeys(plan.formats, f) for f in formats if f.name in UNIFORM}
    candidates[PLAN] = plan.formats
    compiled = engine.compiler(model, x, calibration)
    programs = {name: compiled(formats) for name, formats in candidates.items()}
    calls = {n: partial(program, x) for n, program in programs.items()}
    if network.trained:
        eager = runtimes.get("eager").compile(model, x, {}, ())
        calls[EAGER] = partial(eager, x)
    with console.status("timing"):
        timing = measure.compare_timing(
            calls,
            batch=batch,
            min_seconds=options.seconds * len(calls),
            max_seconds=4 * options.seconds * len(calls),
        )
    table = cost.time_table(graph, formats, profile, runtime)
    with console.status("accuracy"):
        scores = {
            n: score(name, program, batch) if network.trained else None
            for n, program in programs.items()
        }
    result = {
        **chosen(plan, candidates, timing),
        "level": str(table.level),
        "candidates": {
            n: {
                "seconds": asdict(timing[n].seconds),
                "images_per_second": timing[n].throughput,
                "latency_95": timing[n].latency(0.95),
                "speedup": asdict(timing.speedup(n)),
                "predicted_seconds": table.total(candidates[n]),
                "mismatches": [list(mismatch) for mismatch in program.mismatches],
                "accuracy": scores[n],
            }
            for n, program in programs.items()
        },
        "peak_bytes": machine.peak_memory(calls[PLAN]),
    }
    console.print(report({f"{name}/{batch}/{runtime}": result}))
    return result


def chosen(
    plan: aiq.Plan, candidates: Mapping[str, Mapping[str, Format]], timing: measure.Comparison
) -> dict[str, Any]:
    """Return the plan of a row, and its time against those of all others."""
    assert plan.shortlist is not None
    within = [timed.name for timed in plan.shortlist.plans if timed.name in candidates]
    best = min(within, key=lambda n: timing[n].seconds.value)
    eager = None
    if EAGER in [t.name for t in timing.timings]:
        eager = {
            "seconds": asdict(timing[EAGER].seconds),
            "plan_speedup": asdict(timing.speedup(PLAN, EAGER)),
        }
    return {
        "best_uniform": best,
        "plan_against_best": asdict(timing.speedup(PLAN, best)),
        "verdict_against_best": str(timing.verdict(PLAN, best)),
        "plan_is_uniform": plan.formats in [candidates[n] for n in candidates if n != PLAN],
        "noise": timing.noise,
        "steal": timing.steal,
        "threads": timing.threads,
        "formats": {layer: str(fmt) for layer, fmt in plan.formats.items()},
        "simulated_accuracy": None if plan.accuracy is None else asdict(plan.accuracy),
        "shortlist": asdict(plan.shortlist),
        "eager": eager,
        "samples": {t.name: t.samples for t in timing.timings},
    }


@cache
def build(name: str) -> nn.Module:
    """Return the network, always with the same weights."""
    torch.manual_seed(SEED)
    return NETWORKS[name].build().eval()


@cache
def drops(name: str) -> DropTable:
    """Return the sensitivities of a trained network, which hold for every runtime and batch."""
    with console.status("sensitivity"):
        evaluator = Evaluator(
            build(name),
            data.batches(data.sample("val").take(SENSITIVITY_IMAGES)),
            calibration=calibration_batches(),
            weight_bits=instructions.weight_bits(),
            cache=CACHE,
        )
        return sensitivity.measure(evaluator, parse_all(UNIFORM))


@cache
def calibration_batches() -> tuple[torch.Tensor, ...]:
    """Return the images on which the activations of trained networks are observed."""
    (images, _), *_ = data.batches(data.sample("train"), CALIBRATION_IMAGES)
    return (images,)


def inputs(network: Network, batch: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return one batch of inputs, and the batches on which activations are observed."""
    if network.trained:
        (images,) = calibration_batches()
        return images[torch.arange(batch) % len(images)], [images]
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(batch, *network.shape, generator=generator)
    return x, [x[:4]]


@cache
def test_images() -> Batches | None:
    try:
        return data.batches(data.fashion_mnist("test"))
    except DataError as error:
        console.print(f"accuracy is not measured: {error}")
        return None


@cache
def float32_scores(name: str) -> np.ndarray:
    """Return which test images the float32 network classifies correctly in PyTorch."""
    given = test_images()
    assert given is not None
    with torch.inference_mode():
        return np.concatenate([(build(name)(x).argmax(1) == y).double().numpy() for x, y in given])


def score(name: str, program: Compiled, batch: int) -> dict[str, Any] | None:
    """Return the accuracy of a program on the 10,000 test images, and the limit of its drop."""
    given = test_images()
    if given is None:
        return None
    right = []
    for images, labels in data.batches(given.dataset, batch):
        padded = torch.cat([images, images.new_zeros(batch - len(images), *images.shape[1:])])
        right.append((program(padded)[: len(labels)].argmax(1) == labels).double().numpy())
    scores, reference = np.concatenate(right), float32_scores(name)
    compared = Evaluation(scores, reference, np.zeros_like(scores), math.nan)
    return {
        "accuracy": float(scores.mean()),
        "float32": float(reference.mean()),
        "drop": compared.drop,
        "drop_limit": drop_limit(compared, CONFIDENCE),
        "confidence": CONFIDENCE,
        "images": len(scores),
    }


def this_machine() -> aiq.Hardware:
    """Return the calibrated profile of this machine, or its roofs if there is none."""
    for name in hardware.profile_files():
        profile = aiq.Hardware.load(name)
        differ = machine.differences(profile.measured_on)
        if profile.runtimes and not differ and profile.threads == torch.get_num_threads():
            return profile
    console.print("No profile of this machine: predictions are rooflines (see `aiq calibrate`).")
    return calibrate.quick()


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16, 128])
    names: Iterable[str] = [name for name in runtimes.available() if name != "eager"]
    parser.add_argument("--runtime", nargs="+", choices=names, default=list(names))
    parser.add_argument("--hw", help="profile that predicts; default: this machine's")
    parser.add_argument("--top", type=int, default=4, help="plans the search times (measure_top)")
    parser.add_argument("--seconds", type=float, default=2.0, help="timing of each candidate")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no row after this")
    parser.add_argument("--again", action="store_true", help="measure rows that were measured")
    return parser.parse_args()


if __name__ == "__main__":
    main()
