"""Quantisation simulated in float32: what a network computes with each layer in its own format.

A layer in format f

* has weights rounded to ``f.weight``, with one scale per output channel or, if the format's
  granularity says so, one for all or one for each group; weight-only formats round nothing else;
* reads activations rounded to ``f.activation``, and writes its tensor, after what fuses into it,
  rounded the same way, unless that is a result of the network;
* adds and multiplies in float32, with a float32 bias that makes up for the mean error of rounded
  weights.

Quantisation is static: each tensor has one scale per number of bits, found by calibration, so
rounding it twice to the same bits is rounding it once. With the observer ``dynamic``, layers find
the range of what they read while they run, and write float32. Layers without a format stay float32.

What stands between layers is computed in float32, whatever the formats have there
(`Format.between`): bfloat16 rounds by 2^-9 of a value, far less than the integers around it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from aiq.errors import InputError
from aiq.fingerprint import Fingerprint
from aiq.formats import BF16, FP16, FP32, REFERENCE, DType, Format, Granularity, Kind
from aiq.graph import Layer, Trace
from aiq.graph.export import Inputs
from aiq.graph.operators import argument, bounds
from aiq.quantize.affine import Affine, Scheme, from_range
from aiq.quantize.fold import output_axis
from aiq.quantize.observers import OBSERVERS, symmetric_mse
from aiq.quantize.program import Program, Values
from aiq.quantize.statistics import Statistics, read

DYNAMIC = "dynamic"
"""Observer that finds ranges while the network runs: of each image that a convolution reads, of
each vector (a token) that a linear layer reads."""

Formats = Mapping[str, Format]
"""Layer name -> format; layers not named stay float32."""

_FLOATS = {BF16: torch.bfloat16, FP16: torch.float16}


@dataclass(frozen=True, slots=True)
class Operands:
    """What the main operator of a layer reads: names of graph nodes.

    Attributes
    ----------
    input, weight, bias
        Node of each; `bias` is ``None`` without one.
    axis
        Dimension of the weight that counts output channels.
    """

    input: str
    weight: str
    bias: str | None
    axis: int


@dataclass(slots=True)
class State:
    """A run that has come to the step `position`.

    Attributes
    ----------
    position
        Index of the next step.
    values
        Values that later steps read.
    dtypes
        Node name -> dtype to which its value has been rounded already.
    """

    position: int
    values: Values
    dtypes: dict[str, DType]


class Simulator:
    """A folded trace with the statistics of its activations; runs any assignment of formats.

    Parameters
    ----------
    trace
        Folded trace, see `aiq.quantize.fold.fold`.
    statistics
        Node name -> statistics, see `aiq.quantize.statistics.observe`.
    observer
        Which range of an activation the integers cover: a name in
        `aiq.quantize.observers.OBSERVERS`, or ``dynamic``.
    correct_bias
        Whether biases make up for the mean error of rounded weights.
    power_of_two
        Whether all scales are powers of two.

    Attributes
    ----------
    program
        The steps that are run.
    layers
        The layers whose format is a decision, in the order in which they start to run.
    layer_of
        Node name -> name of the layer that covers it, for all layers.
    operands
        Layer name -> nodes that its main operator reads.
    observer
        As given.
    """

    def __init__(
        self,
        trace: Trace,
        statistics: Mapping[str, Statistics],
        observer: str = "mse",
        *,
        correct_bias: bool = True,
        power_of_two: bool = False,
    ) -> None:
        self.program = Program(trace)
        self.observer = observer
        self._statistics = statistics
        if observer not in {*OBSERVERS, DYNAMIC}:
            raise InputError(
                f"There is no observer {observer!r}; use {', '.join([*OBSERVERS, DYNAMIC])}."
            )
        position = self.program.position
        nodes = {node.name: node for node in trace.module.graph.nodes}
        self.layers = tuple(
            sorted(trace.graph.quantizable, key=lambda layer: position[layer.nodes[0]])
        )
        self.layer_of = {n: layer.name for layer in trace.graph.layers for n in layer.nodes}
        self._start = {layer.name: position[layer.nodes[0]] for layer in self.layers}
        self._heads = {self._start[layer.name]: layer for layer in self.layers}
        self._tails = {position[layer.nodes[-1]]: layer for layer in self.layers}
        self.operands = {layer.name: _operands(trace, layer, nodes) for layer in self.layers}
        self._bounds = {name: found for name, n in nodes.items() if (found := bounds(n))}
        self._correct_bias = correct_bias
        self._power_of_two = power_of_two
        self._quantizers: dict[tuple[str, DType, Granularity], Affine] = {}
        self._weights: dict[tuple[str, DType, Granularity], Tensor] = {}
        self._biases: dict[tuple[str, DType, Granularity, DType], Tensor] = {}
        self._activations: dict[tuple[str, DType], Affine] = {}

    def check(self, formats: Formats) -> None:
        """Raise `InputError` if `formats` names a layer that the model does not have."""
        for name in formats:
            if name not in self._start:
                raise InputError(
                    f"The model has no convolution or linear layer {name!r}; "
                    f"its layers are {', '.join(self._start)}."
                )

    def fingerprint(self, hashed: Fingerprint) -> None:
        """Add to a hash all that decides what a run computes."""
        for step in self.program.steps:
            hashed.add("step", (step.name, str(step.function), step.args, step.kwargs))
        for name, value in self.program.constants.items():
            hashed.add(name, value if isinstance(value, Tensor) else str(value))
        hashed.add("layers", [(layer.name, layer.nodes, layer.is_output) for layer in self.layers])
        hashed.add("bounds", self._bounds)
        hashed.add("options", (self.observer, self._correct_bias, self._power_of_two))
        for name, statistics in self._statistics.items():
            hashed.add(name, (statistics.extremes, statistics.limit))
            hashed.add(name, statistics.counts)
            hashed.add(name, statistics.mean)

    def run(self, inputs: Inputs, formats: Formats) -> object:
        """Return what the model returns on `inputs` with its layers in `formats`."""
        self.check(formats)
        return self.finish(self.advance(self.start(inputs), formats))

    def start(self, inputs: Inputs) -> State:
        """Return the state before the first step."""
        return State(0, self.program.start(inputs), {})

    def start_of(self, layer: str) -> int:
        """Return the step at which `layer` starts: earlier states do not depend on its format."""
        return self._start[layer]

    def finish(self, state: State) -> object:
        """Return what the model returns."""
        return self.program.finish(state.values)

    def advance(
        self,
        state: State,
        formats: Formats,
        stop: int | None = None,
        watch: Callable[[str, object], None] | None = None,
    ) -> State:
        """Return the state before step `stop` (default: after the last); `state` stays as it is.

        `watch` is shown each node's name and value as it is computed.
        """
        values, dtypes = dict(state.values), dict(state.dtypes)
        steps = self.program.steps
        stop = len(steps) if stop is None else stop
        for index in range(state.position, stop):
            step = steps[index]
            head, tail = self._heads.get(index), self._tails.get(index)
            altered = {} if head is None else self._altered(head, formats, values, dtypes)
            value = self.program.call(step, values, altered)
            if tail is not None and not tail.is_output:
                dtype = formats.get(tail.name, REFERENCE).activation
                if self.observer != DYNAMIC or dtype.kind is Kind.FLOAT:
                    value = self._round(step.name, value, dtype)
                    dtypes[step.name] = dtype
            values[step.name] = value
            if watch is not None:
                watch(step.name, value)
            for name in step.dead:
                del values[name]
        return State(stop, values, dtypes)

    def _altered(
        self, layer: Layer, formats: Formats, values: Values, dtypes: Mapping[str, DType]
    ) -> dict[str, Tensor]:
        """Return what the layer's main operator reads in place of the float32 operands."""
        chosen = formats.get(layer.name, REFERENCE)
        names, granularity = self.operands[layer.name], chosen.weight_granularity
        altered = {names.weight: self.weight(layer.name, chosen.weight, granularity)}
        if names.bias is not None and chosen.quantizes_weights:
            bias = self.bias(layer.name, chosen.weight, granularity, chosen.activation)
            altered[names.bias] = bias
        value, dtype = values[names.input], chosen.activation
        if dtypes.get(names.input) == dtype:
            altered[names.input] = value
        elif dtype.kind is Kind.INT and self.observer == DYNAMIC:
            altered[names.input] = _round_rows(value, dtype, self._is_linear(names))
        else:
            altered[names.input] = self._round(names.input, value, dtype)
        return altered

    def _is_linear(self, names: Operands) -> bool:
        return bool(self.program.constants[names.weight].ndim == 2)

    def weight_quantizer(
        self, layer: str, dtype: DType, granularity: Granularity = Granularity.CHANNEL
    ) -> Affine:
        """Return the quantiser of the weights of `layer`."""
        key = (layer, dtype, granularity)
        if key not in self._quantizers:
            names = self.operands[layer]
            axis = None if granularity is Granularity.TENSOR else names.axis
            scheme = Scheme(
                dtype.bits,
                symmetric=True,
                signed=True,
                axis=axis,
                group=granularity.group,
                power_of_two=self._power_of_two,
            )
            self._quantizers[key] = symmetric_mse(self.program.constants[names.weight], scheme)
        return self._quantizers[key]

    def weight(
        self, layer: str, dtype: DType, granularity: Granularity = Granularity.CHANNEL
    ) -> Tensor:
        """Return the weights of `layer` rounded to `dtype`, as float32."""
        key = (layer, dtype, granularity)
        if key not in self._weights:
            exact = self.program.constants[self.operands[layer].weight]
            if dtype.kind is Kind.INT:
                rounded = self.weight_quantizer(*key).fake_quantize(exact)
            else:
                rounded = exact if dtype == FP32 else exact.to(_FLOATS[dtype]).float()
            if rounded.ndim == 4:
                rounded = rounded.contiguous(memory_format=torch.channels_last)
            self._weights[key] = rounded
        return self._weights[key]

    def bias(
        self,
        layer: str,
        dtype: DType,
        granularity: Granularity = Granularity.CHANNEL,
        read: DType = FP32,
    ) -> Tensor:
        """Return the bias of `layer` for weights rounded to `dtype`: it undoes their mean error.

        ``b - E[(W_rounded - W) x]`` per output channel, the mean taken over the calibration data
        and all positions (Nagel et al. 2019, arXiv 1906.04721, section 4.2). Without correction,
        the bias itself. Where weights and what is `read` are integers with steps S_w and S_x, it is
        a whole number of steps S_w S_x, as it is added to their products (Jacob et al. 2018, arXiv
        1712.05877, section 2.4).

        Raises
        ------
        InputError
            If the layer has no bias.
        """
        names = self.operands[layer]
        if names.bias is None:
            raise InputError(f"Layer {layer!r} has no bias; ask only for those that have one.")
        key = (layer, dtype, granularity, read)
        if key not in self._biases:
            bias: Tensor = self.program.constants[names.bias]
            if self._correct_bias:
                bias = bias - self._shift(layer, names.bias, dtype, granularity)
            integers = dtype.kind is Kind.INT and read.kind is Kind.INT
            if integers and self.observer != DYNAMIC and granularity.group is None:
                weights = self.weight_quantizer(layer, dtype, granularity).scale
                step = weights.double() * self.activation(names.input, read).scale.double()
                bias = ((bias.double() / step).round() * step).float()
            self._biases[key] = bias
        return self._biases[key]

    def _shift(self, layer: str, bias: str, dtype: DType, granularity: Granularity) -> Tensor:
        """Return by how much rounded weights move each output channel, in the mean."""
        names = self.operands[layer]
        error = self.weight(layer, dtype, granularity) - self.program.constants[names.weight]
        altered = {
            names.weight: error,
            bias: torch.zeros_like(self.program.constants[bias]),
            names.input: self._statistics[names.input].mean,
        }
        shift: Tensor = self.program.call(self.program.steps[self._start[layer]], {}, altered)
        channel = 1 if error.ndim > 2 else -1  # a linear layer's channels come last
        return shift.movedim(channel, 0).flatten(1).mean(1)

    def activation(self, node: str, dtype: DType) -> Affine:
        """Return the quantiser of the activation that `node` computes."""
        key = (node, dtype)
        if key not in self._activations:
            observer = OBSERVERS[self.observer]
            low, high = observer(self._statistics[node], dtype.bits)
            # Within the bounds of a clamp rounding clamps too, and integer kernels need do no more.
            least, most = self._bounds.get(node, (low, high))
            low, high = max(low, least), min(high, most)
            scheme = Scheme(
                dtype.bits, symmetric=False, signed=False, power_of_two=self._power_of_two
            )
            self._activations[key] = from_range(torch.tensor([low]), torch.tensor([high]), scheme)
        return self._activations[key]

    def _round(self, node: str, value: Tensor, dtype: DType) -> Tensor:
        if dtype == FP32:
            return value
        if dtype.kind is Kind.FLOAT:
            return value.to(_FLOATS[dtype]).float()
        return self.activation(node, dtype).fake_quantize(value)


def _operands(trace: Trace, layer: Layer, nodes: Mapping[str, fx.Node]) -> Operands:
    head = nodes[layer.nodes[0]]
    weight, bias = argument(head, "weight").name, argument(head, "bias")
    return Operands(
        read(trace, layer), weight, None if bias is None else bias.name, output_axis(head)
    )


def _round_rows(value: Tensor, dtype: DType, is_linear: bool) -> Tensor:
    """Round each vector that a linear layer reads, each sample of others, to its own range."""
    rows = value.reshape(-1, value.shape[-1]) if is_linear else value.flatten(1)
    scheme = Scheme(dtype.bits, symmetric=False, signed=False, axis=0)
    quantizer = from_range(rows.amin(1), rows.amax(1), scheme)
    return quantizer.fake_quantize(rows).view_as(value)
