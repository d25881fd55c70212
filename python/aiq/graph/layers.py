"""The layer graph of an ``nn.Module``: layers in order, with their FLOPs and tensor sizes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from aiq.errors import GraphError
from aiq.formats import WeightRounding
from aiq.graph.batch import BatchDim
from aiq.graph.export import Inputs, export_model
from aiq.graph.flops import flops, is_known
from aiq.graph.fusion import Group, Grouping
from aiq.graph.layer_names import layer_name
from aiq.graph.operators import WEIGHTED, Op, argument, elements, is_constant, is_transposed, shapes
from aiq.graph.simplify import TRAINED, name_of
from aiq.learned import LearnedScales


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator with the operators fused into it; all numbers are for the whole batch.

    Attributes
    ----------
    name
        Path of the module (``layer1.0.conv1``; its second call is ``layer1.0.conv1#2``), or the
        name of the graph node if no module computes it.
    op
        Operator class.
    flops
        Floating-point operations, 2 per multiply-accumulate; 0 for data movement.
    weight_elements
        Number of elements of the weight and bias.
    input_elements, output_elements
        Numbers of elements of the activations that the operator reads, and of the layer's output.
    fused_elements
        Number of elements of further activations that fused operators read, such as a residual.
    weight_shape, input_shapes, output_shape
        Shapes of the weight (``None`` without one), of the activations that the operator reads, and
        of the output.
    weight
        Qualified name of the weight parameter (the same for tied weights), or ``None``.
    nodes
        Names of the graph nodes of the layer, in order. The first is the operator, which has the
        weights, or the first node of an operator that the graph has as several nodes; the value of
        the last is the layer's output.
    fused
        Names of the fused operators, such as ``batch_norm``, ``relu`` and ``add``.
    is_output
        Whether the layer's output is a result of the network, which stays float32.
    repeated_elements
        Number of elements of the weight and bias that an earlier layer reads too. In a second call
        of a module, these are all elements.
    is_counted
        Whether `flops` covers all work; false if an operator is not known.
    transposed
        Whether the layer is a transposed convolution.
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
    repeated_elements: int = 0
    is_counted: bool = True
    transposed: bool = False

    @property
    def output_channels(self) -> int:
        """Number of output channels, or of features of a linear layer; 0 without a weight."""
        if self.weight_shape is None:
            return 0
        if self.transposed:  # stored as (inputs, outputs of a group, taps...)
            return self.output_shape[1 - len(self.weight_shape)]
        return self.weight_shape[0]

    @property
    def quantizable(self) -> bool:
        """Whether the layer's format is a decision, as of convolutions and linear layers."""
        return self.weight is not None and self.op in WEIGHTED


@dataclass(frozen=True, slots=True)
class Edge:
    """A tensor that layer `source` writes and layer `target` reads.

    A tensor with several readers has an edge to each of them.

    Attributes
    ----------
    source, target
        Positions of the layers in the layer graph.
    elements
        Number of elements of the tensor.
    fused
        Whether an operator that is fused into the target reads the tensor, such as a residual
        addition; otherwise the target's main operator does.
    """

    source: int
    target: int
    elements: int
    fused: bool = False


@dataclass(frozen=True, slots=True)
class Undecided:
    """A parameter that is not quantised, because a layer without a choice of formats reads it.

    Attributes
    ----------
    layer, op
        Name and operator class of the first such layer.
    name
        Qualified name of the parameter.
    bytes
        Size of the parameter in bytes.
    dtype
        Dtype of its elements, such as ``float32``.
    """

    layer: str
    op: Op
    name: str
    bytes: int
    dtype: str


@dataclass(frozen=True, slots=True)
class LayerGraph:
    """Layers in execution order, and the tensors between them.

    Attributes
    ----------
    model
        Name of the model's class.
    batch
        Number of samples in the example inputs, to which all numbers of layers refer.
    layers
        The layers in execution order.
    edges
        The tensors between layers.
    undecided
        Parameters that no decision changes, each once. Batch norms that fuse into a layer become
        part of its bias and are not among them.
    """

    model: str
    batch: int
    layers: tuple[Layer, ...]
    edges: tuple[Edge, ...]
    undecided: tuple[Undecided, ...] = ()

    @property
    def quantizable(self) -> tuple[Layer, ...]:
        """The layers whose format is a decision, in order."""
        return tuple(layer for layer in self.layers if layer.quantizable)

    @property
    def uncounted(self) -> tuple[Layer, ...]:
        """The layers whose work is not known, and not part of `flops`."""
        return tuple(layer for layer in self.layers if not layer.is_counted)

    @property
    def flops(self) -> int:
        """Floating-point operations of one run on the whole batch."""
        return sum(layer.flops for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Trace:
    """An exported model: a functional ATen graph that can be run, and its layer graph.

    Attributes
    ----------
    module
        Graph module in inference mode, called like the model, without in-place operators. Its
        ``get_attr`` nodes are the parameters, which it shares with the model; they may be replaced,
        but must not be changed in place. ``torch.fx.Interpreter(module).run(*inputs)`` runs it node
        by node.
    graph
        The layer graph; ``Layer.nodes`` are names of nodes of ``module.graph``.
    dynamic_batch
        Whether `module` accepts any batch size, or only that of the example inputs.
    batch_dim
        Dimension of the inputs that counts samples.
    writes_inputs
        Whether the model changes its inputs in place; `module` does not.
    random
        Whether the model's outputs are random in evaluation mode.
    rounding, learned
        How weights are rounded to integers, and scales that were learned in training, or ``None``.
    """

    module: fx.GraphModule
    graph: LayerGraph
    dynamic_batch: bool
    batch_dim: BatchDim = 0
    writes_inputs: bool = False
    random: bool = False
    rounding: WeightRounding = WeightRounding.NEAREST
    learned: LearnedScales | None = None


def trace(model: nn.Module, example_inputs: Inputs, batch_dim: BatchDim = 0) -> Trace:
    """Export `model` and derive its layer graph.

    Parameters
    ----------
    model
        Any module that ``torch.export`` can capture. It is traced in evaluation mode and not
        changed. On the ``meta`` device it may be larger than memory, as it is not computed.
    example_inputs
        A tensor, a sequence of positional or a mapping of keyword arguments. The numbers of the
        layer graph are for their batch.
    batch_dim
        Dimension that counts samples: 1 for sequence-first models such as ``nn.LSTM`` by default.
        `aiq.graph.batch.BatchDim` describes inputs whose dimensions differ, or that have no batch.

    Raises
    ------
    GraphError
        If the model cannot be exported, its inputs do not fit, its weights are not finite, or
        it has no convolution or linear layer.

    Notes
    -----
    Nodes that do not depend on the inputs, such as attention masks and weight normalisation, are
    computed once here and are not layers. Views (reshape, slice, split, transpose) and dropout are
    not layers either; edges lead through them. A copy into another order (``permute`` and
    ``contiguous``) is a layout layer.
    """
    model = getattr(model, "_orig_mod", model)  # the module that torch.compile wraps
    exported = export_model(model, example_inputs, batch_dim)
    modules = dict(model.named_modules())
    layers, edges = _read(exported.module, modules)
    undecided = tuple(_undecided(exported.module, layers))
    graph = LayerGraph(type(modules[""]).__name__, exported.batch, layers, edges, undecided)
    if not graph.quantizable:
        raise GraphError(
            f"{graph.model} has no convolution or linear layer with a weight of its own, so there "
            "is nothing to quantise; pass the module that holds them."
        )
    _check_dtypes(exported.module, graph)
    return Trace(
        exported.module,
        graph,
        exported.dynamic_batch,
        batch_dim,
        exported.writes_inputs,
        exported.random,
    )


def extract(model: nn.Module, example_inputs: Inputs, batch_dim: BatchDim = 0) -> LayerGraph:
    """Return the layer graph of `model`; see `trace`."""
    return trace(model, example_inputs, batch_dim).graph


def _check_dtypes(module: fx.GraphModule, graph: LayerGraph) -> None:
    """Raise `GraphError` if a layer whose format is a decision does not compute in float32."""
    nodes = {node.name: node for node in module.graph.nodes}
    for layer in graph.quantizable:
        for node in (nodes[layer.nodes[0]], *nodes[layer.nodes[0]].all_input_nodes):
            value = node.meta.get("val")
            if isinstance(value, Tensor) and value.dtype != torch.float32:
                dtype = str(value.dtype).removeprefix("torch.")
                raise GraphError(
                    f"Layer {layer.name!r} computes in {dtype}, and formats are chosen for a "
                    "float32 network; pass model.float() and float32 inputs, without autocast."
                )


def _read(
    module: fx.GraphModule, modules: Mapping[str, nn.Module]
) -> tuple[tuple[Layer, ...], tuple[Edge, ...]]:
    grouping = Grouping(module.graph)
    (output,) = module.graph.find_nodes(op="output")
    written = {grouping.writer(value) for value in output.all_input_nodes}
    names: Counter[str] = Counter()
    index: dict[Group, int] = {}
    decided: set[str] = set()
    layers = []
    edges = []
    for target, group in enumerate(grouping.groups):
        name = layer_name(group, modules)
        names[name] += 1
        if names[name] > 1:
            name = f"{name}#{names[name]}"
        layer = _layer(name, group, grouping, is_output=group in written)
        if layer.quantizable:
            weights = {str(n.target): elements(n) for n in _weights(group.nodes[0])}
            again = sum(count for target, count in weights.items() if target in decided)
            layer = replace(layer, repeated_elements=again)
            decided |= weights.keys()
        layers.append(layer)
        read: Counter[tuple[int, bool]] = Counter()
        fused = [x for node in group.nodes[len(group.operator) :] for x in grouping.reads(node)]
        for operands, is_fused in ((grouping.inputs(group), False), (fused, True)):
            for operand in operands:
                source = grouping.writer(operand)
                if source is not None and source is not group:
                    read[index[source], is_fused] += elements(operand)
        edges += [
            Edge(source, target, min(count, layers[source].output_elements), is_fused)
            for (source, is_fused), count in sorted(read.items())
        ]
        index[group] = target
    return tuple(layers), tuple(edges)


def _layer(name: str, group: Group, grouping: Grouping, *, is_output: bool) -> Layer:
    head, fused = group.nodes[0], group.nodes[len(group.operator) :]
    weight = argument(head, "weight")
    named = is_constant(weight)
    inside = set(group.nodes)
    inputs = grouping.inputs(group)
    further = [n for node in fused for n in grouping.reads(node) if n not in inside]
    return Layer(
        name=name,
        op=group.op,
        flops=sum(map(flops, group.nodes)),
        weight_elements=sum(elements(x) for node in group.operator for x in _weights(node)),
        input_elements=sum(map(elements, inputs)),
        output_elements=elements(group.nodes[-1]),
        fused_elements=sum(map(elements, further)),
        weight_shape=shapes(weight)[0] if named else None,
        input_shapes=tuple(shape for n in inputs for shape in shapes(n)),
        output_shape=shapes(group.nodes[-1])[0],
        weight=str(weight.target) if named else None,
        nodes=tuple(node.name for node in group.nodes),
        fused=tuple(map(name_of, fused)),
        is_output=is_output,
        is_counted=all(map(is_known, group.nodes)),
        transposed=is_transposed(head),
    )


def _weights(head: fx.Node) -> list[fx.Node]:
    """Return the constants that an operator reads, without the statistics of a batch norm."""
    statistics = (argument(head, "running_mean"), argument(head, "running_var"))
    return [n for n in head.all_input_nodes if is_constant(n) and n not in statistics]


def _undecided(module: fx.GraphModule, layers: Iterable[Layer]) -> Iterator[Undecided]:
    """Yield the parameters that layers read without a choice of formats, each once."""
    nodes = {node.name: node for node in module.graph.nodes}
    seen: set[str] = set()
    for layer in layers:
        for name in layer.nodes[1:] if layer.quantizable else layer.nodes:
            if layer.quantizable and name_of(nodes[name]) == "batch_norm":
                continue
            for source in nodes[name].all_input_nodes:
                value = source.meta.get("val")
                if source.target in seen or not source.meta.get(TRAINED):
                    continue
                if source.op == "get_attr" and isinstance(value, Tensor):
                    seen.add(str(source.target))
                    yield Undecided(
                        layer=layer.name,
                        op=layer.op,
                        name=str(source.target),
                        bytes=value.numel() * value.element_size(),
                        dtype=str(value.dtype).removeprefix("torch."),
                    )
