"""Sensitivity: how well each estimate ranks layers and predicts plans, and how long it takes.

(i)   The whole job is timed: sensitivity of every layer in five formats on 2,000 images, exact
      solve, verification on 10,000 images. It is compared with the greedy algorithm of arXiv
      2512.14090, which evaluates every candidate in full on the same 2,000 images. The greedy
      algorithm is stopped after eleven times as long, unless --full lets it finish.
(ii)  Every estimate is compared with measurements by rank correlation, for single layers and for
      50 random plans.
(iii) The drops of these plans are predicted and measured. They are predicted by the sum over their
      layers, and by one evaluation of the whole plan on a few hundred of the images.

Plans are chosen on validation images that were held out of training, and measured on the test
images. If Fashion-MNIST is not on disk, the shipped samples (2,000 images each) are used.

    python benches/sensitivity.py [--quick] [--network resnet20] [--full]
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import console, save
from paper_greedy import LAMBDA, greedy, greedy_length, objective
from scipy import stats

import aiq
from aiq import cost, data, graph, models, sensitivity, text
from aiq.drops import DropTable
from aiq.errors import DataError
from aiq.evaluate import Evaluation, Evaluator
from aiq.formats import REFERENCE, Format, parse_all
from aiq.sensitivity.whole_plan import divergence

MAX_DROP = 0.01
FORMATS = parse_all("w8a8,w6a6,w5a5,w4a4,w3a3")
PLANS, PLAN_SEED = 50, 1
TARGET, LARGEST = 0.005, 0.03  # errors within 0.5 pp count, of plans that lose less than 3 pp
PATIENCE = 11


def ranks(estimated: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    return {
        "spearman": float(stats.spearmanr(estimated, measured).statistic),
        "kendall": float(stats.kendalltau(estimated, measured).statistic),
    }


def truth(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    small = measured < LARGEST
    error = np.abs(predicted - measured)[small]
    return {
        "plans": int(small.sum()),
        "within": float((error <= TARGET).mean()),
        "mean_error": float(error.mean()),
        "largest_error": float(error.max()),
        "bias": float((predicted - measured)[small].mean()),
    }


def show_job(network: str, given: "Given", rows: Sequence[Mapping[str, Any]]) -> None:
    table = given.table
    console.print(
        text.table(
            f"(i) {network}, {len(table.layers)} layers x {len(table.formats) - 1} "
            f"formats, {len(given.sample):,} images, verified on {len(given.unseen):,}",
            ["<by", "objective", "AI x fp32", "drop", "evaluations", "time"],
            (
                (
                    row["name"],
                    f"{row['objective']:.4f}",
                    f"{row['ratio']:.3f}",
                    text.points(row["drop"]),
                    f"{row['evaluations']:,}",
                    text.duration(row["seconds"]),
                )
                for row in rows
            ),
        )
    )


def job(options: argparse.Namespace, given: "Given") -> tuple[dict[str, Any], DropTable, Evaluator]:
    """(i) Time the whole job and the greedy algorithm of the paper."""
    table, unseen = given.table, data.batches(given.unseen)
    started = time.perf_counter()
    evaluator = Evaluator(given.model, data.batches(given.sample), calibration=given.calibration)
    drops = sensitivity.measure(evaluator, table.formats)
    scored = time.perf_counter() - started
    common: dict[str, Any] = {
        "example_inputs": given.image,
        "calibration": given.calibration,
        "formats": table.formats,
        "runtime": None,
        "sensitivity": drops,
    }
    plan = aiq.search(given.model, "xeon_2vcpu", unseen, objective="weighted", lam=LAMBDA, **common)
    seconds = time.perf_counter() - started
    within = aiq.search(
        given.model, "xeon_2vcpu", unseen, objective="intensity", max_drop=MAX_DROP, **common
    )
    limit = np.inf if options.full else (1 if options.quick else PATIENCE) * seconds
    walk = greedy(evaluator, list(data.batches(given.sample)), table, limit)
    per_evaluation = walk["seconds"] / max(1, walk["evaluations"])
    length = greedy_length(table, drops)
    verifier = Evaluator(given.model, unseen, calibration=given.calibration)
    rows = []
    for name, chosen, spent, evaluations in (
        ("aiq: sensitivity, exact, verified", plan.formats, seconds, drops.evaluations),
        ("paper: greedy, its way", walk["formats"], walk["seconds"], walk["evaluations"]),
    ):
        drop = verifier.evaluate(chosen).drop
        rows.append(
            {
                "name": name,
                "objective": objective(table, chosen, drop),
                "ratio": table.intensity(chosen) / table.intensity({}),
                "drop": drop,
                "seconds": spent,
                "evaluations": evaluations,
                "formats": {x: str(chosen.get(x, REFERENCE)) for x in table.layers},
            }
        )
    rows[0] |= {"verifications": plan.evaluations, "sensitivity_seconds": scored}
    show_job(options.network, given, rows)
    ratio = within.predicted.intensity / within.baseline.intensity
    console.print(
        f"Sensitivity took {scored:.1f} s of the job's {seconds:.1f} s; {plan.evaluations} "
        f"evaluations verified it. Greedy {'finished' if walk['finished'] else 'was stopped'}; a "
        f"walk of {length:,} evaluations at {per_evaluation:.2f} s would take "
        f"{length * per_evaluation:,.0f} s. Within 1 pp: AI x {ratio:.3f}, {within.seconds:.1f} s, "
        f"{within.evaluations} evaluations."
    )
    results = {
        "job": rows,
        "within_1pp": {
            "ratio": ratio,
            "drop_limit": within.accuracy.drop_limit if within.accuracy else None,
            "seconds": within.seconds,
            "evaluations": within.evaluations,
        },
        "greedy": {
            "finished": walk["finished"],
            "seconds_per_evaluation": per_evaluation,
            "evaluations_of_a_full_walk": length,
        },
    }
    return results, drops, verifier


def judge(
    estimate: DropTable,
    exact: DropTable,
    table: cost.CostTable,
    plans: Sequence[Mapping[str, Format]],
    found: Sequence[Evaluation],
    divergences: np.ndarray,
) -> dict[str, Any]:
    """(ii) and (iii) Judge one estimate; `divergences` are those of whole plans on some images."""
    assert exact.measured is not None
    assert estimate.drop_per_nat is not None
    rounding = [k for k, f in enumerate(table.formats) if f != REFERENCE]
    alone = estimate.drop[:, rounding].ravel()
    totals = [estimate.predict(p) for p in plans]
    drops = np.array([e.drop for e in found])
    whole = estimate.drop_per_nat * divergences
    return {
        "alone_divergence": ranks(alone, exact.divergence[:, rounding].ravel()),
        "alone_drop": ranks(alone, exact.measured[:, rounding].ravel()),
        "joint_divergence": ranks(totals, [e.kl for e in found]),
        "joint_drop": ranks(totals, drops),
        "before": truth(np.array(totals), drops),
        "after": truth(whole, drops),
        "evaluations": estimate.evaluations,
        "seconds": estimate.seconds,
    }


def show(methods: Mapping[str, Any], plans: int, images: int) -> None:
    keys = ("alone_divergence", "alone_drop", "joint_divergence", "joint_drop")
    console.print(
        text.table(
            f"(ii) Rank correlation with measurement: Spearman / Kendall ({plans} plans)",
            ["<sensitivity", "alone: nats", "alone: drop", "joint: nats", "joint: drop", "time"],
            (
                (
                    name,
                    *(f"{m[key]['spearman']:.3f} / {m[key]['kendall']:.3f}" for key in keys),
                    text.duration(m["seconds"]),
                )
                for name, m in methods.items()
            ),
        )
    )
    console.print(
        text.table(
            f"(iii) Predicted against measured drop, plans that lose less than "
            f"{100 * LARGEST:g} pp ({images:,} images)",
            [
                "<sensitivity",
                "plans",
                "sum: within 0.5 pp",
                "error",
                "whole plan: within 0.5 pp",
                "error",
            ],
            (
                (
                    name,
                    str(m["before"]["plans"]),
                    f"{100 * m['before']['within']:.0f} %",
                    text.points(m["before"]["mean_error"]),
                    f"{100 * m['after']['within']:.0f} %",
                    text.points(m["after"]["mean_error"]),
                )
                for name, m in methods.items()
            ),
        )
    )


@dataclass(frozen=True, slots=True)
class Given:
    """The network, the images and the costs of this benchmark."""

    model: torch.nn.Module
    sample: data.Dataset
    unseen: data.Dataset
    source: str
    calibration: data.Batches
    image: torch.Tensor
    table: cost.CostTable
    plans: int


def given(network: str, quick: bool) -> Given:
    try:
        unseen, source = data.load("fashion_mnist", "test"), "all test images"
    except DataError as error:
        console.print(f"[yellow]{error}\nUsing the shipped sample instead.[/]")
        unseen, source = data.sample("test"), "shipped sample"
    sample, train, formats = data.sample("val"), data.sample("train"), FORMATS
    if quick:
        sample, train, unseen, formats = (
            sample.take(10),
            train.take(5),
            unseen.take(20),
            FORMATS[::2],
        )
    model, image = models.load(network), unseen.inputs(unseen.images[:1])
    table = cost.intensity_table(graph.extract(model, image), (REFERENCE, *formats))
    plans = 8 if quick else PLANS
    return Given(model, sample, unseen, source, data.batches(train), image, table, plans)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few images, formats and plans")
    parser.add_argument("--network", choices=list(models.NETWORKS), default="resnet20")
    parser.add_argument("--full", action="store_true", help="let the paper's greedy finish (hours)")
    options = parser.parse_args()
    setting = given(options.network, options.quick)
    table = setting.table
    results, drops, verifier = job(options, setting)

    evaluator = Evaluator(
        setting.model, data.batches(setting.sample), calibration=setting.calibration
    )
    exact = sensitivity.measure(evaluator, table.formats, precision=0)
    rng = np.random.default_rng(PLAN_SEED)
    plans = [
        {layer: table.formats[1 + k] for layer, k in zip(table.layers, row, strict=True)}
        for row in rng.integers(len(table.formats) - 1, size=(setting.plans, len(table.layers)))
    ]
    found = verifier.evaluate_many(plans)
    started, spent = time.perf_counter(), evaluator.evaluations
    divergences = np.array([divergence(evaluator, plan) for plan in plans])
    whole_plan = {
        "images": (evaluator.evaluations - spent) * len(setting.sample) / len(plans),
        "seconds": (time.perf_counter() - started) / len(plans),
    }
    auto = sensitivity.estimate_and_measure(evaluator, table.formats, MAX_DROP)
    estimates = {"measured": drops, "auto": auto} | {
        method: sensitivity.estimate(evaluator, table.formats, method)
        for method in sensitivity.METHODS
        if method not in {"auto", "measured"}
    }
    methods = {
        name: judge(estimate, exact, table, plans, found, divergences)
        for name, estimate in estimates.items()
    }
    show(methods, setting.plans, len(setting.unseen))
    console.print(
        f"Evaluating a whole plan takes {whole_plan['images']:.0f} images and "
        f"{whole_plan['seconds']:.2f} s on average."
    )
    name = "sensitivity" if options.network == "resnet20" else f"sensitivity_{options.network}"
    save(
        name + ("_quick" if options.quick else ""),
        {
            "network": options.network,
            "images": {
                "sensitivity": len(setting.sample),
                "verified": len(setting.unseen),
                "source": setting.source,
            },
            "formats": [f.name for f in table.formats],
            **results,
            "methods": methods,
            "plans": len(plans),
            "whole_plan": whole_plan,
        },
        seeds=[0, PLAN_SEED],
    )


if __name__ == "__main__":
    main()
