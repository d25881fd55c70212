"""The input of every estimate, and the two tensors it compares: of the network and of a layer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aiq.evaluate.metrics import main_output
from aiq.formats import Format
from aiq.graph.batch import BatchDim, samples_first, samples_in
from aiq.graph.export import Inputs
from aiq.quantize.simulate import Formats, Simulator, State


@dataclass(frozen=True, slots=True, eq=False)
class EstimateContext:
    """A network, its inputs, and the formats whose effect on each layer alone is estimated.

    Attributes
    ----------
    simulator
        Runs the network.
    batches
        Inputs of the network, batch by batch.
    layers
        Names of the L layers, in the order of the table.
    formats
        The K formats, each of which rounds weights or activations.
    classes
        Whether the network's output is the logits of classes.
    seed
        Seed of the random draws.
    step
        Function to call once for each batch, layer and format.
    batch_dim
        Dimension of the inputs that counts samples.
    output_dim
        Dimension of the network's output that counts samples; ``None`` if one call is one sample.
    """

    simulator: Simulator
    batches: tuple[Inputs, ...]
    layers: tuple[str, ...]
    formats: tuple[Format, ...]
    classes: bool
    seed: int
    step: Callable[[], None]
    batch_dim: BatchDim = 0
    output_dim: int | None = 0

    def samples(self, batch: Inputs) -> int:
        """Return the number of samples in a batch."""
        return samples_in(batch, self.batch_dim)


Estimator = Callable[[EstimateContext], Tensor]
"""Returns the harm of each layer in each format: float64, (S, L, K), for S samples or draws.

For 256 samples of a network of 22 layers and 3 formats its shape is (256, 22, 3).
"""

Reader = Callable[[Simulator, State, str, Formats], Tensor]
"""Continues a run in the given formats and returns one of its tensors."""


def output(simulator: Simulator, state: State, layer: str, formats: Formats) -> Tensor:
    """Return the network's output."""
    return main_output(simulator.finish(simulator.advance(state, formats)))


def written(simulator: Simulator, state: State, layer: str, formats: Formats) -> Tensor:
    """Return the layer's output; no operator after it runs."""
    node = writes(simulator, layer)
    found: list[Tensor] = []

    def watch(name: str, value: object) -> None:
        if name == node and isinstance(value, Tensor):
            found.append(value)

    simulator.advance(state, formats, simulator.program.position[node] + 1, watch)
    return found[0]


def writes(simulator: Simulator, layer: str) -> str:
    """Return the name of the node whose value is the layer's output."""
    return next(x.nodes[-1] for x in simulator.layers if x.name == layer)


def alone(
    context: EstimateContext,
    read: Reader,
    judge: Callable[[Tensor, Tensor, str], Tensor],
    prepare: Callable[[Inputs], None] = lambda batch: None,
) -> Tensor:
    """Return the harm of each layer alone in each format, (S, L, K).

    Parameters
    ----------
    context
        The network and its inputs.
    read
        Reads the tensor whose change counts: `output` or `written`.
    judge
        Maps the rounded tensor, the exact one and the layer's name to harm of any shape. The harm
        of a sample is the sum over its elements.
    prepare
        Called with each batch before it runs.
    """
    simulator, shape = context.simulator, (len(context.layers), len(context.formats))

    def seen(tensor: Tensor) -> Tensor:
        return samples_first(tensor, context.output_dim) if read is output else tensor

    found = []
    for batch in context.batches:
        prepare(batch)
        count = context.samples(batch)
        scores = torch.zeros(count, *shape, dtype=torch.float64)
        with torch.inference_mode():
            state = simulator.start(batch)
            for layer in simulator.layers:
                i = context.layers.index(layer.name)
                state = simulator.advance(state, {}, simulator.start_of(layer.name))
                exact = seen(read(simulator, state, layer.name, {}))
                for k, chosen in enumerate(context.formats):
                    rounded = seen(read(simulator, state, layer.name, {layer.name: chosen}))
                    harm = judge(rounded, exact, layer.name).double()
                    # A tensor without a sample dimension is divided equally among the samples.
                    own = harm.numel() % count == 0
                    scores[:, i, k] = harm.reshape(count, -1).sum(1) if own else harm.sum() / count
                    context.step()
        found.append(scores)
    return torch.cat(found)


def relative_error(rounded: Tensor, exact: Tensor) -> Tensor:
    """Return the squared error of each element over the mean power of a sample of `exact`.

    Power is the squared deviation from the mean over the last dimension, as logits keep their
    meaning if a constant is added. The result has the shape of `rounded`; its sum over a sample
    is the noise-to-signal ratio.
    """
    a, b = rounded.double(), exact.double()
    power = (b - b.mean(-1, keepdim=True)).square().sum() / len(b)
    return (a - b).square() / power.clamp(min=torch.finfo(torch.float64).tiny)


def usual_class_axis(logits: Tensor) -> int:
    """Return the dimension of the classes: the second of logits of images, else the last one."""
    return 1 if logits.ndim > 3 else logits.ndim - 1
