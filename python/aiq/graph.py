"""From an ``nn.Module`` to the layer graph: what is computed, on how much data, in which order."""

from dataclasses import dataclass
from enum import StrEnum

import torch


class Op(StrEnum):
    """What a layer computes, as far as its speed depends on it."""

    CONV = "conv"
    POINTWISE = "pointwise"
    DEPTHWISE = "depthwise"
    GROUPED = "grouped"
    LINEAR = "linear"
    MATMUL = "matmul"
    ADD = "add"
    MUL = "mul"
    POOL = "pool"
    NORM = "norm"
    SOFTMAX = "softmax"
    ACTIVATION = "activation"
    CONCAT = "concat"
    EMBEDDING = "embedding"
    LAYOUT = "layout"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator with what fuses into it; all counts are for the whole batch.

    Attributes
    ----------
    name
        Path of the module that computes it (``layer1.0.conv1``; a second call adds ``#2``), or the
        name of the graph node when no module stands behind it.
    op
        Operator class.
    flops
        Floating-point operations, 2 per multiply-accumulate; 0 for data movement.
    weight_elements
        Elements of its weight and bias.
    input_elements, output_elements
        Elements of the activations it reads and of the tensor it writes.
    fused_elements
        Elements of further activations that its fused operators read (a residual operand).
    weight_shape, input_shapes, output_shape
        Shapes of the weight (``None`` without one), of the activations read, of the tensor written.
    weight
        Qualified name of the weight parameter (the same for tied weights), or ``None``.
    nodes
        Graph nodes, in order, that this layer covers: its operator and what fuses into it. The
        first one carries the weights; the last one's value is what the layer writes.
    fused
        Names of the fused operators (``batch_norm``, ``relu``, ``add``).
    is_output
        Whether a result of the network is written by this layer (it stays float32).
    """

    name: str
    op: Op
    flops: int
    weight_elements: int
    input_elements: int
    output_elements: int
    fused_elements: int
    weight_shape: tuple[int, ...] | None
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    weight: str | None
    nodes: tuple[str, ...]
    fused: tuple[str, ...]
    is_output: bool

    @property
    def quantizable(self) -> bool:
        """Whether the layer's format is a decision: convolutions and linear layers with weights."""
        return self.weight is not None and self.op in WEIGHTED


WEIGHTED = frozenset({Op.CONV, Op.POINTWISE, Op.DEPTHWISE, Op.GROUPED, Op.LINEAR})


@dataclass(frozen=True, slots=True)
class Edge:
    """A tensor of `elements` elements that layer `source` writes and layer `target` reads."""

    source: int
    target: int
    elements: int


@dataclass(frozen=True, slots=True)
class LayerGraph:
    """Layers in execution order and the tensors between them (indices into `layers`).

    `batch` is the size of the first dimension of the first example input; counts scale with it.
    """

    model: str
    batch: int
    layers: tuple[Layer, ...]
    edges: tuple[Edge, ...]

    @property
    def quantizable(self) -> tuple[Layer, ...]:
        """The layers whose format is a decision, in order."""
        return tuple(layer for layer in self.layers if layer.quantizable)


@dataclass(frozen=True, slots=True)
class Trace:
    """An exported model: a functional ATen graph that can be run, and its layer graph.

    Attributes
    ----------
    module
        Graph module with parameters attached, inference mode, no in-place operators.
    graph
        The layer graph; ``Layer.nodes`` are names of nodes of ``module.graph``.
    """

    module: torch.fx.GraphModule
    graph: LayerGraph
