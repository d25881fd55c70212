"""How often the paper's searches end in a local minimum, against exhaustive search (validation 3).

The network is ResNet-56 with 4, 8 and 16 channels (`benches/small_networks.py`): very deep and
narrow, so its accuracy answers to formats neither additively nor monotonically. Consecutive blocks
have one format together, so that all plans can be enumerated:

* *measured*: 6 decisions of fp32, w8a8 and w4a4; all 729 plans are evaluated on the same images,
  and every search is judged by these measurements;
* *tables*: 12 decisions, 531,441 plans, whose drops are the sums of the drops of single decisions.

Greedy search and coordinate descent start from float32, as in the paper, and from every plan (on
the tables, from 300 random ones). A walk is stuck if the plan it ends with is worse than the best.

    python benches/robustness.py           # some CPU minutes; evaluations are kept in benches/raw
    python benches/robustness.py --draw    # only the picture
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pictures
import small_networks
import torch
from common import RAW, RESULTS, console, save
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from aiq import cost, data, graph, solver, text
from aiq.errors import InfeasibleError
from aiq.evaluate import Evaluator
from aiq.formats import REFERENCE, parse_all
from aiq.planning import loop
from aiq.planning.accuracy import AccuracyMeter
from aiq.planning.tables import Tables
from aiq.planning.task import Task
from aiq.progress import silent
from aiq.sensitivity.drop_scale import SLOPES

FORMATS = parse_all("fp32,w8a8,w4a4")
MEASURED, TABLES = 6, 12
IMAGES_PER_CLASS = 60
LAMBDAS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99)
BUDGETS = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
RANDOM_STARTS = 300
SEED = 0
WALKS = {"greedy": solver.greedy_measured, "coordinate": solver.coordinate_measured}
Plan = tuple[int, ...]
Value = Callable[[Sequence[int]], float]


@dataclass(frozen=True)
class Space:
    """Decisions of a network, the bits of each in each format, and the drops of all plans.

    Attributes
    ----------
    bits
        Bits that the layers of each decision move in each format, (decisions, formats).
    drop
        Drop of each plan as a fraction: an array with a dimension for each decision.
    """

    bits: NDArray[np.int64]
    drop: NDArray[np.float64]

    @property
    def totals(self) -> NDArray[np.int64]:
        """Bits of each plan, in the shape of `drop`."""
        sums = np.zeros(self.drop.shape, np.int64)
        for axis, row in enumerate(self.bits):
            sums += row.reshape([-1 if i == axis else 1 for i in range(self.drop.ndim)])
        return sums

    def objectives(self) -> dict[str, NDArray[np.float64]]:
        """Return the objective of each plan, less being better, by name."""
        totals = self.totals
        ratio = totals.flat[0] / totals
        found = {f"lambda {lam}": -lam * ratio + (1 - lam) * 100 * self.drop for lam in LAMBDAS}
        for budget in BUDGETS:
            within = self.drop <= budget
            found[f"drop {budget}"] = np.where(within, totals.astype(np.float64), math.inf)
        return found


def owners(layers: Sequence[str], decisions: int) -> tuple[int, ...]:
    """Return, for each layer, the position of the first layer of its decision.

    The 27 blocks are divided evenly; the first convolution belongs to the first decision and the
    classifier to the last one.
    """

    def decision(layer: str) -> int:
        if not layer.startswith("blocks."):
            return 0 if layer == "conv1" else decisions - 1
        return int(layer.split(".")[1]) * decisions // 27

    first: dict[int, int] = {}
    return tuple(first.setdefault(decision(layer), i) for i, layer in enumerate(layers))


def plan_of(layers: Sequence[str], tied: Sequence[int], choices: Sequence[int]) -> dict[str, Any]:
    position = {owner: d for d, owner in enumerate(sorted(set(tied)))}
    return {
        name: FORMATS[choices[position[owner]]] for name, owner in zip(layers, tied, strict=True)
    }


def walked(space: Space, starts: Sequence[Plan]) -> dict[str, Any]:
    """Return for each objective and walk where it ends, from float32 and from `starts`."""
    found: dict[str, Any] = {}
    counts, totals = list(space.drop.shape), space.totals
    for name, values in space.objectives().items():
        least = float(values.min())
        table = values.tolist()

        def value(choices: Sequence[int], table: Any = table) -> float:
            for choice in choices:
                table = table[choice]
            return table

        best = int(np.argmin(values))
        row: dict[str, Any] = {"best": least, "best_bits": int(totals.flat[best])}
        row["best_plan"] = [int(k) for k in np.unravel_index(best, totals.shape)]
        allowed = [start for start in starts if math.isfinite(value(start))]
        for walk, search in WALKS.items():
            ends = [search(counts, value, start) for start in allowed]
            first = search(counts, value)
            ended = np.array([end.value for end in ends])
            bits = np.array([int(totals[end.choices]) for end in ends])
            stuck = ended > least + 1e-9 * abs(least)
            row[walk] = {
                "from_fp32": first.value,
                "from_fp32_plan": list(first.choices),
                "from_fp32_stuck": bool(first.value > least + 1e-9 * abs(least)),
                "from_fp32_intensity": row["best_bits"] / int(totals[first.choices]),
                "evaluations": first.evaluations,
                "starts": len(ends),
                "stuck": float(stuck.mean()),
                "median_intensity": float(np.median(row["best_bits"] / bits)),
                "worst_intensity": float((row["best_bits"] / bits).min()),
            }
        found[name] = row
    return found


def exact_on_data(
    space: Space, tables: Tables, meter: AccuracyMeter
) -> dict[str, dict[str, float]]:
    """Return what aiq's search on the tables finds, which measures a few plans, by objective."""
    found, totals = {}, space.totals
    column = {owner: d for d, owner in enumerate(sorted(set(tables.owners)))}
    for name, values in space.objectives().items():
        kind, number = name.split()
        lam = float(number) if kind == "lambda" else None
        task = Task(tables, lam, math.inf if lam else float(number), 0.5, None, "exact", None)
        fresh = AccuracyMeter(meter.evaluator, 0.5)
        before = fresh.evaluator.evaluations
        try:
            outcome = loop.search_verified(task, fresh, silent)
        except InfeasibleError:
            outcome = None  # float32 is always within the budget
        choices = [0] * len(column)
        for layer, owner in zip(tables.cost.layers, tables.owners, strict=True):
            chosen = REFERENCE if outcome is None else outcome.formats[layer]
            choices[column[owner]] = FORMATS.index(chosen)
        best = int(totals.flat[int(np.argmin(values))])
        found[name] = {
            "value": float(values[tuple(choices)]),
            "plan": choices,
            "intensity": best / int(totals[tuple(choices)]),
            "stuck": bool(values[tuple(choices)] > values.min() + 1e-9 * abs(values.min())),
            "evaluations": fresh.evaluator.evaluations - before,
        }
    return found


def enumerated(space: Space, rows: NDArray[np.float64]) -> dict[str, Any]:
    """Return how many exact answers on additive tables equal the best of all plans."""
    problem = solver.Problem(space.bits, rows)
    equal, asked, seconds = 0, 0, 0.0
    reference = int(space.bits[:, 0].sum())
    for name, values in space.objectives().items():
        kind, number = name.split()
        started = time.process_time()
        if kind == "lambda":
            points = solver.Problem(space.bits, 100 * rows)
            answer = solver.solve_weighted(points, 1.0, float(number), reference=reference)
        else:
            answer = solver.solve(problem, max_drop=float(number))
        seconds += time.process_time() - started
        value = float(values[tuple(answer.choices)]) if answer.choices else math.inf
        asked += 1
        equal += value <= values.min() + 1e-9 * abs(values.min())
    return {"asked": asked, "equal": int(equal), "cpu_seconds": seconds}


def tables_of(
    intensity: cost.CostTable, tied: tuple[int, ...], alone: NDArray[np.float64]
) -> Tables:
    """Return tables in which the drop of a decision is that of its first layer."""
    drop = np.zeros(intensity.cost.shape)
    drop[sorted(set(tied))] = alone
    every = tuple(range(len(FORMATS)))
    return Tables(
        cost=intensity,
        intensity=intensity,
        drop=drop,
        sizes=np.zeros(intensity.cost.shape, np.int64),
        allowed=(every,) * len(intensity.layers),
        shared=tied,
    )


def bits_of(intensity: cost.CostTable, tied: Sequence[int]) -> NDArray[np.int64]:
    return np.array(
        [
            sum(row for row, owner in zip(intensity.cost, tied, strict=True) if owner == mine)
            for mine in sorted(set(tied))
        ]
    )


def singles(evaluator: Evaluator, layers: Sequence[str], tied: Sequence[int]) -> Any:
    """Return the drop of each decision alone, from its divergence, (decisions, formats)."""
    count = len(set(tied))
    plans = [
        plan_of(layers, tied, [k if d == mine else 0 for d in range(count)])
        for mine in range(count)
        for k in range(1, len(FORMATS))
    ]
    kl = np.array([found.kl for found in evaluator.evaluate_many(plans)]).reshape(count, -1)
    return SLOPES["top1"] * np.hstack([np.zeros((count, 1)), kl])


def unseen(
    found: dict[str, Any], model: torch.nn.Module, layers: Sequence[str], tied: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Return by objective and search the drop of what it found on test images, as a fraction."""
    judge = Evaluator(
        model, data.batches(data.sample("test")), calibration=data.batches(data.sample("train"))
    )
    ends = {
        name: {
            "best": row["best_plan"],
            **{walk: row[walk]["from_fp32_plan"] for walk in WALKS},
            "aiq": found["exact"][name]["plan"],
        }
        for name, row in found["searches"].items()
    }
    distinct = list(dict.fromkeys(tuple(plan) for row in ends.values() for plan in row.values()))
    evaluated = judge.evaluate_many([plan_of(layers, tied, plan) for plan in distinct])
    drop = {plan: found.drop for plan, found in zip(distinct, evaluated, strict=True)}
    return {
        name: {search: drop[tuple(plan)] for search, plan in row.items()}
        for name, row in ends.items()
    }


def measure() -> dict[str, Any]:
    started, model = time.process_time(), small_networks.load("resnet56")
    images = data.batches(data.sample("val").take(IMAGES_PER_CLASS))
    evaluator = Evaluator(
        model, images, calibration=data.batches(data.sample("train")), cache=RAW / "robustness"
    )
    intensity = cost.intensity_table(graph.extract(model, next(iter(images))[0][:1]), FORMATS)
    layers = intensity.layers

    tied = owners(layers, MEASURED)
    every = list(itertools.product(range(len(FORMATS)), repeat=MEASURED))
    evaluations = evaluator.evaluate_many([plan_of(layers, tied, plan) for plan in every])
    console.print(f"{len(every):,} plans measured, {time.process_time() - started:.0f} CPU s")
    drop = np.array([e.drop for e in evaluations]).reshape([len(FORMATS)] * MEASURED)
    space = Space(bits_of(intensity, tied), drop)
    alone = singles(evaluator, layers, tied)
    steps = [np.diff(drop, axis=axis) for axis in range(MEASURED)]
    measured: dict[str, Any] = {
        "plans": len(every),
        "searches": walked(space, every),
        "exact": exact_on_data(
            space, tables_of(intensity, tied, alone), AccuracyMeter(evaluator, 0.5)
        ),
        "narrower_format_gains": float(np.mean([(step < 0).mean() for step in steps])),
        "narrower_format_equal": float(np.mean([(step == 0).mean() for step in steps])),
    }

    measured["unseen_drop"] = unseen(measured, model, layers, tied)
    measured["drop_error"] = float(np.median([e.drop_error for e in evaluations]))

    tied = owners(layers, TABLES)
    rows = singles(evaluator, layers, tied)
    sums = sum(
        row.reshape([-1 if i == axis else 1 for i in range(TABLES)])
        for axis, row in enumerate(rows)
    )
    space = Space(bits_of(intensity, tied), sums)
    rng = np.random.default_rng(SEED)
    starts = [tuple(map(int, row)) for row in rng.integers(0, 3, (RANDOM_STARTS, TABLES))]
    additive = {
        "plans": sums.size,
        "searches": walked(space, starts),
        "exact": enumerated(space, rows),
    }
    return {
        "network": "resnet56",
        "formats": [str(f) for f in FORMATS],
        "images": evaluator.baseline.samples,
        "fp32_accuracy": evaluator.baseline.accuracy,
        "fp32_intensity": intensity.intensity({}),
        "measured": measured,
        "tables": additive,
        "cpu_s": round(time.process_time() - started, 1),
    }


def draw(found: dict[str, Any]) -> None:
    """Draw the share of stuck walks, and the intensity that searches reach within budgets."""
    measured = found["measured"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.4))
    names = list(measured["searches"])
    for shift, (walk, label) in enumerate((("greedy", "greedy"), ("coordinate", "coord. descent"))):
        shares = [100 * measured["searches"][name][walk]["stuck"] for name in names]
        left.barh(np.arange(len(names)) + 0.4 * shift - 0.2, shares, 0.4, label=label)
    labels = [n.replace("lambda", "λ") for n in names[: len(LAMBDAS)]]
    labels += [f"≤ {100 * budget:g} pp" for budget in BUDGETS]
    left.set_yticks(range(len(names)), labels, fontsize=7)
    left.invert_yaxis()
    left.set(xlabel="stuck, % of all starts")
    left.legend(frameon=False, fontsize=7)
    at = [100 * budget for budget in BUDGETS]
    budgets = names[len(LAMBDAS) :]
    for walk, label in (("greedy", "greedy"), ("coordinate", "coord. descent")):
        reached = [100 * measured["searches"][n][walk]["from_fp32_intensity"] for n in budgets]
        right.plot(at, reached, "o-", markersize=4, label=f"{label}, from fp32")
    reached = [100 * measured["exact"][n]["intensity"] for n in budgets]
    right.plot(at, reached, "s-", markersize=4, label="aiq: exact on tables")
    right.set(xscale="log", xlabel="largest drop in pp", ylabel="intensity, % of the best plan's")
    right.set_xticks(at, [f"{x:g}" for x in at], fontsize=7)
    right.minorticks_off()
    right.legend(frameon=False, fontsize=7)
    pictures.write(figure, "paper_robustness")


def show(found: dict[str, Any]) -> None:
    for space in ("measured", "tables"):
        part = found[space]
        console.print(
            text.table(
                f"{space}: {part['plans']:,} plans",
                ["<objective"]
                + [f"{w}: {what}" for w in WALKS for what in ("stuck", "from fp32", "evaluations")],
                (
                    (
                        name,
                        *(
                            cell
                            for walk in WALKS
                            for cell in (
                                f"{100 * row[walk]['stuck']:.0f} %",
                                f"{100 * row[walk]['from_fp32_intensity']:.1f} %",
                                str(row[walk]["evaluations"]),
                            )
                        ),
                    )
                    for name, row in part["searches"].items()
                ),
            )
        )
    console.print(found["tables"]["exact"], found["measured"]["exact"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draw", action="store_true", help="only draw the committed summary")
    if parser.parse_args().draw:
        draw(json.loads((RESULTS / "robustness.json").read_text()))
        return
    torch.set_num_threads(1)
    found = measure()
    show(found)
    save("robustness", found, [SEED])
    draw(found)


if __name__ == "__main__":
    main()
