"""A plan: the format of every layer, with predictions, measurements and a proof."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from aiq import files
from aiq.errors import InputError
from aiq.formats import Format, WeightRounding
from aiq.formats import parse as parse_format
from aiq.learned import LearnedScales
from aiq.plan import show
from aiq.plan.certificate import PlanCertificate, SolveSummary
from aiq.plan.frontier import PlanFrontier
from aiq.plan.tables import PlanTables
from aiq.plan.timed import Shortlist
from aiq.plan.workload import Workload
from aiq.report import Comparable, MeasuredTimes, frame, html
from aiq.report.scores import Words
from aiq.saved import FileKind, Saved
from aiq.solver import Check
from aiq.text import plain
from aiq.typed import Count, Name, NonNegative, Share, Text, renamed

if TYPE_CHECKING:  # PyTorch takes seconds to load, and a plan that is only shown does without it
    from aiq.graph import BatchDim

SCHEMA = "aiq/plan/v2"


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """One row of a plan.

    Attributes
    ----------
    name, op, format
        The layer, its operator class, and the name of its format.
    flops, weight_elements
        FLOPs of the layer, and number of its weights.
    share
        Share of the layer in the cost of the float32 network, 0 to 1.
    saving
        Part of the layer's float32 cost that the format saves; negative if it costs more.
    drop
        Predicted accuracy drop of this choice alone, as a fraction (0.01 = 1 pp).
    why
        The next cheaper choice, and the reason why it was not taken, in words.
    """

    name: Name
    op: Name
    format: Name
    flops: Count
    weight_elements: Count
    share: NonNegative
    saving: float
    drop: float
    why: Text

    def __post_init__(self) -> None:
        if parse_format(self.format).name != self.format:
            raise InputError(f"The format {self.format!r} is not written as aiq writes it.")


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predictions of the cost models for a plan.

    Attributes
    ----------
    intensity
        FLOPs per byte of convolution and linear layers (the paper's metric).
    bytes
        Bytes that these layers move.
    seconds
        Seconds of one batch, or of one text: a prompt and what a decoder writes after it.
    level
        The cost model behind `seconds`: ``roofline``, a lower bound, or ``calibrated``.
    weight_bytes
        Bytes of all weights in the plan's formats, with the scales of groups.
    first_seconds, token_seconds
        Of a decoder: time to read the prompt, which is that to the first token, and time of each
        token after it; otherwise ``None``.
    """

    intensity: NonNegative
    bytes: NonNegative
    seconds: NonNegative
    level: Name
    weight_bytes: NonNegative
    first_seconds: NonNegative | None = None
    token_seconds: NonNegative | None = None


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The accuracy of the plan's simulated network on the data, beside that of float32.

    Attributes
    ----------
    plan, baseline
        Share of samples that are right, 0..1.
    samples
        Number of samples, which are the same for both networks.
    drop_limit
        Upper confidence limit of the accuracy drop, one-sided, from paired samples.
    confidence
        Confidence of `drop_limit`, 0.5 to 1; at 0.5 the limit is the drop itself.
    samples_needed
        Approximate number of samples that would show that a cheaper plan keeps to the budget at
        this confidence; ``None`` if no plan that was tried drops little enough on these samples.
    """

    plan: float
    baseline: float
    samples: Count
    drop_limit: float
    confidence: Share
    samples_needed: Count | None = None

    @property
    def drop(self) -> float:
        """Accuracy drop, as a fraction (0.01 is 1 pp)."""
        return self.baseline - self.plan


@dataclass(frozen=True, slots=True)
class Plan(Saved):
    """Layer -> format, with predictions, proof and provenance.

    Attributes
    ----------
    model, hardware, objective, method
        Class of the model, name of the hardware profile, and names of the objective and of the
        method.
    layers
        The layers whose format was a decision, in execution order.
    predicted, baseline
        Predictions of the plan and of the float32 network.
    predicted_drop
        Sum of single-layer drops, corrected by measurement where there was one.
    accuracy
        Measured accuracy, or ``None`` if there was no data: then drops are estimates from
        signal-to-noise ratios.
    proof
        Summary of the solver's proof.
    evaluations
        Evaluations of the network on the data.
    seconds
        Wall time of the whole search.
    provenance
        Versions, seed and arguments with which the search can be repeated.
    shortlist
        Plans that were timed to choose this one; ``None`` if it was chosen by prediction.
    tables
        The tables and plans that it was chosen from; ``None`` in plans of older versions.
    workload
        Inputs, runtime, threads and structure of the model for which the plan was made; ``None``
        in plans of older versions.
    certificate
        The solver's certificate, which `check` verifies. It is ``None`` if every candidate was
        measured, for the weighted objective, in plans of older versions, and if it would take about
        a megabyte.
    learned
        Scales that `aiq.finetune` has learned, for the model that it returned; ``None`` in plans of
        networks that were not trained with their plan.
    """

    model: Text
    hardware: Name
    objective: Name
    method: Name
    layers: tuple[PlannedLayer, ...]
    predicted: Prediction
    baseline: Prediction
    predicted_drop: float
    accuracy: Accuracy | None
    proof: SolveSummary
    evaluations: Count
    seconds: NonNegative
    provenance: Mapping[str, Any]
    shortlist: Shortlist | None = None
    tables: PlanTables | None = None
    workload: Workload | None = None
    certificate: PlanCertificate | None = None
    learned: LearnedScales | None = None

    def __post_init__(self) -> None:
        names = [layer.name for layer in self.layers]
        if len({*names}) < len(names):
            raise InputError(f"A plan names each layer once; it repeats {_repeated(names)!r}.")
        if self.tables is not None:
            self.tables.check([layer.format for layer in self.layers])
        for key, kind in _SHOWN.items():
            if key not in self.provenance:
                continue
            try:
                msgspec.convert(self.provenance[key], kind)
            except msgspec.ValidationError as error:
                raise InputError(f"The provenance's {key}: {error}") from None

    @property
    def formats(self) -> dict[str, Format]:
        """Layer name -> format, as evaluators and runtimes take it."""
        return {layer.name: parse_format(layer.format) for layer in self.layers}

    @property
    def batch_dim(self) -> "BatchDim":
        """The dimension of the inputs that counts samples; plans of older versions: the first."""
        found: BatchDim = self.provenance.get("batch_dim", 0)
        return found

    @property
    def rounding(self) -> WeightRounding:
        """How weights are rounded to integers; plans of older versions: to nearest."""
        return WeightRounding(self.provenance.get("rounding", WeightRounding.NEAREST))

    def check(self) -> Check:
        """Verify the solver's certificate with the independent checker, which takes seconds.

        Returns
        -------
        Check
            Whether the certificate is proved and is that of this plan, and what is not.

        Raises
        ------
        InputError
            If the plan keeps no certificate, or one that does not fit its layers.
        """
        if self.certificate is None or self.tables is None:
            raise InputError(
                "The plan keeps no certificate: there is none of the weighted objective and of "
                "searches that measure every candidate, and a very large one is not kept. Search "
                "again with method exact within a budget."
            )
        chosen = [
            self.tables.allowed[i].index(self.tables.formats.index(layer.format))
            for i, layer in enumerate(self.layers)
        ]
        return self.certificate.check(chosen, self.proof.status)

    def frontier(self) -> PlanFrontier:
        """Return the plans at other budgets that the search kept; nothing is measured anew.

        Raises
        ------
        InputError
            If the plan was saved by an older version, which kept none.
        """
        if self.tables is None:
            raise InputError(
                "The plan was saved by an older version, which kept no other plans; search again."
            )
        return PlanFrontier(
            layers=tuple(layer.name for layer in self.layers),
            formats=self.tables.formats,
            unit=self.tables.unit,
            level=self.predicted.level,
            points=self.tables.frontier,
            metric=Words.of(self.provenance).metric,
        )

    def report(
        self, path: str | Path, comparison: str | Path | Comparable | MeasuredTimes | None = None
    ) -> None:
        """Write the plan to `path` as one HTML page, which needs no network.

        Parameters
        ----------
        path
            The file to write.
        comparison
            Result of `aiq.compare`, or a file that ``aiq compare --json`` wrote: the page then
            shows measured times beside predicted ones.

        Raises
        ------
        InputError
            If the comparison cannot be read, or the file cannot be written.
        """
        files.write_atomic(path, html(self, comparison))

    def _repr_html_(self) -> str:
        return frame(html(self))

    def __str__(self) -> str:
        return plain(show.plan_table(self))


def _from_v1(document: dict[str, Any]) -> dict[str, Any]:
    """Return a plan of version 1, which said loss where accuracy drop is meant."""
    found: dict[str, Any] = renamed(document, {"predicted_loss": "predicted_drop"})
    proof = {"loss_budget": "drop_budget", "loss_factor": "drop_factor"}
    found["proof"] = renamed(found.get("proof"), proof)
    layers = found.get("layers")
    if isinstance(layers, list):
        found["layers"] = [renamed(layer, {"loss": "drop"}) for layer in layers]
    return found


Plan._kind = FileKind(
    noun="plan",
    schema=SCHEMA,
    document=Plan,
    advice="give a file that Plan.save or `aiq search --output` wrote",
    older={"aiq/plan/v1": _from_v1},
)


class _Undecided(TypedDict):
    """A parameter without a choice of formats."""

    layer: Text
    op: Text
    dtype: Text
    bytes: Count


_SHOWN: Mapping[str, Any] = {
    "undecided": list[_Undecided],
    "uncounted": list[Text],
    "profile": Text,
    "rounding": WeightRounding,
    "rounded_on_data": bool,
    "training": Text,
}
"""What tables show of a provenance, and its types."""


def _repeated(names: list[str]) -> str:
    return next(name for index, name in enumerate(names) if name in names[:index])
