"""The kernels that a program of Inductor calls for its layers, and the time of each call."""

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from aiq.runtimes.kernels import LABEL, RealisedKernel

_MULTIPLIES = re.compile(r"conv|linear|(^|[._:])(add|b)?mm|matmul")


class OperandSizes(NamedTuple):
    """Numbers of elements of the activation and of the weights that a kernel multiplies."""

    activation: int
    weight: int


class Census(CustomGraphPass):
    """Collects the kernels of the final graph, after all fusions and before code generation.

    Attributes
    ----------
    kernels
        Kernels in the order of the graph; ``node`` is the name of the graph's node.
    operands
        Name of the node -> operands of its kernel.
    """

    def __init__(self) -> None:
        self.kernels: list[RealisedKernel] = []
        self.operands: dict[str, OperandSizes] = {}

    def __call__(self, graph: fx.Graph) -> None:
        """Collect the kernels of a graph; Inductor calls this."""
        for node in graph.nodes:
            name = _kernel_name(node)
            constants = [_constant(n) for n in node.all_input_nodes if n.op == "get_attr"]
            weights = [c for c in constants if c.dim() >= 2]
            values = [n.meta.get("val") for n in node.all_input_nodes if n.op != "get_attr"]
            inputs = [value for value in values if isinstance(value, torch.Tensor)]
            if not _MULTIPLIES.search(name):
                continue
            stored = _stored(node)
            if stored is not None:
                fmt, sizes = stored
            elif weights and inputs:
                fmt = _format(inputs[0].dtype, weights)
                sizes = OperandSizes(inputs[0].numel(), weights[0].numel())
            else:
                continue
            labels = node.meta.get("custom", {}).get(LABEL, ())
            self.kernels.append(RealisedKernel(name, fmt, labels, node.name))
            self.operands[node.name] = sizes

    def __deepcopy__(self, memo: object) -> "Census":
        return self  # otherwise Inductor, which copies its options, would fill the copy

    def uuid(self) -> None:
        """Return ``None``, so that Inductor takes no program from its cache without this pass."""


def _kernel_name(node: fx.Node) -> str:
    if node.op != "call_function":
        return ""
    if isinstance(node.target, partial):  # the lowering of a fused pattern
        (match,) = node.target.args
        return "+".join(str(n.target) for n in match.nodes)
    return str(node.target)


def _constant(node: fx.Node) -> torch.Tensor:
    value: torch.Tensor = attrgetter(str(node.target))(node.graph.owning_module)
    return value


def _format(activation: torch.dtype, weights: list[torch.Tensor]) -> str:
    if activation in {torch.uint8, torch.int8}:
        return "w8a8"
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}.get(activation, str(activation))


def _stored(node: fx.Node) -> tuple[str, OperandSizes] | None:
    """Return the format and the operands of a product with integer weights, if `node` is one.

    The weights are dequantised before the product: ``mm(x, permute(dequantize(codes)))``, with a
    reshape if groups of weights have scales.
    """
    values = [n for n in node.all_input_nodes if n.op != "get_attr"]
    if len(values) < 2:
        return None
    source, weight = values[-2:]
    unpacked = weight
    while unpacked.target in _MOVES:
        unpacked = unpacked.all_input_nodes[0]
    if unpacked.target is not _DEQUANTIZE:
        return None
    codes = _constant(unpacked.all_input_nodes[0])
    bits = (int(str(unpacked.args[5])) + 1).bit_length()
    channel, group = weight.meta["val"].shape[-2], codes.shape[1]
    fmt = f"w{bits}" + (f"g{group}" if group < channel else "")
    return fmt, OperandSizes(source.meta["val"].numel(), codes.numel())


_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_channel.default
_MOVES = {torch.ops.aten.permute.default, torch.ops.aten.reshape.default}


def time_calls(
    program: Callable[..., object], inputs: Sequence[torch.Tensor], census: Census, runs: int
) -> dict[str, list[float]]:
    """Return the seconds of the calls of each kernel of `census` in `runs` runs of `program`.

    A scheduler may change the order of the graph, so calls are matched to kernels by the sizes of
    their operands; the order of calls of equal sizes matters little. A kernel without a call has no
    entry.
    """
    # Without this, the first profile prints a warning that there are no GPUs.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with torch.no_grad():
        program(*inputs)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            for _ in range(runs):
                program(*inputs)
    calls = sorted(_calls(profiler.events() or ()), key=lambda call: call.time_range.start)
    found: dict[str, list[float]] = {}
    each = len(calls) // runs
    for run in range(runs):
        left = calls[run * each : (run + 1) * each]
        for node, operands in census.operands.items():
            call = next((call for call in left if _multiplies(call, operands)), None)
            if call is not None:
                left.remove(call)
                found.setdefault(node, []).append(call.cpu_time_total / 1e6)
    return found


def _calls(events: Sequence[FunctionEvent]) -> Iterator[FunctionEvent]:
    """Yield the multiplications that are not part of another one."""
    for event in events:
        around = event.cpu_parent
        while around is not None and not _MULTIPLIES.search(around.name):
            around = around.cpu_parent
        if around is None and _MULTIPLIES.search(event.name):
            yield event


def _multiplies(call: FunctionEvent, operands: OperandSizes) -> bool:
    shapes: Any = call.input_shapes or []
    # A list of tensors has a list of shapes, and a number has an empty one.
    sizes = [math.prod(shape) for shape in shapes if shape and isinstance(shape[0], int)]
    return operands.activation in sizes and operands.weight in sizes
