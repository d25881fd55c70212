"""FLOPs of one ATen operator: 2 per multiply-accumulate, as ``torch.utils.flop_counter`` counts.

Convolutions, matrix products and attention have FLOPs. Additions, norms and the like count 0, as
their time is that of their bytes. An operator that may multiply matrices but has no formula here is
reported as unknown rather than counted as 0.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from aiq.errors import GraphError
from aiq.graph.operators import (
    CONVOLUTIONS,
    Op,
    argument,
    classify,
    elements,
    is_transposed,
    is_view,
    shapes,
)
from aiq.graph.simplify import attribute, name_of

_DENSE = ("fft", "_fft", "linalg", "_linalg", "cdist", "_cdist", "_trilinear", "cholesky", "lu")
"""First parts of the names of other ATen operators whose time is not only that of their bytes."""


def flops(node: fx.Node) -> int:
    """Return the floating-point operations of `node`, 2 per multiply-accumulate.

    It is 0 for an operator whose work is not known, see `is_known`.

    Raises
    ------
    GraphError
        If the node repeats an inner graph, as a loop does.
    """
    name = name_of(node)
    if name in CONVOLUTIONS:
        return _convolution_flops(node)
    if name in _FLOPS:
        return _FLOPS[name](node)
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        raise GraphError(
            f"How often {name} runs the graph inside it is not known, so its cost has no "
            "prediction; unroll the loop, or pass the submodule it repeats."
        )
    return 0 if _moves_bytes(node) else _counted(node) or 0


def is_known(node: fx.Node) -> bool:
    """Whether `flops` is all the work of `node`."""
    name = name_of(node)
    return name in CONVOLUTIONS or name in _FLOPS or _moves_bytes(node) or bool(_counted(node))


def _moves_bytes(node: fx.Node) -> bool:
    """Whether an operator only moves bytes, so that its time is that of its bytes."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    if is_view(node) or torch.Tag.pointwise in node.target.tags or classify(node) is not Op.OTHER:
        return True
    known = node.target.namespace in {"aten", "quantized_decomposed"}
    return known and not name_of(node).startswith(_DENSE)


def _counted(node: fx.Node) -> int | None:
    """Return the FLOPs by PyTorch's counter, or ``None`` if it has no formula for the operator."""

    def example(value: fx.Node) -> Any:  # noqa: ANN401
        found = value.meta.get("val")
        if not isinstance(found, torch.Tensor):
            return found
        return torch.empty(shapes(value)[0], dtype=found.dtype, device="meta")

    assert isinstance(node.target, torch._ops.OpOverload), "other targets only move bytes"
    args, kwargs = fx.map_arg((node.args, node.kwargs), example)
    try:
        with FlopCounterMode(display=False) as counter:
            node.target(*args, **kwargs)
    except Exception:  # noqa: BLE001  (a third-party operator may raise anything)
        return None
    known = node.target.overloadpacket in flop_registry
    return counter.get_total_flops() if known else counter.get_total_flops() or None


def _convolution_flops(node: fx.Node) -> int:
    # Each weight is multiplied once for each position of the output, or of the input if the
    # convolution is transposed. The weight has two dimensions of channels; the others are spatial.
    (weight,) = shapes(argument(node, "weight"))
    (shape,) = shapes(argument(node, "input")) if is_transposed(node) else shapes(node)
    spatial = shape[-(len(weight) - 2) :]
    batch = math.prod(shape[: -(len(weight) - 1)])
    return 2 * batch * math.prod(spatial) * math.prod(weight)


def _linear_flops(node: fx.Node) -> int:
    ((out_features, in_features),) = shapes(argument(node, "weight"))
    return 2 * elements(argument(node, "input")) // in_features * in_features * out_features


def _product_flops(left: str) -> Callable[[fx.Node], int]:
    """Return a counter for a product whose left operand's last dimension is summed over."""

    def count(node: fx.Node) -> int:
        (shape,) = shapes(argument(node, left))
        return 2 * elements(node) * shape[-1]

    return count


def _addbmm_flops(node: fx.Node) -> int:
    batch, _, inner = shapes(argument(node, "batch1"))[0]
    return 2 * elements(node) * batch * inner


def _attention_flops(node: fx.Node) -> int:
    query, key, value = (shapes(argument(node, k))[0] for k in ("query", "key", "value"))
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent_flops(node: fx.Node) -> int:
    # Each weight matrix (biases are vectors) is applied once per time step and sample.
    (shape,) = shapes(argument(node, "input"))
    matrices = [shapes(p)[0] for p in argument(node, "params") if len(shapes(p)[0]) == 2]
    return 2 * math.prod(shape[:-1]) * sum(math.prod(matrix) for matrix in matrices)


def _bilinear_flops(node: fx.Node) -> int:
    # For each row, the weight (outputs, left, right) is multiplied by the left operand, and the
    # result by the right one.
    outputs, left, right = shapes(argument(node, "weight"))[0]
    rows = elements(node) // outputs
    return 2 * rows * outputs * (left * right + right)


def _grouped_product_flops(node: fx.Node) -> int:
    # Each row of the left operand is multiplied by the matrix of its group only.
    left, right = (shapes(n)[0] for n in node.all_input_nodes[:2])
    if len(left) == len(right) == 2:  # the groups divide the dimension that is summed over
        return 2 * left[0] * left[1] * right[1]
    return 2 * elements(node) * left[-1]


def _branch_flops(node: fx.Node) -> int:
    # torch.cond runs one of two graphs; the more expensive one is counted.
    owner = node.graph.owning_module
    branches = [n.target for n in node.args[1:3] if isinstance(n, fx.Node)]
    return max(sum(flops(n) for n in attribute(owner, str(name)).graph.nodes) for name in branches)


_FLOPS: dict[str, Callable[[fx.Node], int]] = {
    "linear": _linear_flops,
    "mm": _product_flops("self"),
    "bmm": _product_flops("self"),
    "matmul": _product_flops("self"),
    "mv": _product_flops("self"),
    "dot": _product_flops("self"),
    "addmm": _product_flops("mat1"),
    "baddbmm": _product_flops("batch1"),
    "addbmm": _addbmm_flops,
    "bilinear": _bilinear_flops,
    "deform_conv2d": _convolution_flops,
    **dict.fromkeys(("_grouped_mm", "grouped_mm_fallback"), _grouped_product_flops),
    "scaled_dot_product_attention": _attention_flops,
    "lstm": _recurrent_flops,
    "gru": _recurrent_flops,
    "rnn_tanh": _recurrent_flops,
    "rnn_relu": _recurrent_flops,
    "cond": _branch_flops,
}
