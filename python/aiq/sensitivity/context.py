"""What every estimate works on, and the two places where it looks: outputs and layers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from aiq.evaluate.metrics import main_output
from aiq.formats import Format
from aiq.graph.batch import BatchDim, batch_dims, batch_size
from aiq.graph.export import Inputs
from aiq.quantize.simulate import Formats, Simulator, State


@dataclass(frozen=True, slots=True, eq=False)
class EstimateContext:
    """A network, inputs, and the formats that every layer is put into, alone.

    Attributes
    ----------
    simulator
        Runs the network.
    batches
        Inputs, batch by batch.
    layers
        Names of the L layers, in the order of the table.
    formats
        The K formats, all of which round something.
    classes
        Whether the network's output is logits of classes.
    seed
        Of random draws.
    step
        To be called once for each batch, layer and format.
    batch_dim
        The dimension of the inputs that counts samples.
    output_dim
        The dimension of the network's output that does; ``None``: one call is one sample.
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
        """Return how many samples a batch has."""
        return batch_size(batch_dims(self.batch_dim, batch), pytree.tree_leaves(batch))


Way = Callable[[EstimateContext], Tensor]
"""Estimates the harm of each layer in each format: float64, (S, L, K), for S samples or draws."""

Look = Callable[[Simulator, State, str, Formats], Tensor]
"""Continues a run in some formats, and returns a tensor of it."""


def output(simulator: Simulator, state: State, layer: str, formats: Formats) -> Tensor:
    """Return the network's output."""
    return main_output(simulator.finish(simulator.advance(state, formats)))


def written(simulator: Simulator, state: State, layer: str, formats: Formats) -> Tensor:
    """Return what the layer writes; nothing after it runs."""
    node = writes(simulator, layer)
    found: list[Tensor] = []

    def watch(name: str, value: object) -> None:
        if name == node and isinstance(value, Tensor):
            found.append(value)

    simulator.advance(state, formats, simulator.program.position[node] + 1, watch)
    return found[0]


def writes(simulator: Simulator, layer: str) -> str:
    """Return the node whose value a layer writes."""
    return next(x.nodes[-1] for x in simulator.layers if x.name == layer)


def alone(
    setting: EstimateContext,
    look: Look,
    judge: Callable[[Tensor, Tensor, str], Tensor],
    prepare: Callable[[Inputs], None] = lambda batch: None,
) -> Tensor:
    """Return how much each layer alone in each format changes a tensor, (S, L, K).

    Parameters
    ----------
    setting
        The network and its inputs.
    look
        Which tensor: `output` or `written`.
    judge
        Maps the rounded tensor, the exact one and the layer's name to harm, of any shape: each
        sample's harm is its sum.
    prepare
        Shown each batch before it runs.
    """
    simulator, shape = setting.simulator, (len(setting.layers), len(setting.formats))

    def seen(tensor: Tensor) -> Tensor:
        return samples_first(tensor, setting.output_dim) if look is output else tensor

    found = []
    for batch in setting.batches:
        prepare(batch)
        count = setting.samples(batch)
        scores = torch.zeros(count, *shape, dtype=torch.float64)
        with torch.inference_mode():
            state = simulator.start(batch)
            for layer in simulator.layers:
                i = setting.layers.index(layer.name)
                state = simulator.advance(state, {}, simulator.start_of(layer.name))
                exact = seen(look(simulator, state, layer.name, {}))
                for k, chosen in enumerate(setting.formats):
                    rounded = seen(look(simulator, state, layer.name, {layer.name: chosen}))
                    harm = judge(rounded, exact, layer.name).double()
                    # what all samples share is no sample's own: each gets its part of it
                    own = harm.numel() % count == 0
                    scores[:, i, k] = harm.reshape(count, -1).sum(1) if own else harm.sum() / count
                    setting.step()
        found.append(scores)
    return torch.cat(found)


def samples_first(output: Tensor, dim: int | None) -> Tensor:
    """Return the network's output with the samples as its first dimension."""
    return output[None] if dim is None else output.movedim(dim, 0)


def relative_error(rounded: Tensor, exact: Tensor) -> Tensor:
    """Return squared errors, over the mean power of a sample of `exact`; they add up to a ratio.

    Power is that of deviations from the mean of the last dimension: logits mean the same shifted.
    """
    a, b = rounded.double(), exact.double()
    power = (b - b.mean(-1, keepdim=True)).square().sum() / len(b)
    return (a - b).square() / power.clamp(min=torch.finfo(torch.float64).tiny)


def class_axis(logits: Tensor) -> int:
    """Return the dimension of logits that counts classes: images have it second, others last."""
    return 1 if logits.ndim > 3 else logits.ndim - 1
