"""Alternate search and training until the intensity stops growing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn

from aiq import bars
from aiq.data.reading import reiterable
from aiq.errors import InfeasibleError, InputError, Interrupted, type_of
from aiq.evaluate import Evaluation, Evaluator
from aiq.formats import Format
from aiq.graph.export import Inputs
from aiq.hardware import Hardware
from aiq.plan import Plan
from aiq.planning import checks
from aiq.planning.search import search
from aiq.progress import Progress, silent
from aiq.training.finetune import Finetuned, train
from aiq.training.options import TrainingOptions
from aiq.training.subject import Subject

FEWEST = 0.25
"""Smallest share of the first stride with which another plan is searched."""


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """A plan that was searched and trained.

    Attributes
    ----------
    stride
        Largest accuracy drop before training, as a fraction, against the network of the round
        before.
    searched
        The plan as the search found it.
    trained
        The same plan and its network after training. Its accuracy is compared with the float32
        network that was given first.
    kept
        Whether its drop is within the budget.
    """

    stride: float
    searched: Plan
    trained: Finetuned
    kept: bool


@dataclass(frozen=True, slots=True, eq=False)
class TrainedSearch:
    """The result of alternating search and training.

    Attributes
    ----------
    best
        The trained network of the most intensity within the budget; ``None`` if there is none.
    rounds
        All rounds, in order.
    stopped
        Why there was no further round, in words.
    """

    best: Finetuned | None
    rounds: tuple[Round, ...]
    stopped: str


@bars.shows_progress
def finetune_search(
    model: nn.Module,
    hw: str | Path | Hardware,
    data: Iterable[Any],
    validation: Iterable[Any],
    *,
    max_drop: float = 0.01,
    stride: float = 0.03,
    rounds: int = 4,
    gain: float = 0.002,
    formats: str | Iterable[str | Format] | None = None,
    calibration: Iterable[Any] | None = None,
    example_inputs: Inputs | None = None,
    training: TrainingOptions | None = None,
    search_options: Mapping[str, Any] | None = None,
    progress: bars.Shown = "bar",
) -> TrainedSearch:
    """Search the plan of most FLOPs per byte, train it, search on the trained network, and so on.

    A search looks for the plan of most intensity whose drop, before training, is at most `stride`
    against the network trained last. Training then wins most of that back. If the trained plan
    keeps to `max_drop` against the float32 network that was given, the next round starts from it;
    otherwise the round is dropped, and the stride is halved. It ends when a search finds no more
    intensity, when the stride is a quarter of the first, or after the last round.

    Parameters
    ----------
    model
        The module; it is not changed.
    hw
        Hardware profile, see `aiq.search`; intensities do not depend on it.
    data
        Training data, see `aiq.finetune`.
    validation
        Batches of ``(inputs, targets)`` that choose plans and judge the trained networks. To judge
        the result, take other data: it was chosen on these.
    max_drop
        Largest accuracy drop of a trained plan, as a fraction: 0.01 is one percentage point.
    stride
        Largest drop of a plan before it is trained.
    rounds
        Most rounds.
    gain
        Smallest relative gain of intensity for which another plan is trained.
    formats
        Formats to choose from. Default: as of `aiq.search` for intensity.
    calibration
        Batches on which activations are observed. Default: `validation` for a search, `data` for
        training.
    example_inputs
        Arguments of one call, see `aiq.search`.
    training
        How each plan is trained.
    search_options
        Further options of `aiq.search`, such as ``runtime``, ``sensitivity``, ``metric`` or
        ``confidence``. The confidence, by default 0.95, is that with which a trained plan must keep
        to `max_drop`; plans before training are taken at their word.
    progress
        Called with the stage, the steps done and the steps in all.

    Raises
    ------
    InputError, DataError, GraphError
        As `aiq.search` and `aiq.finetune` do.
    Interrupted
        On Ctrl-C, a KeyboardInterrupt: its `trained` holds the rounds until then.
    """
    checks.max_drop(max_drop)
    checks.positive("stride", stride)
    checks.max_drop(stride)
    if type(rounds) is not int or rounds < 1:
        raise InputError(
            f"rounds is {rounds!r:.50}; give at least one round of search and training."
        )
    checks.fraction("gain", gain)
    if not isinstance(training, TrainingOptions | None):
        raise InputError(f"training is {type_of(training)}; give aiq.TrainingOptions(...).")
    if not isinstance(search_options, Mapping | None):
        raise InputError(
            f"search_options is {type_of(search_options)}; give a mapping of arguments of "
            "aiq.search to their values."
        )
    options = dict(search_options or {})
    if unknown := options.keys() - signature(search).parameters.keys():
        raise InputError(
            f"search_options names {', '.join(sorted(map(str, unknown)))}, which aiq.search does "
            "not have; see its documentation."
        )
    own = {"objective", "max_drop", "formats", "calibration", "example_inputs", "data", "progress"}
    if own & options.keys():
        raise InputError(
            f"search_options names {', '.join(sorted(own & options.keys()))}, which "
            "finetune_search sets itself; give its own argument, or leave it out."
        )
    loop = _Alternation(
        model,
        hw,
        reiterable(data),
        reiterable(validation, "validation"),
        None if calibration is None else reiterable(calibration, "calibration"),
        example_inputs,
        formats,
        options,
        training or TrainingOptions(),
        progress if callable(progress) else silent,
    )
    try:
        stopped = loop.run(max_drop, stride, rounds, gain)
    except KeyboardInterrupt:
        found = TrainedSearch(loop.best, tuple(loop.rounds), "interrupted")
        raise Interrupted(
            f"The search was stopped after {len(loop.rounds)} whole rounds.",
            plan=None if loop.best is None else loop.best.plan,
            trained=found,
        ) from None
    return TrainedSearch(loop.best, tuple(loop.rounds), stopped)


@dataclass(slots=True, eq=False)
class _Alternation:
    """The rounds so far, and what they are made of."""

    model: nn.Module
    hw: str | Path | Hardware
    data: Iterable[Any]
    validation: Iterable[Any]
    calibration: Iterable[Any] | None
    example_inputs: Inputs | None
    formats: str | Iterable[str | Format] | None
    options: dict[str, Any]
    training: TrainingOptions
    progress: Progress
    best: Finetuned | None = None
    rounds: list[Round] = field(default_factory=list)

    def run(self, max_drop: float, stride: float, rounds: int, gain: float) -> str:
        """Search and train in turns, and return why that ended."""
        least, baseline = FEWEST * stride, self._float32()
        while len(self.rounds) < rounds:
            reached = 0.0 if self.best is None else self.best.plan.predicted.intensity
            try:
                plan = self._searched(stride)
            except InfeasibleError as error:
                return f"no plan could be trained: {error}"
            if plan.predicted.intensity <= reached * (1 + gain):
                return "the intensity stopped growing"
            trained = self._trained(plan, max_drop, baseline)
            assert trained.plan.accuracy is not None
            kept = trained.plan.accuracy.drop_limit <= max_drop
            self.rounds.append(Round(stride, plan, trained, kept))
            if kept:
                self.best = trained
            else:
                stride /= 2
            if stride < least:
                return "no larger intensity could be trained within the budget"
        return f"{rounds} rounds were done"

    def _float32(self) -> Evaluation:
        """Return the evaluation of the float32 network that was given."""
        known = {key: self.options[key] for key in ("metric", "batch_dim") if key in self.options}
        return Evaluator(self.model, self.validation, progress=self.progress, **known).baseline

    def _searched(self, stride: float) -> Plan:
        return search(
            self.model if self.best is None else self.best.model,
            self.hw,
            self.validation,
            objective="intensity",
            max_drop=stride,
            formats=self.formats,
            calibration=self.calibration,
            example_inputs=self.example_inputs,
            progress=self.progress,
            **{**self.options, "confidence": 0.5},
        )

    def _trained(self, plan: Plan, max_drop: float, baseline: Evaluation) -> Finetuned:
        """Return a plan trained from the best network so far, with the scales it has learned."""
        confidence = self.options.get("confidence", 0.95)
        plan = replace(
            plan,
            learned=None if self.best is None else self.best.plan.learned,
            provenance={**plan.provenance, "max_drop": max_drop, "confidence": confidence},
        )
        subject = Subject(
            plan,
            self.model if self.best is None else self.best.model,
            self.data,
            self.validation,
            self.calibration,
            self.example_inputs,
        )
        return train(subject, self.training, None, baseline, self.progress)
