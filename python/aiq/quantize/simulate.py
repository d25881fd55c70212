"""Quantisation simulated in float32: what a network computes with each layer in its own format.

A layer in format f

* has weights rounded to ``f.weight``, one scale per output channel (``bf16``: to that dtype);
* reads activations rounded to ``f.activation``, and writes its tensor, after what fuses into it,
  rounded the same way, unless that is a result of the network;
* adds and multiplies in float32, with a float32 bias that makes up for the mean error of rounded
  weights.

Each tensor has one scale per number of bits, so rounding it twice to the same bits is rounding it
once. Layers without a format stay float32.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from aiq.errors import InputError
from aiq.evaluate.journal import Fingerprint
from aiq.formats import BF16, FP32, REFERENCE, DType, Format, Kind
from aiq.graph import Layer, Trace
from aiq.graph.export import Inputs
from aiq.graph.operators import argument
from aiq.quantize.affine import Affine, Scheme, from_range
from aiq.quantize.fold import output_axis
from aiq.quantize.observers import OBSERVERS, symmetric_mse
from aiq.quantize.program import Program, Values
from aiq.quantize.statistics import Statistics, read

DYNAMIC = "dynamic"
"""Observer that finds the range of each sample while the network runs, without calibration."""

Formats = Mapping[str, Format]
"""Layer name -> format; layers not named stay float32."""


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
        `aiq.quantize.observers.OBSERVERS`, or ``dynamic``: that of each sample.
    correct_bias
        Whether biases make up for the mean error of rounded weights.

    Attributes
    ----------
    layers
        The layers whose format is a decision, in the order in which they start to run.
    layer_of
        Node name -> name of the layer that covers it, for all layers.
    """

    def __init__(
        self,
        trace: Trace,
        statistics: Mapping[str, Statistics],
        observer: str = "mse",
        *,
        correct_bias: bool = True,
    ) -> None:
        self._program = Program(trace)
        self._statistics = statistics
        self._observer = observer
        if observer not in {*OBSERVERS, DYNAMIC}:
            raise InputError(
                f"There is no observer {observer!r}; use {', '.join([*OBSERVERS, DYNAMIC])}."
            )
        position = self._program.position
        nodes = {node.name: node for node in trace.module.graph.nodes}
        self.layers = tuple(
            sorted(trace.graph.quantizable, key=lambda layer: position[layer.nodes[0]])
        )
        self.layer_of = {n: layer.name for layer in trace.graph.layers for n in layer.nodes}
        self._start = {layer.name: position[layer.nodes[0]] for layer in self.layers}
        self._heads = {self._start[layer.name]: layer for layer in self.layers}
        self._tails = {position[layer.nodes[-1]]: layer for layer in self.layers}
        self._weight = {
            layer.name: argument(nodes[layer.nodes[0]], "weight").name for layer in self.layers
        }
        biases = {layer.name: argument(nodes[layer.nodes[0]], "bias") for layer in self.layers}
        self._bias = {name: node.name for name, node in biases.items() if node is not None}
        self._correct_bias = correct_bias
        self._axis = {layer.name: output_axis(nodes[layer.nodes[0]]) for layer in self.layers}
        self._read = {layer.name: read(trace, layer) for layer in self.layers}
        self._weights: dict[tuple[str, DType], Tensor] = {}
        self._biases: dict[tuple[str, DType], Tensor] = {}
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
        for step in self._program.steps:
            hashed.add("step", (step.name, str(step.function), step.args, step.kwargs))
        for name, value in self._program.constants.items():
            hashed.add(name, value if isinstance(value, Tensor) else str(value))
        hashed.add("layers", [(layer.name, layer.nodes, layer.is_output) for layer in self.layers])
        hashed.add("options", (self._observer, self._correct_bias))
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
        return State(0, self._program.start(inputs), {})

    def start_of(self, layer: str) -> int:
        """Return the step at which `layer` starts: earlier states do not depend on its format."""
        return self._start[layer]

    def finish(self, state: State) -> object:
        """Return what the model returns."""
        return self._program.finish(state.values)

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
        steps = self._program.steps
        stop = len(steps) if stop is None else stop
        for index in range(state.position, stop):
            step = steps[index]
            head, tail = self._heads.get(index), self._tails.get(index)
            altered = {} if head is None else self._operands(head, formats, values, dtypes)
            value = self._program.call(step, values, altered)
            if tail is not None and not tail.is_output:
                dtype = formats.get(tail.name, REFERENCE).activation
                value = self._round(step.name, value, dtype, dtypes)
                dtypes[step.name] = dtype
            values[step.name] = value
            if watch is not None:
                watch(step.name, value)
            for name in step.dead:
                del values[name]
        return State(stop, values, dtypes)

    def _operands(
        self, layer: Layer, formats: Formats, values: Values, dtypes: Mapping[str, DType]
    ) -> dict[str, Tensor]:
        """Return what the layer's main operator reads in place of the float32 operands."""
        chosen = formats.get(layer.name, REFERENCE)
        operands = {self._weight[layer.name]: self.weight(layer.name, chosen.weight)}
        if layer.name in self._bias and self._correct_bias and chosen.quantizes_weights:
            operands[self._bias[layer.name]] = self.bias(layer.name, chosen.weight)
        name = self._read[layer.name]
        operands[name] = self._round(name, values[name], chosen.activation, dtypes)
        return operands

    def weight(self, layer: str, dtype: DType) -> Tensor:
        """Return the weights of `layer` rounded to `dtype`, as float32."""
        key = (layer, dtype)
        if key not in self._weights:
            exact = self._program.constants[self._weight[layer]]
            if dtype.kind is Kind.INT:
                scheme = Scheme(dtype.bits, symmetric=True, signed=True, axis=self._axis[layer])
                rounded = symmetric_mse(exact, scheme).fake_quantize(exact)
            else:
                rounded = exact if dtype == FP32 else exact.bfloat16().float()
            if rounded.ndim == 4:
                rounded = rounded.contiguous(memory_format=torch.channels_last)
            self._weights[key] = rounded
        return self._weights[key]

    def bias(self, layer: str, dtype: DType) -> Tensor:
        """Return the bias of `layer` that undoes the mean error of weights rounded to `dtype`.

        ``b - E[(W_rounded - W) x]`` per output channel, the mean taken over the calibration data
        and all positions (Nagel et al. 2019, arXiv 1906.04721, section 4.2).
        """
        key = (layer, dtype)
        if key not in self._biases:
            exact = self._program.constants[self._bias[layer]]
            weight = self._weight[layer]
            error = self.weight(layer, dtype) - self._program.constants[weight]
            read = self._read[layer]
            operands = {
                weight: error,
                self._bias[layer]: torch.zeros_like(exact),
                read: self._statistics[read].mean,
            }
            step = self._program.steps[self._start[layer]]
            shift = self._program.call(step, {}, operands)
            channel = 1 if error.ndim > 2 else -1  # a linear layer's channels come last
            shift = shift.movedim(channel, 0).flatten(1).mean(1)
            self._biases[key] = exact - shift
        return self._biases[key]

    def activation(self, node: str, dtype: DType) -> Affine:
        """Return the quantiser of the activation that `node` computes."""
        key = (node, dtype)
        if key not in self._activations:
            observer = OBSERVERS[self._observer]
            low, high = observer(self._statistics[node], dtype.bits)
            scheme = Scheme(dtype.bits, symmetric=False, signed=False)
            self._activations[key] = from_range(torch.tensor([low]), torch.tensor([high]), scheme)
        return self._activations[key]

    def _round(self, node: str, value: Tensor, dtype: DType, dtypes: Mapping[str, DType]) -> Tensor:
        if dtype == FP32 or dtypes.get(node) == dtype:
            return value
        if dtype == BF16:
            return value.bfloat16().float()
        if self._observer == DYNAMIC:
            scheme = Scheme(dtype.bits, symmetric=False, signed=False, axis=0)
            rows = value.flatten(1)
            return from_range(rows.amin(1), rows.amax(1), scheme).fake_quantize(value)
        return self.activation(node, dtype).fake_quantize(value)
