"""A program is compared with the graph that it was compiled from before anyone gets it.

Compilers have faults that raise nothing. One batch is run through the program and, operator by
operator in PyTorch, through the rewritten graph, whose formats are written into it. The two differ
by rounding alone, unless the program is wrong. How much rounding explains is not one number: in a
deep network a sum in another order moves one value to the next integer, and that moves others. So
the limit is measured on the network itself, on the same batch.

With r what the rewritten graph returns, f what the network returns in float32, and n what the
rewritten graph returns when every value it computes is moved by a rounding error, the norm of the
difference of program and r may be at most

``rounding ||r|| + max(min(2 ||r - f||, ||r|| / 2), 2 ||r - n||)``.

* ``rounding`` is what the runtime documents of single operators, with room for the layers one after
  another: 2^-10 for float32, whose sums have another order in each compiler, and 2^-6 where layers
  compute in bfloat16 (it keeps eight bits) or meet integer weights in kernels that round what they
  read. Most programs stay below it, and nothing else is computed for them.
* ``2 ||r - f||``: a right program whose roundings all fall differently is as far from float32 as r
  is, and so at most twice as far from r. The bound is cut at half of ||r||: a format so coarse that
  its output is no longer like float32's would excuse any program.
* ``2 ||r - n||``: a network that turns rounding errors into changes of that size does so in every
  right program. Networks with random weights, tens of layers deep, do.

The limit holds for each output. Values that are not finite have to be so in both. Integers, such as
indices of classes, may change wherever values are close: more than half of them may not, beyond
those that rounding changes.
"""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from aiq.errors import VerificationError
from aiq.formats import BF16, Format

FLOAT32_ROUNDING = 2.0**-10
"""Relative to the norm of an output: sums of float32 in another order, layer after layer."""

BFLOAT16_ROUNDING = 2.0**-6
"""The same where layers compute in bfloat16, or in kernels that round activations themselves."""

_NOISE = {torch.float32: 2.0**-17, torch.bfloat16: 2.0**-9, torch.float16: 2.0**-11}
"""Relative rounding error of one operator: of a sum of some thousand products, in float32."""

_SMALLEST = torch.finfo(torch.float32).tiny
"""Processors may round values smaller than this one to zero."""

_UNROUNDED = {
    operator.getitem,
    torch.ops.quantized_decomposed.quantize_per_tensor.default,
    torch.ops.quantized_decomposed.dequantize_per_tensor.default,
    torch.ops.quantized_decomposed.dequantize_per_channel.default,
}


class Distance(NamedTuple):
    """How far an output is from the reference, and how far it may be, both relative to its norm."""

    found: float
    allowed: float


@dataclass(frozen=True, slots=True)
class Reference:
    """What a program has to compute.

    Attributes
    ----------
    runtime
        Name of the runtime, for messages.
    formats
        Format of every layer.
    packed
        Names of the weight-only formats for which the runtime has kernels of its own.
    inputs
        The tensors of one call.
    rewritten
        Graph with the formats written into it. Compilers edit the one that they are given, so this
        is a copy, which shares its constants.
    exact
        The network in float32.
    """

    runtime: str
    formats: Mapping[str, Format]
    packed: frozenset[str]
    inputs: tuple[Tensor, ...]
    rewritten: fx.GraphModule
    exact: fx.GraphModule

    def check(self, program: Callable[..., Iterable[Tensor]], what: str = "The program") -> None:
        """Run `program` once and compare what it returns.

        Parameters
        ----------
        program
            Takes the tensors of a call and returns the tensors of the result.
        what
            Says in a message what was run.

        Raises
        ------
        VerificationError
            If it returns something else than rounding explains.
        """
        with torch.no_grad():
            found = list(program(*self.inputs))
            expected = self._run(self.rewritten)
            if _shapes(found) != _shapes(expected):
                raise VerificationError(
                    f"{what} that {self.runtime} made ({self._formats()}) returns tensors of "
                    f"{_shapes(found)}, and the graph that it was made from {_shapes(expected)}; "
                    "choose other formats or another runtime."
                )
            worst = self._worst(found, expected)
        if worst.found > worst.allowed:
            raise VerificationError(
                f"{what} that {self.runtime} made ({self._formats()}) is wrong: its output is "
                f"{worst.found:.2g} of its size away from the graph that it was made from, and "
                f"rounding explains {worst.allowed:.2g}; choose other formats or another runtime."
            )

    def _worst(self, found: Sequence[Tensor], expected: Sequence[Tensor]) -> Distance:
        """Return the distance of the output that exceeds its limit most."""
        rounding = self._rounding()
        near = [Distance(_distance(x, y), rounding) for x, y in zip(found, expected, strict=True)]
        if all(one.found <= one.allowed for one in near):
            return max(near, default=Distance(0.0, rounding))
        exact = self._run(self.exact)
        moved = _Noisy(self.rewritten).results(self.inputs)
        limits = [
            rounding + max(min(2 * _distance(f, y), 0.5), 2 * _distance(n, y))
            for f, n, y in zip(exact, moved, expected, strict=True)
        ]
        judged = [Distance(one.found, limit) for one, limit in zip(near, limits, strict=True)]
        return max(judged, key=lambda one: one.found > one.allowed and one.found / one.allowed)

    def _run(self, module: fx.GraphModule) -> list[Tensor]:
        return _Operators(module).results(self.inputs)

    def _rounding(self) -> float:
        coarse = any(
            BF16 in (fmt.between, fmt.compute)
            or (not fmt.quantizes_activations and fmt.name in self.packed)
            for fmt in self.formats.values()
        )
        return BFLOAT16_ROUNDING if coarse else FLOAT32_ROUNDING

    def _formats(self) -> str:
        names = [fmt.name for fmt in self.formats.values()]
        counts = {name: names.count(name) for name in dict.fromkeys(names)}
        return ", ".join(f"{count} layers in {name}" for name, count in counts.items()) or "float32"


def snapshot(module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of a graph that shares its constants with it."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    return fx.GraphModule(module, graph)


class _Operators(fx.Interpreter):
    """Runs a graph one operator at a time, in float32 without any compiler."""

    def results(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the tensors that the graph returns for those of a call."""
        values = self.run(*inputs, enable_io_processing=False)
        return [value for value in pytree.tree_leaves(values) if isinstance(value, Tensor)]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        """Run one operator; a view of memory in another order becomes a copy."""
        if target is torch.ops.aten.view.default:
            target = torch.ops.aten.reshape.default
        return super().call_function(target, args, kwargs)


class _Noisy(_Operators):
    """Moves every value that it computes by a rounding error."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._generator = torch.Generator().manual_seed(0)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        """Run one operator and move its value."""
        value = super().call_function(target, args, kwargs)
        size = _NOISE.get(value.dtype) if isinstance(value, Tensor) else None
        if size is None or target in _UNROUNDED:
            return value
        noise = torch.randn(value.shape, generator=self._generator)
        return value * (1 + size * noise).to(value.dtype)


def _distance(value: Tensor, reference: Tensor) -> float:
    """Return the norm of the difference, relative to that of `reference`.

    Infinite where only one of the two is finite. Of integers, the share above a half that differs.
    """
    if not (reference.is_floating_point() or reference.is_complex()):
        changed = (value != reference).double().mean() if reference.numel() else 0.0
        return max(0.0, float(changed) - 0.5)
    x, y = _parts(value), _parts(reference)
    finite = y.isfinite()
    if not torch.equal(finite, x.isfinite()):
        return float("inf")
    if not torch.equal(x[~finite].nan_to_num(), y[~finite].nan_to_num()):
        return float("inf")
    least = _SMALLEST * math.sqrt(max(1, y.numel()))
    return _norm((x - y)[finite]) / max(_norm(y[finite]), least)


def _norm(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(_parts(value)))


def _parts(value: Tensor) -> Tensor:
    return (torch.view_as_real(value.resolve_conj()) if value.is_complex() else value).double()


def _shapes(values: Iterable[Tensor]) -> str:
    return ", ".join("x".join(map(str, value.shape)) or "()" for value in values) or "nothing"
