"""Integer arithmetic alone: the reference of what a quantised network computes.

With ``r = S (q - Z)`` for weights w, input x and output y, a layer with bias b computes

``q_y = Z_y + M (sum_k (q_w - Z_w) (q_x - Z_x) + b / (S_w S_x))``, ``M = S_w S_x / S_y``,

and the sum expands into products of stored integers and terms that are known beforehand or cheap:
``sum q_w q_x - Z_x sum q_w - Z_w sum q_x + sum Z_w Z_x``. Padding is a real zero, so what falls
outside the image is absent from every term. Sums are held in 32 bits, which is proved for each
layer before it runs. M is no integer; it is written as ``2^-n M_0``, M_0 in [0.5, 1) in 31 bits.

What fuses into a layer works on its sums: ReLU is a maximum, ReLU6 a clamp at ``6 / (S_w S_x)``, a
residual is rescaled and added. Scales are constants: no real number depends on the input.

Sources: Jacob et al. 2018 (arXiv 1712.05877), sections 2.2 to 2.4.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiq.errors import InputError
from aiq.formats import REFERENCE, Format
from aiq.graph import Layer
from aiq.graph.export import Inputs
from aiq.quantize.affine import Affine
from aiq.quantize.operands import Operands
from aiq.quantize.program import Step, Values
from aiq.quantize.rounding import DYNAMIC
from aiq.quantize.simulate import Formats, Simulator

INT32 = torch.iinfo(torch.int32)

GUARD_BITS = 12
"""Bits below the coarser scale with which an addition adds: its rounding is then invisible."""


@dataclass(frozen=True, slots=True, eq=False)
class Multiplier:
    """A positive real number as ``2^-shift * mantissa / 2^31``.

    Attributes
    ----------
    mantissa
        int64, below 2^31: M_0 in [0.5, 1) with 31 bits.
    shift
        int64, n in -30..31.
    """

    mantissa: Tensor
    shift: Tensor

    def rescale(self, values: Tensor) -> Tensor:
        """Return `values`, int32, times this number: int32, saturated.

        One product of 64 bits, one shift, rounded to nearest, ties up. (gemmlowp shifts and rounds
        twice, and can be one off.)
        """
        places = 31 + self.shift
        product = values.long() * self.mantissa + (1 << (places - 1))
        return (product >> places).clamp_(INT32.min, INT32.max).int()


def fixed_point(ratio: Tensor) -> Multiplier:
    """Return the multiplier nearest to `ratio`, float64: 31 significant bits.

    Raises
    ------
    InputError
        If a ratio is not between 0 and 2^30.
    """
    if not ((ratio > 0) & (ratio < 2.0**30)).all():
        raise InputError(
            "Scales differ by a factor of 2^30 or more, so integers cannot be rescaled; check the "
            "weights and the calibration data for values out of all proportion."
        )
    mantissa, exponent = torch.frexp(ratio)
    digits = (mantissa * 2.0**31).round().long()
    carry = digits == 1 << 31
    digits, shift = torch.where(carry, 1 << 30, digits), -exponent.long() - carry.long()
    # Shifted by 63 places or more, every product of 62 bits rounds to zero.
    return Multiplier(torch.where(shift > 31, 0, digits), shift.clamp(max=31))


def power_of_two(ratio: Tensor) -> Multiplier:
    """Return the power of two nearest to `ratio` in its exponent: rescaling is a shift.

    Exact where scales are powers of two (``Simulator(power_of_two=True)``), else off by a factor
    of up to the square root of two.
    """
    return fixed_point(ratio.log2().round().exp2())


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Real numbers as ``scale * values``.

    Attributes
    ----------
    values
        int32.
    scale
        float64, of a shape that broadcasts: one, or one per channel.
    """

    values: Tensor
    scale: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """A stored activation: the integers of `affine`, int32."""

    codes: Tensor
    affine: Affine

    @property
    def sums(self) -> Sums:
        """The same real numbers, without zero point."""
        return Sums(self.codes - self.affine.zero_point, self.affine.scale.double())


@dataclass(frozen=True, slots=True, eq=False)
class IntegerLayer:
    """A convolution or linear layer in integers.

    Attributes
    ----------
    nodes, names
        Graph nodes that it covers, and those that its main operator reads.
    input, output
        Grids on which it reads and writes; `output` is ``None`` where it writes a result of the
        network.
    weight
        Stored weights.
    bias
        int32, of a shape that broadcasts over the sums, in units of `scale`.
    scale
        Of the sums: float64, of the same shape, ``S_w S_x``.
    """

    nodes: tuple[str, ...]
    names: Operands
    input: Affine
    output: Affine | None
    weight: Codes
    bias: Tensor
    scale: Tensor


class IntegerNetwork:
    """A network whose layers compute in integers alone.

    Parameters
    ----------
    simulator
        Its scales, weights and biases are taken over, so that each layer agrees with its own to a
        step of what it writes.
    formats
        Layer name -> format; each must quantise weights and activations.
    multiplier
        How ratios of scales become integers: `fixed_point` or `power_of_two`.

    Raises
    ------
    InputError
        If a layer does not compute in integers, or its sums could leave 32 bits.
    """

    def __init__(
        self,
        simulator: Simulator,
        formats: Formats,
        multiplier: Callable[[Tensor], Multiplier] = fixed_point,
    ) -> None:
        simulator.check(formats)
        if simulator.observer == DYNAMIC:
            raise InputError(
                "Dynamic ranges are not known before the network runs, so its integers cannot be "
                "rescaled by constants; use another observer."
            )
        self._program = simulator.program
        self._multiplier = multiplier
        self.layers = {
            layer.name: _integer_layer(simulator, layer, formats.get(layer.name, REFERENCE))
            for layer in simulator.layers
        }
        self._heads = {layer.nodes[0]: layer for layer in self.layers.values()}
        self._tails = {layer.nodes[-1]: layer for layer in self.layers.values()}

    def run(self, inputs: Inputs) -> object:
        """Return what the model returns on `inputs`: all in integers, and results as float32."""
        values = self._program.start(inputs)
        for step in self._program.steps:
            values[step.name] = self._call(step, values)
            for name in step.dead:
                del values[name]
        return self._program.finish(values)

    def run_layer(self, layer: str, operands: Values) -> Any:  # noqa: ANN401  (Codes, or Tensor)
        """Return what one layer writes: `Codes`, or float32 where it is a result of the network.

        Parameters
        ----------
        layer
            Name.
        operands
            Node name -> what the layer reads: `Codes`, or real numbers for its main operator.
        """
        values = dict(operands)
        for node in self.layers[layer].nodes:
            step = self._program.steps[self._program.position[node]]
            values[node] = self._call(step, values)
        return values[self.layers[layer].nodes[-1]]

    def _call(self, step: Step, values: Values) -> Any:  # noqa: ANN401  (Codes, Sums, or Tensor)
        head, tail = self._heads.get(step.name), self._tails.get(step.name)
        if head is not None:
            value = self._multiply(step, head, values)
        else:
            value = _operate(step, *self._program.arguments(step, values, {}))
        if tail is None:
            return value
        if tail.output is None:
            return (value.values * value.scale).float()
        return self._store(value, tail.output)

    def _multiply(self, step: Step, layer: IntegerLayer, values: Values) -> Sums:
        """Return the sums of a layer's main operator."""
        names = layer.names
        rest = {} if names.bias is None else {names.bias: None}

        def product(x: Tensor, weight: Tensor) -> Tensor:
            operands = {names.input: x, names.weight: weight, **rest}
            args, kwargs = self._program.arguments(step, {}, operands)
            if len(args) > _DILATION:  # of which PyTorch's integer convolutions know nothing
                x, weight, *options = args
                dilation = options[_DILATION - 2]
                weight = _dilated(weight, dilation)
                options[_DILATION - 2] = [1] * len(dilation)
                args = (x, weight, *options)
            result: Tensor = step.function(*args, **kwargs)
            return result

        def transposed(x: Tensor, weight: Tensor) -> Tensor:
            # PyTorch has no integer kernel; float64 holds these integers and their sums exactly.
            operands = {names.input: x.double(), names.weight: weight.double(), **rest}
            args, kwargs = self._program.arguments(step, {}, operands)
            result: Tensor = step.function(*args, **kwargs)
            return result.int()

        read = self._read(values[names.input], layer.input)
        multiply = transposed if names.transposed else product
        return Sums(accumulate(multiply, read, layer.weight) + layer.bias, layer.scale)

    def _read(self, value: Any, grid: Affine) -> Codes:  # noqa: ANN401  (Codes, Sums, or Tensor)
        """Return `value` on the grid on which a layer reads it."""
        if isinstance(value, Tensor):  # an input of the network
            return Codes(grid.quantize(value), grid)
        if isinstance(value, Codes) and value.affine is grid:
            return value
        return self._store(_sums(value), grid)

    def _store(self, value: Sums, grid: Affine) -> Codes:
        """Return `value` rounded to a grid."""
        steps = self._multiplier(value.scale / grid.scale.double()).rescale(value.values)
        low, high = grid.scheme.low - grid.zero_point, grid.scheme.high - grid.zero_point
        return Codes(steps.clamp_(low, high) + grid.zero_point, grid)


_DILATION = 5
"""Position of the dilation among the arguments of a convolution."""


def _dilated(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """Return `weight` with the zeros between its taps written out."""
    sizes = [(n - 1) * d + 1 for n, d in zip(weight.shape[2:], dilation, strict=True)]
    result = weight.new_zeros((*weight.shape[:2], *sizes))
    taps: list[Any] = [slice(None, None, d) for d in dilation]
    result[(..., *taps)] = weight
    return result


def accumulate(product: Callable[[Tensor, Tensor], Tensor], x: Codes, weight: Codes) -> Tensor:
    """Return ``sum (q_w - Z_w) (q_x - Z_x)`` from products of stored integers: int32.

    Parameters
    ----------
    product
        Any operator that is linear in both, of an input and a weight; output channels are
        dimension 1, or the last one of a linear layer.
    x, weight
        Stored integers with one zero point, and with one for all or for each output channel.
    """
    zero, ones = x.affine.zero_point, torch.ones_like(x.codes[:1])
    total = product(x.codes, weight.codes) - zero * product(ones, weight.codes)
    zeros = _per_channel(weight.affine.zero_point, weight.codes)
    if zeros.any():
        every = torch.ones_like(weight.codes)
        total -= zeros * (product(x.codes, every) - zero * product(ones, every))
    return total


def _integer_layer(simulator: Simulator, layer: Layer, chosen: Format) -> IntegerLayer:
    if not (chosen.quantizes_weights and chosen.quantizes_activations):
        raise InputError(
            f"Layer {layer.name!r} is {chosen}, which is not computed in integers; give every "
            "layer a format such as w8a8."
        )
    names, granularity = simulator.operands[layer.name], chosen.weight_granularity
    exact = simulator.program.constants[names.weight]
    key = (layer.name, chosen.weight, granularity, chosen.activation)
    quantizer = simulator.weight_quantizer(*key)
    read = simulator.activation(names.input, chosen.activation)
    bias = torch.zeros(1) if names.bias is None else simulator.bias(*key)
    codes = quantizer.quantize(names.by_output(exact))
    weight = Codes(names.as_stored(codes), quantizer)
    scale = quantizer.scale.double() * read.scale.double()
    steps = (bias.double() / scale).round()
    _check_sums(layer.name, codes, read, steps)
    return IntegerLayer(
        nodes=layer.nodes,
        names=names,
        input=read,
        output=None
        if layer.is_output
        else simulator.activation(layer.nodes[-1], chosen.activation),
        weight=weight,
        bias=_per_channel(steps, exact).int(),
        scale=_per_channel(scale, exact),
    )


def _check_sums(layer: str, codes: Tensor, read: Affine, bias: Tensor) -> None:
    """Raise `InputError` unless every sum, in any order, stays within 32 bits."""
    largest = max(-read.scheme.low, read.scheme.high) + int(read.zero_point.abs())
    channels = codes.flatten(1).long().abs().sum(1)
    bound = float((channels * largest + bias.abs()).max())
    if bound > INT32.max:
        raise InputError(
            f"Sums of layer {layer!r} can reach {bound:.3g}, more than 32 bits hold; give it fewer "
            "bits."
        )


def _per_channel(values: Tensor, weight: Tensor) -> Tensor:
    """Return one value per output channel in a shape that broadcasts over what a layer computes."""
    return values.view(-1, *[1] * (weight.ndim - 2))


def _sums(value: Codes | Sums) -> Sums:
    return value.sums if isinstance(value, Codes) else value


def _operate(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Call an operator without weights; integers make it one on integers."""
    integers = next((x for x in args if isinstance(x, (Codes, Sums))), None)
    if integers is None:
        return step.function(*args, **kwargs)
    name = step.operator
    if name in _OPERATORS:
        args = tuple(_sums(x) if isinstance(x, Codes) else x for x in args)
        result = _OPERATORS[name](*args, **kwargs)
        if result is not None:
            return result
    elif name in _MOVES:
        if isinstance(integers, Codes):
            moved = step.function(integers.codes, *args[1:], **kwargs)
            return Codes(moved, integers.affine) if isinstance(moved, Tensor) else moved
        moved = step.function(integers.values, *args[1:], **kwargs)
        return Sums(moved, integers.scale) if isinstance(moved, Tensor) else moved
    raise InputError(
        f"Operator {name!r} (node {step.name!r}) has no form in integers here; run the network "
        "with the simulator."
    )


_MOVES = frozenset(
    {"view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze", "permute", "transpose"}
    | {"clone", "sym_size", "max_pool1d", "max_pool2d", "max_pool3d"}
)
"""Operators that choose among integers, and compute none."""


def _relu(x: Sums) -> Sums:
    return Sums(x.values.clamp(min=0), x.scale)


def _clamp(x: Sums, low: Tensor | float | None = None, high: Tensor | float | None = None) -> Sums:
    def bound(value: Tensor | float | None, extreme: int) -> Tensor:
        value = torch.as_tensor(extreme * x.scale if value is None else value).double()
        return (value / x.scale).round().clamp(INT32.min, INT32.max).int()

    values = torch.maximum(x.values, bound(low, INT32.min))
    return Sums(torch.minimum(values, bound(high, INT32.max)), x.scale)


def _hardtanh(x: Sums, low: float = -1.0, high: float = 1.0) -> Sums:
    return _clamp(x, low, high)


def _relu6(x: Sums) -> Sums:
    return _clamp(x, 0.0, 6.0)


def _add(x: object, y: object, alpha: float = 1) -> Sums | None:
    if not (isinstance(x, Sums) and isinstance(y, Sums)) or alpha != 1:
        return None
    common = torch.maximum(x.scale, y.scale) / 2.0**GUARD_BITS
    one, other = (fixed_point(z.scale / common).rescale(z.values).long() for z in (x, y))
    return Sums((one + other).clamp_(INT32.min, INT32.max).int(), common)


def _mean(
    x: Sums, dim: Sequence[int] | None = None, keepdim: bool = False, dtype: object = None
) -> Sums | None:
    if x.scale.numel() > 1 or dtype is not None:
        return None
    dims = tuple(range(x.values.ndim)) if dim is None else tuple(dim)
    count = math.prod(x.values.shape[d] for d in dims)
    total = x.values.sum(dims, keepdim).clamp_(INT32.min, INT32.max)
    return Sums(total.int(), x.scale / count)


def _adaptive_avg_pool2d(x: Sums, output_size: Sequence[int]) -> Sums | None:
    return _mean(x, (-2, -1), keepdim=True) if tuple(output_size) == (1, 1) else None


_OPERATORS: dict[str, Callable[..., Sums | None]] = {
    "relu": _relu,
    "relu6": _relu6,
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "add": _add,
    "mean": _mean,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
}
"""Operators in integers; ``None`` where their arguments have no such form."""
