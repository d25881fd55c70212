"""The front door: model, machine and data in, a plan out.

The stages in order: graph -> cost tables -> loss table -> search on the tables -> measure the plan
as a whole -> correct the loss budget and search again until the measured accuracy holds.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import aiq
from aiq import cost, graph, sensitivity, solver
from aiq.cost import CostTable
from aiq.errors import DataError, InfeasibleError, InputError
from aiq.evaluate import Evaluation, Evaluator
from aiq.formats import INTEGER_GRID, PAPER, REFERENCE, Format, parse_all
from aiq.hardware import Hardware
from aiq.plan import Accuracy, Plan, PlannedLayer, Prediction, Proof
from aiq.sensitivity import LossTable

Progress = Callable[[str, int, int], None]
"""Called with what is going on, how many steps of it are done, and how many there are."""

POINTS = 100.0
"""Percentage points in a fraction: the paper's weighted objective counts losses in points."""

ROUNDS = 10
"""Most corrections of the loss budget; each costs one evaluation and halves what is unknown."""


class Objective(StrEnum):
    """What a plan is chosen for."""

    THROUGHPUT = "throughput"
    INTENSITY = "intensity"
    WEIGHTED = "weighted"


DEFAULT_FORMATS = {
    Objective.THROUGHPUT: parse_all("fp32,bf16,w8a8"),
    Objective.INTENSITY: INTEGER_GRID,
    Objective.WEIGHTED: PAPER,
}
"""Formats with real kernels for speed, every integer width for intensity, the paper's for its own."""


@dataclass(frozen=True, slots=True)
class _Problem:
    """Everything the search knows: what is chosen, what it costs, what it loses."""

    objective: Objective
    lam: float
    max_drop: float
    cost: CostTable
    intensity: CostTable
    loss: NDArray[np.float64]
    allowed: tuple[tuple[int, ...], ...]  # per layer, the formats it may have
    sizes: NDArray[np.int64]
    max_size: int | None

    @property
    def formats(self) -> tuple[Format, ...]:
        return self.cost.formats

    def plan(self, choices: Sequence[int]) -> dict[str, Format]:
        """Layer name -> format of a solver's answer, which counts among the allowed formats."""
        return {
            name: self.formats[allowed[choice]]
            for name, allowed, choice in zip(self.cost.layers, self.allowed, choices, strict=True)
        }

    def columns(self, formats: Mapping[str, Format]) -> list[int]:
        return [self.formats.index(formats[name]) for name in self.cost.layers]

    def predicted_loss(self, formats: Mapping[str, Format]) -> float:
        return float(sum(self.loss[i, k] for i, k in enumerate(self.columns(formats))))

    def value(self, formats: Mapping[str, Format], drop: float) -> float:
        """The objective of a plan that loses `drop`; smaller is better."""
        reference = dict.fromkeys(self.cost.layers, REFERENCE)
        if self.objective is Objective.WEIGHTED:
            ratio = self.intensity.intensity(formats) / self.intensity.intensity(reference)
            return -self.lam * ratio + (1 - self.lam) * drop * POINTS
        return self.cost.total(formats) if drop <= self.max_drop else math.inf


def search(
    model: torch.nn.Module,
    hw: str | Path | Hardware,
    data: Iterable[Any] | None = None,
    *,
    example_inputs: Any = None,
    objective: str = Objective.THROUGHPUT,
    max_drop: float = 0.01,
    lam: float = 0.9,
    formats: str | Iterable[str | Format] | None = None,
    method: str = "exact",
    sensitivity: str | LossTable = "measured",
    calibration: Iterable[Any] | None = None,
    pin: Mapping[str, str] | None = None,
    max_size: int | None = None,
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Choose a number format for every convolution and linear layer of `model`.

    Parameters
    ----------
    model
        Any module that ``torch.export`` accepts.
    hw
        Name of a hardware profile, path of one, or a `Hardware`.
    data
        Iterable of ``(inputs, targets)`` batches, targets being class indices. Without it losses
        are estimated from signal-to-noise ratios and the plan says that nothing was measured.
    example_inputs
        Arguments of one forward call: a tensor, or a tuple of them; the costs are for their batch
        size. Default: the first batch of `data`.
    objective
        ``throughput`` (least predicted time), ``intensity`` (most FLOPs per byte), both with an
        accuracy loss of at most `max_drop`; or ``weighted``, the paper's: minimise
        ``-lam AI / AI_fp32 + (1 - lam) loss`` with the loss in percentage points.
    max_drop
        Largest accuracy loss, as a fraction: 0.01 is one percentage point.
    lam
        Weight of the intensity in ``weighted``, 0..1.
    formats
        Formats to choose from; float32 is always the reference. Default: by objective.
    method
        ``exact``, ``greedy``, ``coordinate`` or ``exhaustive``. With ``sensitivity="measured"``
        and data, ``greedy`` and ``coordinate`` run the paper's way: they measure the accuracy of
        every candidate. Otherwise they run on the tables.
    sensitivity
        ``measured`` (each layer alone, on `data`), ``sqnr``, or a `LossTable` from earlier.
    calibration
        Batches (inputs, or inputs and targets) on which the ranges of quantised activations are
        observed. Default: the first batches of `data`.
    pin
        Pattern of layer names -> format name: layers that are not a decision. The last match wins.
    max_size
        Largest size of all weights in bytes.
    time_limit
        Seconds that one solve may take; the best plan so far is returned, with its gap.
    progress
        Called with what is going on, steps done, and steps in all.

    Raises
    ------
    InputError, FormatError, HardwareError, GraphError, DataError
        If an argument is not what it should be; the message says what to do.
    InfeasibleError
        If no plan meets the budgets; the message names the nearest feasible value.
    """
    started = time.perf_counter()
    goal = _one_of(Objective, "objective", objective)
    _check_number("max_drop", max_drop, 0, 1)
    _check_number("lam", lam, 0, 1)
    hardware = Hardware.load(hw)
    choices = parse_all(formats) if formats is not None else DEFAULT_FORMATS[goal]
    batches = None if data is None else _batches(data)
    if example_inputs is None:
        if batches is None:
            raise InputError(
                "Neither data nor example_inputs were given; give one batch of inputs as "
                "example_inputs, and data to measure accuracy."
            )
        example_inputs = _inputs(batches[0])
    report = progress or (lambda stage, done, total: None)

    report("export", 0, 1)
    trace = graph.trace(model, example_inputs)
    report("export", 1, 1)
