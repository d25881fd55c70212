"""Compare a program with the graph from which it was compiled, before it is handed out.

Compilers have faults that raise no error. One batch is therefore run through the program and,
operator by operator in PyTorch, through the rewritten graph. If the program is right, the two
differ only by rounding. The size of such differences depends on the network: in a deep network, a
sum in another order changes one value to the next integer, which changes others. The limit is
therefore measured on the network itself, with the same batch.

Let r be the output of the rewritten graph, m the mean of its values, f the output of the network in
float32, and n that of the rewritten graph with a random rounding error added to every value. The
norm of the difference between the program's output and r may be at most

``rounding ||r|| + max(min(2 ||r - f||, ||r - m|| / 2), min(2 ||r - n||, 3 ||r - m|| / 4))``.

* ``rounding`` is the error that runtimes document for single operators, enlarged for the number of
  layers. It is 2^-10 for float32, as each compiler sums in another order, and 2^-6 if layers
  compute in bfloat16, which has eight bits, or multiply by integer weights in kernels that round
  activations. Most programs are below it, and then nothing else is computed.
* ``2 ||r - f||``: if all roundings of a right program differ, its output is about as far from f as
  r is, and so at most twice as far from r. The bound is at most ||r - m|| / 2, since a format whose
  output is unlike float32 would otherwise excuse any program.
* ``2 ||r - n||``: if a network turns rounding errors into changes of that size, it does so in every
  right program. Networks with random weights and tens of layers do. The bound is at most
  3 ||r - m|| / 4: an output that is further from r than the mean is no answer. A network that turns
  rounding errors into larger changes cannot be checked, and is refused.

Where n is larger than r, as in the difference of two equal numbers, its deviation from its mean
stands for ||r - m||. An output of fewer than sixteen values has m = 0, as their mean says little.
The limit applies to each output. Values that are not finite must be so in both. Integers, such as
indices of classes, may change where values are close. They fail if the fraction that changes
exceeds a half by more than the limit.
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
"""Error of a float32 network whose sums have another order, relative to the output's norm."""

BFLOAT16_ROUNDING = 2.0**-6
"""The same if layers compute in bfloat16, or in kernels that round activations themselves."""

_NOISE = {torch.float32: 2.0**-17, torch.bfloat16: 2.0**-9, torch.float16: 2.0**-11}
"""Relative rounding error of one operator; in float32, that of a sum of some thousand products."""

_FEW = 16
"""Number of values from which their mean says what an output without information looks like."""

_SMALLEST = torch.finfo(torch.float32).tiny
"""Value below which processors may round to zero."""

_UNROUNDED = {
    operator.getitem,
    torch.ops.quantized_decomposed.quantize_per_tensor.default,
    torch.ops.quantized_decomposed.dequantize_per_tensor.default,
    torch.ops.quantized_decomposed.dequantize_per_channel.default,
}


class Distance(NamedTuple):
    """Distance of an output from the reference, and its limit, both relative to the norm."""

    found: float
    allowed: float


@dataclass(frozen=True, slots=True)
class ExpectedOutputs:
    """The outputs that a program has to compute.

    Attributes
    ----------
    runtime
        Name of the runtime, for messages.
    formats
        Layer name -> format.
    packed
        Names of the weight-only formats for which the runtime has kernels.
    inputs
        The tensors of one call.
    rewritten
        Rewritten graph. As compilers edit their graph, this is a copy, which shares its constants.
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
        """Run `program` once and compare its outputs.

        Parameters
        ----------
        program
            Function from the tensors of a call to the tensors of the result.
        what
            Name of the program in a message.

        Raises
        ------
        VerificationError
            If the outputs differ by more than rounding can cause.
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
        """Return the distance of the output that exceeds its limit the most."""
        rounding = self._rounding()
        near = [Distance(_distance(x, y), rounding) for x, y in zip(found, expected, strict=True)]
        if all(one.found <= one.allowed for one in near):
            return max(near, default=Distance(0.0, rounding))
        exact = self._run(self.exact)
        moved = _Noisy(self.rewritten).results(self.inputs)
        limits = [
            rounding + _explained(_distance(f, y), _distance(n, y), _deviation(y, n))
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
    """Return a copy of a graph that shares its constants."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    return fx.GraphModule(module, graph)


class _Operators(fx.Interpreter):
    """Runs a graph operator by operator, in float32, without a compiler."""

    def results(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the tensors of the result for the tensors of a call."""
        values = self.run(*inputs, enable_io_processing=False)
        return [value for value in pytree.tree_leaves(values) if isinstance(value, Tensor)]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        """Run one operator; a view becomes a copy if the memory order does not allow it."""
        if target is torch.ops.aten.view.default:
            target = torch.ops.aten.reshape.default
        return super().call_function(target, args, kwargs)


class _Noisy(_Operators):
    """Adds a random rounding error to every value that it computes."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._generator = torch.Generator().manual_seed(0)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        """Run one operator and add a random rounding error to its value."""
        value = super().call_function(target, args, kwargs)
        size = _NOISE.get(value.dtype) if isinstance(value, Tensor) else None
        if size is None or target in _UNROUNDED:
            return value
        noise = torch.randn(value.shape, generator=self._generator)
        return value * (1 + size * noise).to(value.dtype)


def _distance(value: Tensor, reference: Tensor) -> float:
    """Return the norm of the difference over that of `reference`.

    It is infinite if only one of the two is finite somewhere. For integers it is the fraction of
    values that differ, minus a half, and at least 0.
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
    return _norm((x - y)[finite]) / _size(reference)


def _explained(of_format: float, of_noise: float, deviation: float) -> float:
    """Return the part of the limit that depends on the network; see the module."""
    if math.isinf(of_noise):  # rounding makes a value infinite, or finite
        return of_noise
    return max(min(2 * of_format, deviation / 2), min(2 * of_noise, 3 * deviation / 4))


def _deviation(reference: Tensor, noisy: Tensor) -> float:
    """Return the norm of an output less its mean, over the norm of `reference`.

    The output is `reference` or `noisy`, whichever is larger.
    """
    if not (reference.is_floating_point() or reference.is_complex()):
        return 1.0
    return max(_norm(_centred(x)) for x in (reference, noisy)) / _size(reference)


def _centred(value: Tensor) -> Tensor:
    """Return the finite parts of a tensor less their mean, or as they are if they are few."""
    values = _parts(value)
    values = values[values.isfinite()]
    return values - values.mean() if values.numel() >= _FEW else values


def _size(reference: Tensor) -> float:
    """Return the norm of the finite values of a tensor, or that of the smallest that count."""
    values = _parts(reference)
    least = _SMALLEST * math.sqrt(max(1, values.numel()))
    return max(_norm(values[values.isfinite()]), least)


def _norm(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(_parts(value)))


def _parts(value: Tensor) -> Tensor:
    return (torch.view_as_real(value.resolve_conj()) if value.is_complex() else value).double()


def _shapes(values: Iterable[Tensor]) -> str:
    return ", ".join("x".join(map(str, value.shape)) or "()" for value in values) or "nothing"
