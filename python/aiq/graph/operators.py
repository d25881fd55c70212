"""Properties of one ATen operator of an exported graph: its class, its shapes, its arguments."""

import math
import operator
from enum import StrEnum
from typing import Any

import torch
from torch import fx

from aiq.graph.export import SHAPES
from aiq.graph.simplify import name_of

Shape = tuple[int, ...]


class Op(StrEnum):
    """Class of an operator: operators of a class have similar speed."""

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


WEIGHTED = frozenset({Op.CONV, Op.POINTWISE, Op.DEPTHWISE, Op.GROUPED, Op.LINEAR})
"""Classes of operators with weights, whose format is a decision."""

CONVOLUTIONS = frozenset(
    {f"conv{n}d" for n in (1, 2, 3)}
    | {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"}
)
# Each line has a class and its operators. Other pointwise operators of one operand are activations.
_TABLE = """
matmul      mm bmm matmul addmm baddbmm addbmm mv dot scaled_dot_product_attention
add         add sub rsub
mul         mul div
norm        batch_norm layer_norm group_norm instance_norm rms_norm native_layer_norm
norm        native_group_norm _native_batch_norm_legit _fused_rms_norm
softmax     softmax _softmax log_softmax _log_softmax
activation  relu relu6 hardtanh hardswish hardsigmoid clamp sigmoid silu gelu elu selu celu
activation  leaky_relu prelu _prelu_kernel glu mish softplus tanh log_sigmoid
concat      cat stack
embedding   embedding embedding_bag _embedding_bag
pool        mean sum amax amin avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d
pool        max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
pool        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
pool        adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
layout      clone _to_copy copy pad constant_pad_nd reflection_pad1d reflection_pad2d
layout      reflection_pad3d replication_pad1d replication_pad2d replication_pad3d roll flip rot90
layout      repeat repeat_interleave tile gather index index_select index_put take_along_dim
layout      scatter slice_scatter select_scatter masked_fill masked_scatter fill
layout      pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle im2col col2im
layout      upsample_nearest1d upsample_nearest2d upsample_nearest3d
"""

_CLASSES = {
    name: Op(op)
    for op, *names in (line.split() for line in _TABLE.strip().splitlines())
    for name in names
}


def shapes(node: fx.Node) -> tuple[Shape, ...]:
    """Return the shapes of the tensors that `node` produces, at the example's batch size."""
    recorded: tuple[Shape, ...] = node.meta[SHAPES]
    return recorded


def elements(node: fx.Node) -> int:
    """Return the number of elements of all tensors that `node` produces."""
    return sum(math.prod(shape) for shape in shapes(node))


def argument(node: fx.Node, name: str, default: Any = None) -> Any:  # noqa: ANN401  (any ATen type)
    """Return the argument with the name `name` in the operator's schema, or `default`."""
    if name in node.kwargs:
        return node.kwargs[name]
    if isinstance(node.target, torch._ops.OpOverload):
        names = [parameter.name for parameter in node.target._schema.arguments]
        if name in names and names.index(name) < len(node.args):
            return node.args[names.index(name)]
    return default


def is_view(node: fx.Node) -> bool:
    """Whether the node returns its operand's data without a copy (reshape, slice, split, ...)."""
    if node.target is operator.getitem:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    returns = node.target._schema.returns
    aliases = bool(returns) and returns[0].alias_info is not None
    return aliases or name_of(node) == "_unsafe_view"


def bounds(node: fx.Node) -> tuple[float, float] | None:
    """Return the limits of a clamp, including ReLU; ``None`` if `node` is not a clamp."""
    match name_of(node):
        case "relu":
            limits = (0.0, math.inf)
        case "relu6":
            limits = (0.0, 6.0)
        case "hardtanh":
            limits = (argument(node, "min_val", -1.0), argument(node, "max_val", 1.0))
        case "clamp":
            low, high = argument(node, "min"), argument(node, "max")
            limits = (-math.inf if low is None else low, math.inf if high is None else high)
        case _:
            return None
    return None if any(isinstance(limit, fx.Node) for limit in limits) else limits


def is_constant(value: object) -> bool:
    """Whether an argument is a parameter or buffer."""
    return isinstance(value, fx.Node) and value.op == "get_attr"


def classify(node: fx.Node) -> Op:
    """Return the operator class of `node`."""
    name = name_of(node)
    if name in CONVOLUTIONS:
        return _convolution_class(node)
    if name == "linear":
        return Op.LINEAR if is_constant(argument(node, "weight")) else Op.MATMUL
    if name in _CLASSES:
        return _CLASSES[name]
    pointwise = isinstance(node.target, torch._ops.OpOverload) and (
        torch.Tag.pointwise in node.target.tags
    )
    operands = [n for n in node.all_input_nodes if n.op != "get_attr" and shapes(n)]
    return Op.ACTIVATION if pointwise and len(operands) == 1 else Op.OTHER


def _convolution_class(node: fx.Node) -> Op:
    (weight,) = shapes(argument(node, "weight"))
    groups = int(argument(node, "groups", 1))
    channels = shapes(argument(node, "input"))[0][-len(weight) + 1]
    if groups == 1:
        return Op.POINTWISE if math.prod(weight[2:]) == 1 else Op.CONV
    return Op.DEPTHWISE if groups == channels else Op.GROUPED


def is_transposed(node: fx.Node) -> bool:
    """Whether the node is a transposed convolution."""
    return name_of(node).startswith("conv_transpose") or bool(argument(node, "transposed", False))
