"""Quantisation simulated in float32: the outputs of a network with each layer in its own format.

A layer in format f

* has weights rounded to ``f.weight``, with a scale for each output channel, or for the tensor or
  each group if the format's granularity says so;
* rounds its input to ``f.activation``, and its output too, after the operators that fuse into it,
  unless the output is a result of the network, or only norms read it (`aiq.quantize.points`);
  weight-only formats do not round activations;
* rounds the result of its integer kernel before the operators that the kernel cannot absorb, see
  `aiq.quantize.points`;
* adds and multiplies in float32, with a float32 bias that corrects the mean error of the rounded
  weights; if weights and activations are integers, the scales of the weights are large enough for
  a bias of 32 bits.

Quantisation is static: calibration gives each tensor one scale for each number of bits, so a second
rounding to the same bits changes nothing. Queries and keys of attention have symmetric ranges, see
`aiq.quantize.factors`. With the observer ``dynamic``, a layer computes the range of its input while
it runs, and its output stays float32. Layers without a format stay float32.

With `gguf`, the arithmetic is that of llama.cpp. A linear layer with weights in groups of 32 rounds
what it reads to integers of 8 bits, in blocks of 32 with a float16 scale each (its type Q8_0). A
file stores a weight once, so an embedding that shares the weight of a layer looks up rounded rows.

Operators between layers are computed in float32, whatever dtype the format has there
(`Format.between`): the relative error of bfloat16, 2^-9, is far below that of the integers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiq import _core
from aiq.errors import InputError
from aiq.fingerprint import Fingerprint
from aiq.formats import FP32, REFERENCE, DType, Format, Kind
from aiq.graph import Layer, Trace
from aiq.graph.export import Inputs
from aiq.learned import LearnedScales
from aiq.quantize.affine import Scheme, from_range
from aiq.quantize.operands import Operands
from aiq.quantize.points import Absorbs, absorbs_all, rounding_points
from aiq.quantize.program import Values
from aiq.quantize.rounding import DYNAMIC, FLOATS, Rounding
from aiq.quantize.statistics import Statistics

Formats = Mapping[str, Format]
"""Layer name -> format; layers that are not named stay float32."""

BLOCK = 32
"""Numbers of a block of a GGUF file."""

PIECE = 1 << 16
"""Number of values that are rounded in blocks at once, which fit a core's cache."""

_ARITHMETIC = 5
"""Version of the simulated arithmetic, part of the fingerprint of journals.

Increase it whenever the result of a run changes.
"""


@dataclass(slots=True)
class State:
    """A run that stopped before the step `position`.

    Attributes
    ----------
    position
        Index of the next step.
    values
        Node name -> value, for all values that later steps read.
    dtypes
        Node name -> dtype to which the value is rounded.
    """

    position: int
    values: Values
    dtypes: dict[str, DType]


class Simulator(Rounding):
    """Runs a folded trace with any assignment of formats to layers.

    Parameters
    ----------
    trace
        Folded trace, see `aiq.quantize.fold.fold`.
    statistics
        Node name -> statistics, see `aiq.quantize.statistics.observe`.
    observer
        Name of the observer that chooses the ranges of activations: one of
        `aiq.quantize.observers.OBSERVERS`, or ``dynamic``.
    correct_bias
        Whether biases correct the mean error of rounded weights.
    power_of_two
        Whether all scales are powers of two.
    moments
        Layer name -> second moments of its inputs, see `aiq.quantize.moments`, by which the trace's
        `rounding` rounds weights. Weights of other layers are rounded to nearest.
    absorbs
        Whether an integer kernel absorbs an operator; `statistics` must be those of
        `aiq.quantize.statistics.observe` with the same function.
    gguf
        Whether to compute as llama.cpp does.

    Attributes
    ----------
    points
        Layer name -> nodes whose values an integer format of the layer rounds.
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
        power_of_two: bool = False,
        moments: Mapping[str, Tensor] | None = None,
        absorbs: Absorbs = absorbs_all,
        gguf: bool = False,
    ) -> None:
        super().__init__(
            trace,
            statistics,
            observer,
            correct_bias=correct_bias,
            power_of_two=power_of_two,
            moments=moments,
        )
        position = self.program.position
        self.layers = tuple(
            sorted(trace.graph.quantizable, key=lambda layer: position[layer.nodes[0]])
        )
        self.layer_of = {n: layer.name for layer in trace.graph.layers for n in layer.nodes}
        self._heads = {self._start[layer.name]: layer for layer in self.layers}
        self.points = rounding_points(trace, absorbs)
        self._ends = {position[n]: layer for layer in self.layers for n in self.points[layer.name]}
        inner = [layer for layer in self.layers if not layer.is_output]
        self._lasts = {position[layer.nodes[-1]]: layer for layer in inner}
        self.gguf = gguf
        self._lookups = _other_readers(trace, self.layers, self.operands) if gguf else {}

    def check(self, formats: Formats) -> None:
        """Raise `InputError` if there is no such layer, or a format that cannot be simulated."""
        for name, chosen in formats.items():
            if name not in self._start:
                raise InputError(
                    f"The model has no convolution or linear layer {name!r}; "
                    f"its layers are {', '.join(self._start)}."
                )
            if self.gguf and chosen.quantizes_activations:
                raise InputError(
                    f"llama.cpp has no kernels for layer {name!r} as {chosen}; choose a format "
                    "that rounds weights only."
                )

    def fingerprint(self, hashed: Fingerprint) -> None:
        """Add everything that determines the result of a run to a hash."""
        self.program.fingerprint(hashed)
        hashed.add("layers", [(layer.name, layer.nodes, layer.is_output) for layer in self.layers])
        if any(len(points) > 1 for points in self.points.values()):
            hashed.add("points", self.points)
        if self._factors:
            hashed.add("factors", sorted(self._factors))
        hashed.add("bounds", self._bounds)
        hashed.add("arithmetic", _ARITHMETIC)
        hashed.add("options", (self.observer, self._correct_bias, self._power_of_two))
        for layer, moments in self._moments.items():
            hashed.add("rounding", (str(self._rounds), layer))
            hashed.add(layer, moments)
        if self.gguf:
            hashed.add("gguf", 1)
        if self._learned != LearnedScales():
            hashed.add("learned", self._learned)
        for name, statistics in self._statistics.items():
            hashed.add(name, (statistics.extremes, statistics.limit))
            hashed.add(name, statistics.counts)
            hashed.add(name, statistics.mean)

    def run(self, inputs: Inputs, formats: Formats) -> object:
        """Return the outputs of the model on `inputs` with its layers in `formats`."""
        self.check(formats)
        return self.finish(self.advance(self.start(inputs), formats))

    def start(self, inputs: Inputs) -> State:
        """Return the state before the first step."""
        return State(0, self.program.start(inputs), {})

    def start_of(self, layer: str) -> int:
        """Return the index of the step at which `layer` starts.

        States before that step do not depend on the layer's format.
        """
        return self._start[layer]

    def finish(self, state: State) -> object:
        """Return the outputs of the model, once the run has come to its end."""
        return self.program.finish(state.values)

    def advance(
        self,
        state: State,
        formats: Formats,
        stop: int | None = None,
        watch: Callable[[str, object], None] | None = None,
    ) -> State:
        """Return the state before step `stop`, by default after the last step.

        Parameters
        ----------
        state
            State to continue from; it is not changed.
        formats
            Layer name -> format, for the layers from there on.
        stop
            Index of the step before which to stop.
        watch
            Called with the name and value of each node that is computed.
        """
        values, dtypes = dict(state.values), dict(state.dtypes)
        steps = self.program.steps
        stop = len(steps) if stop is None else stop
        for index in range(state.position, stop):
            step = steps[index]
            value = values[step.name] = self.step(index, formats, values, dtypes)
            if watch is not None:
                watch(step.name, value)
            for name in step.dead:
                del values[name]
        return State(stop, values, dtypes)

    def step(
        self,
        index: int,
        formats: Formats,
        values: Values,
        dtypes: dict[str, DType],
        given: Mapping[str, Tensor] | None = None,
    ) -> Any:  # noqa: ANN401 - most operators return a tensor
        """Return the value of one step, rounded as the format of its layer says.

        A derivative passes through rounding as if nothing had been rounded (Bengio et al. 2013,
        arXiv 1308.3432).

        Parameters
        ----------
        index
            Index of the step.
        formats
            Layer name -> format.
        values, dtypes
            Those of the `State` before the step; the dtype of a rounded value is added to `dtypes`.
        given
            Node name -> value, for operands that are not those of the network.
        """
        step = self.program.steps[index]
        head = self._heads.get(index)
        owner = self._lasts.get(index) or self._ends.get(index)
        if head is not None:
            altered = self._altered(head, formats, values, dtypes)
        else:
            altered = self._looked_up(step.name, formats)
        value = self.program.call(step, values, altered | dict(given or {}))
        if owner is not None:
            dtype = formats.get(owner.name, REFERENCE).activation
            is_float, is_static = dtype.kind is Kind.FLOAT, self.observer != DYNAMIC
            if index in self._lasts if is_float else index in self._ends and is_static:
                exact = value.detach()
                rounded = self._round(step.name, exact, dtype)
                value = value if rounded is exact else _through(value, rounded)
                dtypes[step.name] = dtype
        return value

    def _altered(
        self, layer: Layer, formats: Formats, values: Values, dtypes: Mapping[str, DType]
    ) -> dict[str, Tensor]:
        """Return node name -> value, for the operands that the layer's format rounds."""
        chosen = formats.get(layer.name, REFERENCE)
        names, granularity = self.operands[layer.name], chosen.weight_granularity
        weight = self.weight(layer.name, chosen.weight, granularity, chosen.activation)
        altered = {names.weight: weight}
        if names.bias is not None and chosen.quantizes_weights:
            bias = self.bias(layer.name, chosen.weight, granularity, chosen.activation)
            altered[names.bias] = bias
        value, dtype = values[names.input], chosen.activation
        exact = value.detach()
        if self.gguf and chosen.quantizes_weights and granularity.group == BLOCK:
            rounded = round_blocks(exact)
        elif dtypes.get(names.input) == dtype:
            rounded = exact
        elif dtype.kind is Kind.INT and self.observer == DYNAMIC:
            rounded = _round_rows(exact, dtype, self._is_linear(names))
        else:
            rounded = self._round(names.input, exact, dtype)
        if rounded is not exact:
            altered[names.input] = _through(value, rounded)
        return altered

    def _looked_up(self, step: str, formats: Formats) -> dict[str, Tensor]:
        """Return node name -> weight, for a step that is no layer and reads a layer's weight."""
        layer = self._lookups.get(step)
        chosen = formats.get(layer or "", REFERENCE)
        if layer is None or not chosen.quantizes_weights:
            return {}
        weight = self.weight(layer, chosen.weight, chosen.weight_granularity, chosen.activation)
        return {self.operands[layer].weight: weight}

    def _is_linear(self, names: Operands) -> bool:
        return bool(self.program.constants[names.weight].ndim == 2)

    def _round(self, node: str, value: Tensor, dtype: DType) -> Tensor:
        if dtype == FP32:
            return value
        if dtype.kind is Kind.FLOAT:
            return value.to(FLOATS[dtype]).float()
        return self.activation(node, dtype).fake_quantize(value)


def _through(value: Tensor, rounded: Tensor) -> Tensor:
    """Return the rounded value, with the derivatives of the value that was rounded."""
    return value + (rounded - value.detach()) if value.requires_grad else rounded


def round_blocks(value: Tensor) -> Tensor:
    """Return `value` rounded to 8 bits in blocks of 32 along the last dimension, as Q8_0 does."""
    if value.shape[-1] % BLOCK:
        return value
    rounded = torch.empty(value.shape)
    parts = (torch.split(x, PIECE) for x in (value.detach().reshape(-1), rounded.view(-1)))
    for numbers, target in zip(*parts, strict=True):
        _core.round_blocks(numbers.numpy(), target.numpy())
    return rounded


def _other_readers(
    trace: Trace, layers: Sequence[Layer], operands: Mapping[str, Operands]
) -> dict[str, str]:
    """Return node name -> layer, for nodes of no layer with a format that read a layer's weight."""
    heads = {layer.nodes[0] for layer in layers}
    nodes = {node.name: node for node in trace.module.graph.nodes}
    return {
        user.name: layer.name
        for layer in layers
        for user in nodes[operands[layer.name].weight].users
        if user.name not in heads
    }


def _round_rows(value: Tensor, dtype: DType, is_linear: bool) -> Tensor:
    """Return `value` rounded to a range for each vector of a linear layer, or else each sample."""
    rows = value.reshape(-1, value.shape[-1]) if is_linear else value.flatten(1)
    scheme = Scheme(dtype.bits, symmetric=False, signed=False, axis=0)
    quantizer = from_range(rows.amin(1), rows.amax(1), scheme)
    return quantizer.fake_quantize(rows).view_as(value)
