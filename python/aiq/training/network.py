"""The fake-quantised network of a plan, whose weights, biases and scales can be trained."""

from collections.abc import Mapping

import torch
from torch import Tensor

from aiq.errors import InputError
from aiq.formats import FP32, INTEGERS, DType, Format, Granularity, Kind
from aiq.graph import Trace
from aiq.learned import LearnedActivation, LearnedScales, LearnedWeight
from aiq.quantize.affine import Affine
from aiq.quantize.points import Absorbs
from aiq.quantize.rounding import FLOATS
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import Statistics
from aiq.training.lsq import fake_quantize, through


class TrainableNetwork(Simulator):
    """A simulator whose weights, biases and scales are parameters.

    It computes what the simulator computes, bit for bit, so training sees what runs. A scale is
    ``start * exp(p)`` with the parameter p, which is 0 in the beginning: a scale stays positive,
    and a step of training changes it by a share of itself (Jain et al. 2020, arXiv 1903.08066).
    Biases begin with their correction for rounded weights. Zero points do not change, nor do
    parameters of other operators, such as norms that cannot be folded.

    Parameters
    ----------
    trace
        Folded trace, see `aiq.quantize.fold.fold`.
    statistics
        Statistics of its activations, see `aiq.quantize.statistics.observe`.
    formats
        Layer name -> format.
    absorbs
        Whether an integer kernel absorbs an operator, see `aiq.quantize.points`.

    Attributes
    ----------
    formats
        The format of every layer.
    weights, biases
        Layer name -> parameter, in the layout of the model.
    weight_scales, activation_scales
        Layer name, or node name and bits -> the parameter p of each scale.
    """

    def __init__(
        self,
        trace: Trace,
        statistics: Mapping[str, Statistics],
        formats: Mapping[str, Format],
        absorbs: Absorbs,
    ) -> None:
        super().__init__(trace, statistics, absorbs=absorbs)
        self.formats = {layer.name: formats[layer.name] for layer in self.layers}
        self.weights: dict[str, Tensor] = {}
        self.biases: dict[str, Tensor] = {}
        self.weight_scales: dict[str, Tensor] = {}
        self.activation_scales: dict[tuple[str, int], Tensor] = {}
        constants = self.program.constants
        for name, chosen in self.formats.items():
            names = self.operands[name]
            self.weights[name] = _parameter(constants[names.weight])
            if chosen.quantizes_weights:
                if not bool(constants[names.weight].any()):
                    raise InputError(
                        f"All weights of layer {name!r} are zero, so there is no scale to begin "
                        "with; pin it to fp32 in the search, or give it other weights."
                    )
                self.weight_scales[name] = _zeros(self._start_of(name).scale)
            if names.bias is not None:
                bias = constants[names.bias]
                if chosen.quantizes_weights:
                    bias = self._exact_bias(name, super().weight(*_key(name, chosen)))
                self.biases[name] = _parameter(bias)
            if chosen.quantizes_activations:
                for node in (names.input, *self.points[name]):
                    scale = self.activation(node, chosen.activation).scale
                    self.activation_scales[node, chosen.activation.bits] = _zeros(scale)
        for name, names in self.operands.items():
            constants[names.weight] = self.weights[name]
            if names.bias is not None:
                constants[names.bias] = self.biases[name]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Name -> parameter, for all parameters."""
        activations = {f"{node}/{b}": p for (node, b), p in self.activation_scales.items()}
        groups = {
            "weight": self.weights,
            "bias": self.biases,
            "weight scale": self.weight_scales,
            "activation scale": activations,
        }
        return {f"{kind} {k}": p for kind, group in groups.items() for k, p in group.items()}

    def weight(
        self,
        layer: str,
        dtype: DType,
        granularity: Granularity = Granularity.CHANNEL,
        read: DType = FP32,
    ) -> Tensor:
        """Return the weights of `layer` rounded to `dtype`, with gradients."""
        weight = self.weights[layer]
        if dtype.kind is Kind.INT:
            names = self.operands[layer]
            scale, start = self._weight_scale(layer), self._start_of(layer)
            weight = names.as_stored(fake_quantize(names.by_output(weight), scale, start))
        elif dtype != FP32:
            weight = through(weight, weight.to(FLOATS[dtype]).float())
        if weight.ndim == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        return weight

    def bias(
        self,
        layer: str,
        dtype: DType,
        granularity: Granularity = Granularity.CHANNEL,
        read: DType = FP32,
    ) -> Tensor:
        """Return the bias of `layer` as its kernel adds it, with gradients."""
        bias = self.biases[layer]
        if not self._multiplies_integers(dtype, granularity, read):
            return bias
        with torch.no_grad():
            node = self.operands[layer].input
            step = self._weight_scale(layer).double() * self._scale(node, read).double()
            rounded = ((bias.double() / step).round() * step).float()
        return through(bias, rounded)

    def learned(self) -> LearnedScales:
        """Return the scales as they are now."""
        weights = []
        for layer in self.weight_scales:
            scales = self._weight_scale(layer).detach().tolist()
            zeros = self._start_of(layer).zero_point.tolist()
            name = _weight_format(self.formats[layer])
            weights.append(LearnedWeight(layer, name, tuple(scales), tuple(zeros)))
        activations = []
        for node, bits in self.activation_scales:
            zero_point = int(self.activation(node, INTEGERS[bits]).zero_point)
            scale = float(self._scale(node, INTEGERS[bits]).detach())
            activations.append(LearnedActivation(node, bits, scale, zero_point))
        return LearnedScales(tuple(weights), tuple(activations))

    def rounded_weights(self) -> dict[str, Tensor]:
        """Return layer name -> weights as they are stored: multiples of their scales."""
        with torch.no_grad():
            found = {
                name: self.weight(*_key(name, chosen)) for name, chosen in self.formats.items()
            }
        return {name: weight.detach().clone() for name, weight in found.items()}

    def _start_of(self, layer: str) -> Affine:
        """Return the quantiser of the weights with which training starts."""
        return self.weight_quantizer(*_key(layer, self.formats[layer]))

    def _weight_scale(self, layer: str) -> Tensor:
        start = self._start_of(layer)
        scale = start.scale * self.weight_scales[layer].exp()
        return through(scale, scale.half().float()) if start.scheme.half else scale

    def _scale(self, node: str, dtype: DType) -> Tensor:
        start = self.activation(node, dtype).scale
        return start * self.activation_scales[node, dtype.bits].exp()

    def _round(self, node: str, value: Tensor, dtype: DType) -> Tensor:
        if dtype == FP32:
            return value
        if dtype.kind is Kind.FLOAT:
            return through(value, value.to(FLOATS[dtype]).float())
        return fake_quantize(value, self._scale(node, dtype), self.activation(node, dtype))


def _key(layer: str, chosen: Format) -> tuple[str, DType, Granularity, DType]:
    return layer, chosen.weight, chosen.weight_granularity, chosen.activation


def _weight_format(chosen: Format) -> str:
    """Return the name of the weight-only format with the same weights."""
    scales = chosen.weight_granularity
    group = "" if scales.group is None else f"g{scales.group}"
    return f"w{chosen.weight.bits}{group}{'z' if scales.zero_point else ''}"


def _parameter(value: Tensor) -> Tensor:
    return value.detach().clone().requires_grad_()


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like).requires_grad_()
