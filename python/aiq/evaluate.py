"""Accuracy of a network with each layer in its own format, on the user's data.

Samples run in chunks that fit the caches. What two runs of a chunk have in common, from the input
up to the first layer whose format differs, is computed once and kept while memory lasts.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from aiq.errors import DataError
from aiq.export import Inputs
from aiq.formats import REFERENCE, Format
from aiq.graph import Trace, trace
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Formats, Simulator, State
from aiq.quantize.statistics import observe
from aiq.samples import Samples, gather

Progress = Callable[[str, int, int], None]
"""Called with what is going on, how many steps of it are done, and how many there are."""

CALIBRATION_SAMPLES = 512
"""Samples of the data on which ranges are observed when no calibration data is given."""

CHUNK_BYTES = 4 * 2**20
"""Size to which the largest activation of a chunk is held: a few of them fit the last cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """How one assignment of formats did on N samples.

    Attributes
    ----------
    correct, reference
        bool, (N,): whether the largest logit is the target's; the same of the float32 network.
    divergence
        float64, (N,): Kullback-Leibler divergence in nats from the float32 network's softmax to
        this one's.
    cross_entropy
        Mean, in nats.
    """

    correct: NDArray[np.bool_]
    reference: NDArray[np.bool_]
    divergence: NDArray[np.float64]
    cross_entropy: float

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        """Share of samples that are right, 0..1."""
        return float(self.correct.mean())

    @property
    def drop(self) -> float:
        """Accuracy that the float32 network has more, as a fraction."""
        return float(self.reference.mean() - self.correct.mean())

    @property
    def drop_error(self) -> float:
        """Standard error of the drop, of paired samples."""
        difference = self.reference.astype(np.float64) - self.correct
        return float(difference.std()) / math.sqrt(self.samples)

    @property
    def kl(self) -> float:
        """Mean divergence."""
        return float(self.divergence.mean())

    @property
    def kl_error(self) -> float:
        """Standard error of the mean divergence."""
        return float(self.divergence.std()) / math.sqrt(self.samples)


@dataclass(slots=True)
class _Path:
    """What the last run of a chunk left: its formats, and the state before each layer."""

    formats: tuple[Format, ...]
    states: list[State]

    @property
    def bytes(self) -> int:
        """Memory of the activations, each counted once."""
        tensors = {
            id(value): value.nbytes
            for state in self.states
            for value in state.values.values()
            if isinstance(value, Tensor)
        }
        return sum(tensors.values())


class Evaluator:
    """Evaluates any assignment of formats to the layers of a model, quickly.

    Parameters
    ----------
    model
        A module in any mode (it is evaluated in evaluation mode), or its trace.
    data
        Iterable of ``(inputs, targets)`` batches, targets being class indices; read once.
    calibration
        Batches of ``(inputs, targets)``, or of inputs, on which the ranges of quantised activations
        are observed. Default: the first 512 samples of `data`.
    observer
        How ranges follow from what is observed: a name in `aiq.quantize.observers.OBSERVERS`.
    memory
        Bytes that kept activations may take.
    progress
        Called with what is going on, steps done, steps in all.

    Attributes
    ----------
    trace
        The folded trace that is run.
    layers
        Names of the layers whose format is a decision, in the order in which they run.
    baseline
        Evaluation of the float32 network.

    Raises
    ------
    DataError
        If the data is empty, does not fit the model, or drives it to NaN.
    GraphError
        If the model cannot be exported.
    """

    def __init__(
        self,
        model: nn.Module | Trace,
        data: Iterable[Any],
        *,
        calibration: Iterable[Any] | None = None,
        observer: str = "mse",
        memory: int = 2 * 2**30,
        progress: Progress | None = None,
    ) -> None:
        self._progress = progress or (lambda stage, done, total: None)
        samples = gather(data)
        if isinstance(model, nn.Module):
            model = trace(model, samples.part(0, 2).inputs)
        self.trace = fold(model)
        self._memory = memory
        # In random order every chunk is a fair sample, even of data sorted by class.
        self._order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
        self._chunks = samples.at(self._order).chunks(_chunk_size(self.trace, memory))
        self._work = 0.0  # samples run, over all samples
        seen = samples if calibration is None else gather(calibration, labelled=False)
        seen = seen.part(0, CALIBRATION_SAMPLES) if calibration is None else seen
        with torch.inference_mode():
            chunks = seen.chunks(_chunk_size(self.trace, memory))
            statistics = observe(self.trace, (self._inputs(chunk) for chunk in chunks))
        self._simulator = Simulator(self.trace, statistics, observer)
        self.layers = tuple(layer.name for layer in self._simulator.layers)
        self._starts = tuple(map(self._simulator.start_of, self.layers))
        self._paths: dict[int, _Path] = {}
        self._kept = 0  # bytes of _paths
        self._reference: list[_Reference] = []  # per chunk
        self.baseline = self.evaluate({})

    @property
    def evaluations(self) -> int:
        """How often the network has run on all samples so far; parts count as fractions."""
        return math.ceil(round(self._work, 6))

    def evaluate(self, formats: Formats) -> Evaluation:
        """Return how the model does with its layers in `formats`; layers not named stay float32.

        Raises
        ------
        InputError
            If there is no such layer.
        DataError
            If a layer writes NaN or infinite values.
        """
        plan = self._plan(formats)
        scores = []
        for index in range(len(self._chunks)):
            path = self._paths.pop(index, None)
            self._kept -= path.bytes if path else 0
            score, path = self._run(index, plan, path)
            if self._kept + path.bytes <= self._memory:
                self._paths[index] = path
                self._kept += path.bytes
            scores.append(score)
            self._progress("evaluate", index + 1, len(self._chunks))
        return self._evaluation(scores)

    def evaluate_many(
        self,
        plans: Sequence[Formats],
        enough: Callable[[Evaluation], bool] | None = None,
        progress: Progress | None = None,
    ) -> list[Evaluation]:
        """Return the evaluation of each of `plans`, sharing what they have in common.

        Quicker than one at a time: plans are sorted so that neighbours share most, and all of them
        run on a chunk before the next one.

        Parameters
        ----------
        plans
            Layer name -> format, for each plan.
        enough
            Shown what a plan's evaluation is so far, on a random part of the samples; where it says
            yes, that is the result. Default: all samples.
        progress
            In place of the evaluator's own.
        """
        report = progress or self._progress
        whole = [self._plan(formats) for formats in plans]
        order = sorted(
            range(len(whole)), key=lambda i: [(f != REFERENCE, f.name) for f in whole[i]]
        )
        scores: list[list[_Score]] = [[] for _ in whole]
        done, total = 0, len(whole) * len(self._chunks)
        for index in range(len(self._chunks)):
            path: _Path | None = None
            for i in tuple(order):
                score, path = self._run(index, whole[i], path)
                scores[i].append(score)
                done += 1
                if enough is not None and enough(self._evaluation(scores[i])):
                    order.remove(i)
                    done += len(self._chunks) - index - 1
                report("evaluate", done, total)
        return [self._evaluation(parts) for parts in scores]

    def _plan(self, formats: Formats) -> tuple[Format, ...]:
        self._simulator.check(formats)
        return tuple(formats.get(name, REFERENCE) for name in self.layers)

    @torch.inference_mode()
    def _run(
        self, index: int, plan: tuple[Format, ...], path: _Path | None
    ) -> tuple["_Score", _Path]:
        """Run a chunk, from where `plan` leaves `path`."""
        simulator, chunk = self._simulator, self._chunks[index]
        formats = dict(zip(self.layers, plan, strict=True))
        if path is None:
            states = [simulator.advance(simulator.start(self._inputs(chunk)), {}, self._starts[0])]
        else:
            states = path.states[: _common(plan, path.formats) + 1]
        for start in self._starts[len(states) :]:
            states.append(simulator.advance(states[-1], formats, start))
        output = simulator.finish(simulator.advance(states[-1], formats))
        self._work += len(chunk) / len(self._order)
        return self._score(index, formats, _logits(output, len(chunk))), _Path(plan, states)

    def _score(self, index: int, formats: Formats, logits: Tensor) -> "_Score":
        targets = self._chunks[index].targets
        assert targets is not None, "gathered with labels"
        if not logits.isfinite().all():
            raise DataError(self._unsound(index, formats))
        log_q = logits.double().log_softmax(1)
        if index == len(self._reference):  # the first evaluation is the float32 network's
            _check_classes(targets, logits.shape[1])
            self._reference.append(_Reference(log_q, logits.argmax(1) == targets))
        log_p = self._reference[index].log_probabilities
        divergence = (log_p.exp() * (log_p - log_q)).sum(1)
        own = log_q.gather(1, targets[:, None])[:, 0]
        return _Score(logits.argmax(1) == targets, divergence, -own)

    def _evaluation(self, scores: Sequence["_Score"]) -> Evaluation:
        """Join the scores of the first chunks, samples in the order in which the data gave them."""
        correct = torch.cat([s.correct for s in scores])
        reference = torch.cat([r.correct for r in self._reference[: len(scores)]])
        back = self._order[: len(correct)].argsort()
        return Evaluation(
            correct=correct[back].numpy(),
            reference=reference[back].numpy(),
            divergence=torch.cat([s.divergence for s in scores])[back].numpy(),
            cross_entropy=float(torch.cat([s.cross_entropy for s in scores]).mean()),
        )

    def _unsound(self, index: int, formats: Formats) -> str:
        """Say which layer first writes NaN or infinity on a chunk."""
        layer_of = {node: layer for layer in self.trace.graph.layers for node in layer.nodes}
        unsound: list[str] = []

        def watch(node: str, value: object) -> None:
            if isinstance(value, Tensor) and not value.isfinite().all() and node in layer_of:
                unsound.append(layer_of[node].name)

        start = self._simulator.start(self._inputs(self._chunks[index]))
        self._simulator.advance(start, formats, watch=watch)
        place = (
            f"layer {unsound[0]!r} (as {formats.get(unsound[0], REFERENCE)})" if unsound else "it"
        )
        return (
            f"The network returns NaN or infinite values: {place} writes them first; check the "
            "weights, and the inputs (are they finite, and scaled as in training?)."
        )

    def _inputs(self, chunk: Samples) -> Inputs:
        """Return the inputs of a chunk, filled up to the batch of a trace that takes no other."""
        missing = 0 if self.trace.dynamic_batch else self.trace.graph.batch - len(chunk)
        if not missing:
            return chunk.inputs

        def fill(leaf: Tensor) -> Tensor:
            return torch.cat([leaf, leaf[-1:].expand(missing, *leaf.shape[1:])])

        filled: Inputs = pytree.tree_map(fill, chunk.inputs)
        return filled


@dataclass(frozen=True, slots=True)
class _Reference:
    """What the float32 network says of a chunk: (N, classes), and right or wrong, (N,)."""

    log_probabilities: Tensor
    correct: Tensor


@dataclass(frozen=True, slots=True)
class _Score:
    """Per sample of a chunk: right or wrong, divergence, cross-entropy."""

    correct: Tensor
    divergence: Tensor
    cross_entropy: Tensor


def _check_classes(targets: Tensor, classes: int) -> None:
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"Targets range from {low} to {high} but the model has {classes} classes; give class "
            "indices from 0."
        )


def _common(one: tuple[Format, ...], other: tuple[Format, ...]) -> int:
    """Return how many leading formats agree, at most all but one."""
    pairs = enumerate(zip(one, other, strict=True))
    return next((i for i, (a, b) in pairs if a != b), len(one) - 1)


def _chunk_size(trace: Trace, memory: int) -> int:
    """Return the samples of a chunk: the largest activation small, all of them within memory."""
    if not trace.dynamic_batch:
        return trace.graph.batch
    written = [4 * layer.output_elements / trace.graph.batch for layer in trace.graph.layers]
    return max(1, int(min(CHUNK_BYTES / max(written), memory / 2 / sum(written))))


def _logits(output: object, count: int) -> Tensor:
    """Return the logits of `count` samples from what the model returned."""
    logits = next((leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)), None)
    if logits is None or logits.ndim != 2 or not logits.is_floating_point():
        what = "no tensor" if logits is None else f"{logits.dtype} of shape {tuple(logits.shape)}"
        raise DataError(
            f"The model returns {what}; to measure accuracy it has to return logits of shape "
            "(batch, classes)."
        )
    return logits[:count]
