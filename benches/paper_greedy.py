"""The greedy algorithm of arXiv 2512.14090, run as the paper describes it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from aiq import cost, solver
from aiq.drops import DropTable
from aiq.evaluate import Evaluator
from aiq.formats import Format

LAMBDA = 0.9


class OutOfTimeError(Exception):
    """The time for the greedy search is over."""


def objective(table: cost.CostTable, formats: Mapping[str, Format], drop: float) -> float:
    """Return the objective of the paper; less is better.

    It is minus lambda times the intensity relative to float32, plus (1 - lambda) times the accuracy
    drop in percentage points.
    """
    return -LAMBDA * table.intensity(formats) / table.intensity({}) + (1 - LAMBDA) * 100 * drop


def greedy(
    evaluator: Evaluator, batches: Sequence[Any], table: cost.CostTable, seconds: float
) -> dict[str, Any]:
    """Run the greedy search; it evaluates the whole network on all images for every candidate."""
    simulator, layers, columns = evaluator.runner.simulator, table.layers, table.formats
    targets = torch.cat([y for _, y in batches])
    started, evaluations = time.perf_counter(), 0
    best: tuple[float, dict[str, Format]] = (np.inf, {})
    curve = []

    @torch.inference_mode()
    def accuracy(formats: Mapping[str, Format]) -> float:
        answers = [simulator.run(x, formats).argmax(1) for x, _ in batches]
        return float((torch.cat(answers) == targets).double().mean())

    reference = accuracy({})

    def value(choices: Sequence[int]) -> float:
        nonlocal evaluations, best
        spent = time.perf_counter() - started
        if spent > seconds:
            raise OutOfTimeError
        formats = {name: columns[k] for name, k in zip(layers, choices, strict=True)}
        found = objective(table, formats, reference - accuracy(formats))
        evaluations += 1
        if found < best[0]:
            best = (found, formats)
            curve.append((time.perf_counter() - started, evaluations, found))
        return found

    finished = True
    try:
        solver.greedy_measured([len(columns)] * len(layers), value)
    except OutOfTimeError:
        finished = False
    return {
        "formats": best[1],
        "seconds": time.perf_counter() - started,
        "evaluations": evaluations,
        "finished": finished,
        "curve": curve,
    }


def greedy_length(table: cost.CostTable, drops: DropTable) -> int:
    """Return how many evaluations the search would need if the drop table were exact."""
    columns = table.formats

    def value(choices: Sequence[int]) -> float:
        formats = {name: columns[k] for name, k in zip(table.layers, choices, strict=True)}
        return objective(table, formats, drops.predict(formats))

    return solver.greedy_measured([len(columns)] * len(table.layers), value).evaluations
