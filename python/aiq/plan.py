"""A plan: which format every layer gets, what that is predicted to buy, and how sure we are."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import msgspec
from rich.console import Console

from aiq import files
from aiq.errors import InputError
from aiq.formats import Format
from aiq.formats import parse as parse_format
from aiq.graph import BatchDim
from aiq.typed import (
    Count,
    Name,
    NonNegative,
    Positive,
    Share,
    Text,
    dump_json,
    parse_json,
    read_json,
)

SCHEMA = "aiq/plan/v1"
_WHAT = "a plan"
_ADVICE = "give a file that Plan.save or `aiq search --output` wrote"


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """One row of a plan.

    Attributes
    ----------
    name, op, format
        The layer, its operator class, and the name of its format.
    flops, weight_elements
        Its work and its size.
    share
        Its share of the float32 network's cost, 0..1.
    saving
        Part of its own float32 cost that the format saves, 0..1 (negative if it costs more).
    loss
        Predicted accuracy loss of this choice alone, as a fraction (0.01 = 1 pp).
    why
        The next cheaper choice and why it was not taken, in words.
    """

    name: Name
    op: Name
    format: Name
    flops: Count
    weight_elements: Count
    share: NonNegative
    saving: float
    loss: float
    why: Text

    def __post_init__(self) -> None:
        if parse_format(self.format).name != self.format:
            raise InputError(f"The format {self.format!r} is not written as aiq writes it.")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the cost models say of a plan.

    Attributes
    ----------
    intensity
        FLOPs per byte of convolution and linear layers (the paper's metric).
    bytes
        Their bytes.
    seconds
        Time of one batch.
    level
        The cost model behind `seconds`: ``roofline``, a lower bound, or ``calibrated``.
    weight_bytes
        Bytes of all weights in the plan's formats, scales not counted.
    """

    intensity: NonNegative
    bytes: NonNegative
    seconds: NonNegative
    level: Name
    weight_bytes: NonNegative


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What the plan's simulated network scored on the data, beside the float32 network.

    Attributes
    ----------
    plan, baseline
        Share of samples that are right, 0..1.
    samples
        How many there were; both networks saw the same.
    drop_limit
        Upper confidence limit of the accuracy lost, one-sided, from paired samples.
    confidence
        Of `drop_limit`, 0.5..1; at 0.5 the limit is the drop itself.
    samples_needed
        About how many samples would show that a cheaper plan, which was tried and drops little
        enough on these, keeps to the budget at this confidence; ``None`` if there is no such plan.
    """

    plan: float
    baseline: float
    samples: Count
    drop_limit: float
    confidence: Share
    samples_needed: Count | None = None

    @property
    def drop(self) -> float:
        """Accuracy lost, as a fraction (0.01 = 1 pp)."""
        return self.baseline - self.plan


@dataclass(frozen=True, slots=True)
class Proof:
    """How good the choice is on the tables: what the solver can vouch for.

    Attributes
    ----------
    status
        ``optimal``, ``heuristic``, ``time_limit``, ``node_limit`` or ``interrupted``; ``measured``
        if the stopwatch preferred another plan than the solver.
    value, bound, gap
        Objective of the plan, lower bound of every plan within the budgets, and their relative
        difference; ``None`` where a method gives no bound.
    unit
        Of `value` and `bound`: ``bytes``, ``seconds``, or ``objective`` (the weighted one).
    nodes, seconds
        Search effort.
    loss_budget
        Sum of single-layer losses that the solve allowed, corrected by measurement; ``None``
        without a budget.
    loss_factor
        What the single-layer losses were multiplied by, corrected by measurement.
    """

    status: Name
    value: float
    bound: float | None
    gap: float | None
    unit: Name
    nodes: Count
    seconds: NonNegative
    loss_budget: float | None
    loss_factor: float


@dataclass(frozen=True, slots=True)
class TimedPlan:
    """A plan on the shortlist, as the stopwatch saw it.

    Attributes
    ----------
    name
        The format of a uniform plan, ``mixed N`` for others.
    layers
        How many layers have each format.
    predicted, seconds
        Time of one batch, before and after: by the cost model, and measured (median).
    against, speedup, low, high
        How many times as fast as plan `against`, timed in turns with it, with the interval.
    verdict
        ``faster``, ``slower``, or ``indistinguishable`` from `against`.
    drop_limit
        Upper confidence limit of the accuracy lost; ``None`` if it was not needed or measured.
    mismatches
        Layers that run in another format than planned.
    """

    name: Name
    layers: Mapping[Name, Count]
    predicted: NonNegative
    seconds: Positive
    against: Name
    speedup: NonNegative
    low: NonNegative
    high: NonNegative
    verdict: Name
    drop_limit: float | None
    mismatches: Count


@dataclass(frozen=True, slots=True)
class Shortlist:
    """What was timed to choose the plan.

    Attributes
    ----------
    runtime, batch, threads
        What ran.
    plans
        All that was timed, in that order.
    best_uniform, chosen
        Names of the fastest uniform plan within the budgets, and of the plan that was chosen.
    noise, confidence, steal
        Of the run that decided: relative difference below which nothing is called a difference,
        coverage of the intervals, and share of processor time lost to other guests.
    interrupted
        Whether it was ended by Ctrl-C.
    left_out
        Plans that the runtime cannot compile, or computes wrongly: name -> reason.
    """

    runtime: Name
    batch: Count
    threads: Count
    plans: tuple[TimedPlan, ...]
    best_uniform: Name
    chosen: Name
    noise: NonNegative
    confidence: Share
    steal: NonNegative | None
    interrupted: bool
    left_out: Mapping[Name, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [plan.name for plan in self.plans]
        if len({*names}) < len(names) or not {self.best_uniform, self.chosen} <= {*names}:
            raise InputError("The plans that were timed repeat a name or lack the chosen one.")

    def __getitem__(self, name: str) -> TimedPlan:
        """Return the row called `name`."""
        return next(plan for plan in self.plans if plan.name == name)


@dataclass(frozen=True, slots=True)
class Plan:
    """Layer -> format, with predictions, proof and provenance.

    Attributes
    ----------
    model, hardware, objective, method
        What was searched, for which machine, towards what, and how.
    layers
        The layers whose format was a decision, in execution order.
    predicted, baseline
        Predictions of the plan and of the float32 network.
    predicted_loss
        Sum of single-layer losses, corrected by measurement where there was one.
    accuracy
        Measured accuracy, or ``None`` if there was no data: then losses are estimates from
        signal-to-noise ratios.
    proof
        What the solver vouches for.
    evaluations
        Evaluations of the network on the data.
    seconds
        Wall time of the whole search.
    provenance
        Versions, seed, arguments: what is needed to repeat the search.
    shortlist
        What was timed to choose the plan, or ``None`` if it was chosen by prediction.
    """

    model: Text
    hardware: Name
    objective: Name
    method: Name
    layers: tuple[PlannedLayer, ...]
    predicted: Prediction
    baseline: Prediction
    predicted_loss: float
    accuracy: Accuracy | None
    proof: Proof
    evaluations: Count
    seconds: NonNegative
    provenance: Mapping[str, Any]
    shortlist: Shortlist | None = None

    def __post_init__(self) -> None:
        names = [layer.name for layer in self.layers]
        if len({*names}) < len(names):
            raise InputError(f"A plan names each layer once; it repeats {_repeated(names)!r}.")
        for key, kind in _SHOWN.items():
            try:
                msgspec.convert(self.provenance.get(key, []), kind)
            except msgspec.ValidationError as error:
                raise InputError(f"The provenance's {key}: {error}") from None

    @property
    def formats(self) -> dict[str, Format]:
        """Layer name -> format: what evaluators and runtimes take."""
        return {layer.name: parse_format(layer.format) for layer in self.layers}

    @property
    def batch_dim(self) -> BatchDim:
        """The dimension of the inputs that counts samples; plans of older versions: the first."""
        found: BatchDim = self.provenance.get("batch_dim", 0)
        return found

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return dump_json(self, _WHAT, SCHEMA)

    @classmethod
    def from_json(cls, text: str, file: str = "the plan") -> "Plan":
        """Return the plan in `text`, as `to_json` wrote it.

        Raises
        ------
        InputError
            If the text is not a plan; `file` is what the message calls it.
        """
        return parse_json(text, cls, file=file, what=_WHAT, advice=_ADVICE, schema=SCHEMA)

    def save(self, path: str | Path) -> None:
        """Write the plan to `path` as JSON, atomically.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        files.write_atomic(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read a plan that `save` wrote.

        Raises
        ------
        InputError
            If the file cannot be read or is not a plan.
        """
        return read_json(path, cls, what=_WHAT, advice=_ADVICE, schema=SCHEMA)

    def __str__(self) -> str:
        from aiq.report import tables  # noqa: PLC0415 - tables of plans import this module

        console = Console(file=io.StringIO(), width=120, color_system=None)
        console.print(tables.plan(self))
        stream = console.file
        assert isinstance(stream, io.StringIO)
        return stream.getvalue().rstrip()


class _Undecided(TypedDict):
    """A parameter without a choice of formats."""

    layer: Text
    op: Text
    dtype: Text
    bytes: Count


_SHOWN: Mapping[str, Any] = {"undecided": list[_Undecided], "uncounted": list[Text]}
"""What tables show of a provenance, and its types."""


def _repeated(names: list[str]) -> str:
    return next(name for index, name in enumerate(names) if name in names[:index])
