"""A network in integer arithmetic only: the reference of what a quantised network computes.

With ``r = S (q - Z)`` for weights w, input x and output y, a layer with bias b computes

``q_y = Z_y + M (sum_k (q_w - Z_w) (q_x - Z_x) + b / (S_w S_x))``, ``M = S_w S_x / S_y``.

The sum expands into ``sum q_w q_x - Z_x sum q_w - Z_w sum q_x + sum Z_w Z_x``: products of stored
integers, and terms that are constant or cheap. Padding is a real zero, so positions outside the
image are absent from every term. Sums are kept in 32 bits; before a layer runs, it is proved that
they fit. M is not an integer; it is written as ``2^-n M_0``, M_0 in [0.5, 1) with 31 bits.

Operators that fuse into a layer work on its sums (`aiq.quantize.reference.operators`). All scales
are constants, so no real number depends on the input.

Source: Jacob et al. 2018 (arXiv 1712.05877), sections 2.2 to 2.4.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from aiq.errors import DataError, InputError, type_of
from aiq.formats import REFERENCE, Format, parse
from aiq.graph import Layer, trace
from aiq.graph.export import Inputs
from aiq.quantize.affine import Affine
from aiq.quantize.fold import fold
from aiq.quantize.operands import Operands
from aiq.quantize.program import Step, Values
from aiq.quantize.reference.fixed_point import INT32, Multiplier, fixed_point
from aiq.quantize.reference.operators import Codes, Sums, operate, sums_of
from aiq.quantize.rounding import DYNAMIC
from aiq.quantize.simulate import Formats, Simulator
from aiq.quantize.statistics import observe


@dataclass(frozen=True, slots=True, eq=False)
class IntegerLayer:
    """A convolution or linear layer in integers.

    Attributes
    ----------
    nodes
        Graph nodes that the layer covers.
    names
        Graph nodes that its main operator reads.
    input, output
        Quantisers of its input and output; `output` is ``None`` if its output is not rounded
        (`aiq.quantize.points`).
    weight
        Stored weights.
    bias
        Bias in units of `scale`: int32, in a shape that broadcasts over the sums.
    scale
        Scale of the sums, ``S_w S_x``: float64, of the shape of `bias`.
    """

    nodes: tuple[str, ...]
    names: Operands
    input: Affine
    output: Affine | None
    weight: Codes
    bias: Tensor
    scale: Tensor


class IntegerNetwork:
    """A network whose layers compute in integers only.

    Parameters
    ----------
    simulator
        Simulator of the same network. Its scales, weights and biases are used, so that the output
        of each layer agrees with the simulated one to a quantisation step.
    formats
        Layer name -> format; each format must quantise weights and activations.
    multiplier
        Function that represents ratios of scales by integers: `fixed_point` or `power_of_two`.

    Attributes
    ----------
    simulator
        The simulator that was given.
    layers
        Layer name -> the layer in integers.

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
        self.simulator = simulator
        self._program = simulator.program
        self._multiplier = multiplier
        self.layers = {
            layer.name: _integer_layer(simulator, layer, formats.get(layer.name, REFERENCE))
            for layer in simulator.layers
        }
        self._heads = {layer.nodes[0]: layer for layer in self.layers.values()}
        self._tails = {layer.nodes[-1]: layer for layer in self.layers.values()}

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        inputs: Inputs,
        formats: str | Mapping[str, str | Format] = "w8a8",
        multiplier: Callable[[Tensor], Multiplier] = fixed_point,
    ) -> "IntegerNetwork":
        """Return a model in integers.

        Parameters
        ----------
        model
            Any module that ``torch.export`` accepts.
        inputs
            Arguments of one call, on which the ranges of activations are observed.
        formats
            One format for all layers, or layer name -> format, such as the formats of a plan.
        multiplier
            See `IntegerNetwork`.

        Raises
        ------
        GraphError
            If the model cannot be exported.
        InputError
            If a layer does not compute in integers, or its sums could leave 32 bits.
        """
        folded = fold(trace(model, inputs))
        with torch.inference_mode():
            simulator = Simulator(folded, observe(folded, [inputs]))
        if isinstance(formats, str):
            formats = dict.fromkeys((layer.name for layer in simulator.layers), formats)
        if not isinstance(formats, Mapping):
            raise InputError(
                f"formats is {type_of(formats)}; give one format, or layer name -> format."
            )
        chosen = {k: parse(f) if isinstance(f, str) else f for k, f in formats.items()}
        return cls(simulator, chosen, multiplier)

    def run(self, inputs: Inputs) -> object:
        """Return the model's outputs on `inputs`, as float32; the layers compute in integers.

        Raises
        ------
        DataError
            If an input is NaN or infinite, for which there is no integer.
        """
        if not all(
            bool(x.isfinite().all()) for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)
        ):
            raise DataError("The inputs hold NaN or infinite values; give finite numbers.")
        values = self._program.start(inputs)
        for step in self._program.steps:
            values[step.name] = self._call(step, values)
            for name in step.dead:
                del values[name]
        return pytree.tree_map_only(Sums, _real, self._program.finish(values))

    def run_layer(self, layer: str, operands: Values) -> Any:  # noqa: ANN401  (Codes, or Tensor)
        """Return the output of one layer: `Codes`, or float32 if it is not rounded.

        Parameters
        ----------
        layer
            Name of the layer.
        operands
            Node name -> value that the layer reads: `Codes`, or real numbers for its main operator.
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
            value = operate(step, *self._program.arguments(step, values, {}))
        if tail is None:
            return value
        if tail.output is None:
            return _real(value)
        return self._store(value, tail.output)

    def _multiply(self, step: Step, layer: IntegerLayer, values: Values) -> Sums:
        """Return the sums that a layer's main operator computes."""
        names = layer.names
        rest = {} if names.bias is None else {names.bias: None}

        def product(x: Tensor, weight: Tensor) -> Tensor:
            operands = {names.input: x, names.weight: weight, **rest}
            args, kwargs = self._program.arguments(step, {}, operands)
            if len(args) > _DILATION:  # PyTorch's integer convolutions ignore dilation
                x, weight, *options = args
                dilation = options[_DILATION - 2]
                weight = _dilated(weight, dilation)
                options[_DILATION - 2] = [1] * len(dilation)
                args = (x, weight, *options)
            result: Tensor = step.function(*args, **kwargs)
            return result

        def transposed(x: Tensor, weight: Tensor) -> Tensor:
            # PyTorch has no integer kernel for this; float64 holds the integers and sums exactly.
            operands = {names.input: x.double(), names.weight: weight.double(), **rest}
            args, kwargs = self._program.arguments(step, {}, operands)
            result: Tensor = step.function(*args, **kwargs)
            return result.int()

        read = self._read(values[names.input], layer.input)
        multiply = transposed if names.transposed else product
        return Sums(accumulate(multiply, read, layer.weight) + layer.bias, layer.scale)

    def _read(self, value: Any, grid: Affine) -> Codes:  # noqa: ANN401  (Codes, Sums, or Tensor)
        """Return `value` as stored integers of the quantiser `grid`."""
        if isinstance(value, Tensor):  # an input of the network
            return Codes(grid.quantize(value), grid)
        if isinstance(value, Codes) and value.affine is grid:
            return value
        return self._store(sums_of(value), grid)

    def _store(self, value: Sums, grid: Affine) -> Codes:
        """Return `value` rounded to the integers of the quantiser `grid`."""
        steps = self._multiplier(value.scale / grid.scale.double()).rescale(value.values)
        low, high = grid.scheme.low - grid.zero_point, grid.scheme.high - grid.zero_point
        return Codes(steps.clamp_(low, high) + grid.zero_point, grid)


_DILATION = 5
"""Position of the dilation among the arguments of a convolution."""


def _real(value: Sums) -> Tensor:
    return (value.values * value.scale).float()


def _dilated(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """Return `weight` with explicit zeros between its taps."""
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
        Operator of an input and a weight that is linear in each. Output channels are dimension 1,
        or the last dimension of a linear layer.
    x
        Stored input, with one zero point.
    weight
        Stored weight, with one zero point or one for each output channel.
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
            f"Layer {layer.name!r} has the format {chosen}, which is not computed in integers; "
            "give every layer a format such as w8a8."
        )
    names, granularity = simulator.operands[layer.name], chosen.weight_granularity
    exact = simulator.program.constants[names.weight]
    key = (layer.name, chosen.weight, granularity, chosen.activation)
    quantizer = simulator.weight_quantizer(*key)
    read = simulator.activation(names.input, chosen.activation)
    bias = torch.zeros(1) if names.bias is None else simulator.bias(*key)
    codes = quantizer.quantize(names.by_output(simulator.weight(*key)))
    weight = Codes(names.as_stored(codes), quantizer)
    scale = quantizer.scale.double() * read.scale.double()
    steps = (bias.double() / scale).round()
    _check_sums(layer.name, codes, read, steps)
    return IntegerLayer(
        nodes=layer.nodes,
        names=names,
        input=read,
        output=simulator.activation(layer.nodes[-1], chosen.activation)
        if simulator.points[layer.name]
        else None,
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
    """Return one value per output channel in a shape that broadcasts over the layer's sums."""
    return values.view(-1, *[1] * (weight.ndim - 2))
