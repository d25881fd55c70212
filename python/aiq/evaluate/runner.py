"""Run chunks of samples under plans, and compute only once what two plans have in common.

A runner can be pickled, so that other processes run the same chunks with equal results.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from aiq.errors import DataError, InputError
from aiq.evaluate import metrics
from aiq.evaluate.metrics import Metric, Reference
from aiq.evaluate.samples import Samples
from aiq.formats import REFERENCE, Format
from aiq.quantize.simulate import Simulator, State

LayerFormats = tuple[Format, ...]
"""The format of each layer, in the order of `Runner.layers`."""


@dataclass(slots=True)
class Checkpoint:
    """The plan of a chunk's last run, and the state of that run before each layer."""

    plan: LayerFormats
    states: list[State]

    @property
    def bytes(self) -> int:
        """Size of the activations in bytes, each counted once."""
        tensors = {
            id(value): value.nbytes
            for state in self.states
            for value in state.values.values()
            if isinstance(value, Tensor)
        }
        return sum(tensors.values())


class Runner:
    """Runs chunks on a simulator and scores them.

    Parameters
    ----------
    simulator
        Simulator of the network.
    metric
        Metric of the scores.
    batch
        Number of samples that the network takes at a time; ``None`` for any number.
    output_dim
        Dimension of the main output that counts samples; ``None`` if one call is one sample.
    """

    def __init__(
        self,
        simulator: Simulator,
        metric: str | Metric,
        batch: int | None,
        output_dim: int | None = 0,
    ) -> None:
        self.simulator = simulator
        self.layers = tuple(layer.name for layer in simulator.layers)
        self._starts = tuple(map(simulator.start_of, self.layers))
        self._metric = metric
        self._batch = batch
        self.output_dim = output_dim

    @torch.inference_mode()
    def run(
        self,
        chunk: Samples,
        plan: LayerFormats,
        path: Checkpoint | None,
        reference: Reference | None,
        *,
        keep: bool = True,
    ) -> tuple[Tensor, Checkpoint | None, Reference]:
        """Run a chunk under a plan, from the first layer whose format differs from `path`'s plan.

        Parameters
        ----------
        chunk
            The samples.
        plan
            Format of each layer.
        path
            Checkpoint of the last run of this chunk, or ``None``.
        reference
            Reference of the float32 network on this chunk; ``None`` if `plan` is float32.
        keep
            Whether to keep the activations of this run.

        Returns
        -------
        scores
            Score, divergence and cross-entropy of each sample: float64, (3, samples).
        path
            Checkpoint for the next run of this chunk, or ``None`` if nothing is to be kept.
        reference
            The reference that was given, or that of this run.

        Raises
        ------
        DataError
            If the network computes NaN or infinity. The message names the layer and its format.
        """
        formats = dict(zip(self.layers, plan, strict=True))
        simulator = self.simulator
        if path is None:
            start = simulator.start(chunk.filled(self._batch))
            states = [simulator.advance(start, {}, self._starts[0])]
        else:
            states = path.states[: _common(plan, path.plan) + 1]
        for start_of_layer in self._starts[len(states) :] if keep else ():
            states.append(simulator.advance(states[-1], formats, start_of_layer))
        output = simulator.finish(simulator.advance(states[-1], formats))
        output = pytree.tree_map(lambda leaf: self._cut(leaf, len(chunk)), output)
        if not metrics.main_output(output).isfinite().all():
            raise DataError(self._unsound(chunk, formats))
        scores, reference = metrics.evaluate(
            self._in_order_of(chunk), output, chunk.targets, reference, self.output_dim
        )
        stacked = torch.stack([scores.score, scores.divergence, scores.cross_entropy])
        return stacked, Checkpoint(plan, states) if keep else None, reference

    def _cut(self, leaf: Any, count: int) -> Any:  # noqa: ANN401
        dim, batch = self.output_dim, self._batch
        filled = batch is not None and isinstance(leaf, Tensor) and dim is not None
        if not filled or leaf.ndim <= dim or leaf.shape[dim] != batch:
            return leaf
        return leaf.narrow(dim, 0, count)

    def _in_order_of(self, chunk: Samples) -> str | Metric:
        """Return the metric; a user's metric gets targets with the dimensions of the data."""
        own = self._metric
        if isinstance(own, str):
            return own

        def metric(output: Any, _: Tensor) -> Tensor:  # noqa: ANN401
            targets = chunk.given_targets
            assert targets is not None, "data for a user's metric is gathered with targets"
            try:
                score = torch.as_tensor(own(output, targets))
            except Exception as error:  # the user's code may raise anything
                said = str(error).strip().split("\n", 1)[0].rstrip(".")
                raise InputError(
                    f"The metric raised {type(error).__name__} ({said}); let it take what the "
                    "model returns and the targets, and return one number for each sample."
                ) from error
            return score.reshape(1) if chunk.whole and score.numel() == 1 else score

        return metric

    def _unsound(self, chunk: Samples, formats: dict[str, Format]) -> str:
        """Return a message that names the first layer whose output is NaN or infinite."""
        layer_of = self.simulator.layer_of
        unsound: list[str] = []

        def watch(node: str, value: object) -> None:
            if isinstance(value, Tensor) and not value.isfinite().all() and node in layer_of:
                unsound.append(layer_of[node])

        self.simulator.advance(
            self.simulator.start(chunk.filled(self._batch)), formats, watch=watch
        )
        writer = f"layer {unsound[0]!r}" if unsound else "the last operator"
        chosen = formats.get(unsound[0], REFERENCE) if unsound else REFERENCE
        return (
            f"The network returns NaN or infinite values: {writer} (as {chosen}) writes them "
            "first; check its weights and the inputs (are they scaled as in training?)."
        )


def _common(one: LayerFormats, other: LayerFormats) -> int:
    """Return the number of leading formats that are equal; the last one never counts."""
    pairs = enumerate(zip(one, other, strict=True))
    return next((i for i, (a, b) in pairs if a != b), len(one) - 1)
