"""Rounding of weights, biases and activations.

Scales and zero points are computed before the network runs, from its weights and from the
statistics of its activations on calibration data.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from aiq.errors import InputError
from aiq.formats import BF16, FP16, FP32, DType, Granularity, Kind, RowsDType, WeightRounding
from aiq.graph import Trace
from aiq.graph.operators import bounds
from aiq.learned import LearnedActivation, LearnedScales, LearnedWeight
from aiq.quantize.adaptive import rounded_by_data
from aiq.quantize.affine import (
    LARGEST_HALF,
    SMALLEST_HALF,
    SMALLEST_SCALE,
    Affine,
    Scheme,
    from_range,
    to_rows,
)
from aiq.quantize.factors import factors
from aiq.quantize.observers import OBSERVERS, weight_mse
from aiq.quantize.operands import operands
from aiq.quantize.program import Program
from aiq.quantize.statistics import Statistics

DYNAMIC = "dynamic"
"""Name of the observer that computes ranges while the network runs.

There is a range for each image that a convolution reads, and for each vector, such as a token, that
a linear layer reads.
"""

FLOATS = {BF16: torch.bfloat16, FP16: torch.float16}

LARGEST_BIAS = 2.0**30
"""Largest bias in quantisation steps: half the range of int32; the products have the other half."""

KEPT_BYTES = 2**28
"""Bytes of rounded weights that are kept at least; all weights in one format are, in any case."""

SMALLEST_PRODUCT = 2.0**-120
"""Smallest step of products of integers, which runtimes can still hold in float32."""


class Rounding:
    """The weights, biases and activations of a folded trace, rounded to any dtype.

    Parameters
    ----------
    trace, statistics, observer, correct_bias, power_of_two, moments
        These are the parameters of `aiq.quantize.simulate.Simulator`.

    Attributes
    ----------
    program
        The steps of the trace.
    operands
        Layer name -> operands of its main operator.
    observer
        Name of the observer of activations.
    """

    def __init__(
        self,
        trace: Trace,
        statistics: Mapping[str, Statistics],
        observer: str,
        *,
        correct_bias: bool,
        power_of_two: bool,
        moments: Mapping[str, Tensor] | None,
    ) -> None:
        if observer not in {*OBSERVERS, DYNAMIC}:
            raise InputError(
                f"There is no observer {observer!r}; use {', '.join([*OBSERVERS, DYNAMIC])}."
            )
        self.program = Program(trace)
        self.operands = operands(trace)
        self.observer = observer
        self._statistics = statistics
        self._correct_bias = correct_bias
        self._power_of_two = power_of_two
        self._rounds = trace.rounding
        self._learned = trace.learned or LearnedScales()
        self._moments = {} if self._rounds is WeightRounding.NEAREST else dict(moments or {})
        position = self.program.position
        self._start = {layer.name: position[layer.nodes[0]] for layer in trace.graph.quantizable}
        found = ((node.name, bounds(node)) for node in trace.module.graph.nodes)
        self._bounds = {name: limits for name, limits in found if limits}
        self._factors = factors(trace)
        self._quantizers: dict[tuple[str, DType, Granularity, DType], Affine] = {}
        self._weights: dict[tuple[str, DType, Granularity, DType], Tensor] = {}
        self._weight_bytes = 0
        all_weights = (self.program.constants[names.weight] for names in self.operands.values())
        self._most_bytes = max(KEPT_BYTES, sum(4 * weight.numel() for weight in all_weights))
        self._biases: dict[tuple[str, DType, Granularity, DType], Tensor] = {}
        self._activations: dict[tuple[str, DType], Affine] = {}

    def weight_quantizer(
        self,
        layer: str,
        dtype: DType,
        granularity: Granularity = Granularity.CHANNEL,
        read: DType = FP32,
    ) -> Affine:
        """Return the quantiser of the weights of `layer`, in the layout of `Operands.by_output`.

        Its scales were learned in training, or have the smallest squared error. If weights and
        inputs are integers, the scale of a channel is enlarged where its bias, in units of its
        products, would not fit 32 bits.

        Parameters
        ----------
        layer
            Name of the layer.
        dtype
            Dtype of the weights.
        granularity
            Set of weights that share a scale.
        read
            Dtype of the activation that the layer reads.

        Raises
        ------
        InputError
            If the scales are too small for float32, or were learned with other weights.
        """
        if not self._multiplies_integers(dtype, granularity, read):
            read = FP32  # the scales do not depend on the input
        key = (layer, dtype, granularity, read)
        if key not in self._quantizers:
            names = self.operands[layer]
            weight = names.by_output(self.program.constants[names.weight])
            if read != FP32:
                plain = self.weight_quantizer(layer, dtype, granularity)
                self._quantizers[key] = self._holding_bias(layer, plain, read)
                return self._quantizers[key]
            scheme = Scheme(
                dtype.bits,
                symmetric=not granularity.zero_point,
                signed=not granularity.zero_point,
                axis=None if granularity.is_tensor else 0,
                group=granularity.group,
                power_of_two=self._power_of_two,
                half=_has_groups(weight, granularity) and not self._power_of_two,
            )
            learned = self._learned.weight(layer, dtype, granularity)
            found = (
                weight_mse(weight, scheme) if learned is None else _on_grid(weight, learned, scheme)
            )
            if bool(weight.any()):
                _check_step(float(found.scale.max()), f"the weights of layer {layer!r}", scheme)
            self._quantizers[key] = found
        return self._quantizers[key]

    def _multiplies_integers(self, dtype: DType, granularity: Granularity, read: DType) -> bool:
        """Whether the layer multiplies integers, so that its bias is added as an integer too."""
        integers = dtype.kind is Kind.INT and read.kind is Kind.INT
        return integers and self.observer != DYNAMIC and granularity.group is None

    def _holding_bias(self, layer: str, plain: Affine, read: DType) -> Affine:
        """Return `plain` with scales enlarged until every bias fits 32 bits.

        The bias corrects the mean error of the weights, which grows with their scales, so both are
        computed in turns. This ends at the latest when all weights of a channel round to zero.
        """
        names = self.operands[layer]
        step = self.activation(names.input, read).scale.double()
        exact = self.program.constants[names.weight]
        if float(plain.scale.max() * step) < SMALLEST_PRODUCT and bool(exact.any()):
            raise InputError(
                f"The products of the weights and the input of layer {layer!r} are too small for a "
                "scale in float32; scale the model or its inputs, or leave the layer in fp32."
            )
        quantizer = plain
        while True:
            bias = torch.zeros(1)
            if names.bias is not None:
                rounded = names.as_stored(quantizer.fake_quantize(names.by_output(exact)))
                bias = self._exact_bias(layer, rounded)
            least = (bias.double().abs() / LARGEST_BIAS).clamp(min=SMALLEST_PRODUCT) / step
            excess = least / quantizer.scale
            if bool((excess <= 1).all()):
                return quantizer
            factor = excess.clamp(min=1).log2().ceil().exp2()
            if len(quantizer.scale) == 1:
                factor = factor.amax(0, keepdim=True)
            scale = (quantizer.scale * factor).float()
            quantizer = Affine(quantizer.scheme, scale, quantizer.zero_point)

    @torch.inference_mode(False)  # a derivative may need them later
    @torch.no_grad()
    def weight(
        self,
        layer: str,
        dtype: DType,
        granularity: Granularity = Granularity.CHANNEL,
        read: DType = FP32,
    ) -> Tensor:
        """Return the weights of `layer` rounded to `dtype`: float32, in the layout of the model.

        The parameters are those of `weight_quantizer`.
        """
        if isinstance(dtype, RowsDType):
            read = FP32  # such formats round weights only
        elif dtype.kind is Kind.INT:
            quantizer = self.weight_quantizer(layer, dtype, granularity, read)
            if quantizer is self.weight_quantizer(layer, dtype, granularity):
                read = FP32  # most weights do not depend on it, and are then kept only once
        else:
            read = FP32
        key = (layer, dtype, granularity, read)
        if key not in self._weights:
            names = self.operands[layer]
            exact: Tensor = self.program.constants[names.weight]
            if isinstance(dtype, RowsDType):
                rounded = self._by_rows(layer, dtype)
            elif dtype.kind is Kind.INT and layer in self._moments:
                rounded = rounded_by_data(exact, quantizer, self._moments[layer], self._rounds)
            elif dtype.kind is Kind.INT:
                rounded = names.as_stored(quantizer.fake_quantize(names.by_output(exact)))
            else:
                rounded = exact if dtype == FP32 else exact.to(FLOATS[dtype]).float()
            if rounded.ndim == 4:
                rounded = rounded.contiguous(memory_format=torch.channels_last)
            if rounded is exact:
                return rounded
            self._weight_bytes += rounded.nbytes
            self._weights[key] = rounded
            while self._weight_bytes > self._most_bytes and len(self._weights) > 1:
                self._drop(next(iter(self._weights)))
        self._weights[key] = self._weights.pop(key)  # the first one is the longest unused
        return self._weights[key]

    def _by_rows(self, layer: str, dtype: RowsDType) -> Tensor:
        """Return the weights of `layer` with each output channel rounded to its own dtype."""
        names = self.operands[layer]
        rounded = names.by_output(self.program.constants[names.weight]).clone()
        if len(rounded) != len(dtype.rows):
            raise InputError(
                f"Layer {layer!r} has {len(rounded)} output channels and the format has "
                f"{len(dtype.rows)}; give a format for each channel."
            )
        for one in dict.fromkeys(dtype.rows):
            mine = torch.tensor([row == one for row in dtype.rows])
            rounded[mine] = names.by_output(self.weight(layer, one))[mine]
        return names.as_stored(rounded)

    def forget(self, layer: str) -> None:
        """Free the memory of the rounded weights of `layer`, which are rounded again if needed."""
        for key in [key for key in self._weights if key[0] == layer]:
            self._drop(key)

    def _drop(self, key: tuple[str, DType, Granularity, DType]) -> None:
        self._weight_bytes -= self._weights.pop(key).nbytes

    @torch.inference_mode(False)
    @torch.no_grad()
    def bias(
        self,
        layer: str,
        dtype: DType,
        granularity: Granularity = Granularity.CHANNEL,
        read: DType = FP32,
    ) -> Tensor:
        """Return the bias of `layer` that corrects the mean error of weights rounded to `dtype`.

        It is ``b - E[(W_rounded - W) x]`` for each output channel, with the mean over calibration
        data and positions (Nagel et al. 2019, arXiv 1906.04721, section 4.2); without correction it
        is b. If weights and inputs are integers with scales S_w and S_x, it is rounded to a
        multiple of S_w S_x, as it is added to their products (Jacob et al. 2018, arXiv 1712.05877,
        section 2.4). The parameters are those of `weight_quantizer`.

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
            bias = self._exact_bias(layer, self.weight(*key))
            if self._multiplies_integers(dtype, granularity, read):
                weights = self.weight_quantizer(*key).scale
                step = weights.double() * self.activation(names.input, read).scale.double()
                bias = ((bias.double() / step).round() * step).float()
            self._biases[key] = bias
        return self._biases[key]

    def _exact_bias(self, layer: str, rounded: Tensor) -> Tensor:
        """Return the corrected bias for the weights `rounded`; the bias itself is not rounded."""
        names = self.operands[layer]
        assert names.bias is not None, "the caller has checked that the layer has a bias"
        bias: Tensor = self.program.constants[names.bias]
        if not self._correct_bias:
            return bias
        altered = {
            names.weight: rounded - self.program.constants[names.weight],
            names.bias: torch.zeros_like(bias),
            names.input: self._statistics[names.input].mean,
        }
        shift: Tensor = self.program.call(self.program.steps[self._start[layer]], {}, altered)
        channel = 1 if rounded.ndim > 2 else -1  # a linear layer's channels come last
        return bias - shift.movedim(channel, 0).flatten(1).mean(1)

    def activation(self, node: str, dtype: DType) -> Affine:
        """Return the quantiser, with `dtype`, of the activation that `node` computes."""
        key = (node, dtype)
        if key not in self._activations:
            learned = self._learned.activation(node, dtype)
            self._activations[key] = (
                self._observed(node, dtype) if learned is None else _of(learned)
            )
        return self._activations[key]

    def _observed(self, node: str, dtype: DType) -> Affine:
        """Return the quantiser of an activation with the range that the observer chooses."""
        low, high = OBSERVERS[self.observer](self._statistics[node], dtype.bits)
        # A range within the bounds of a clamp replaces it, so integer kernels need no clamp.
        least, most = self._bounds.get(node, (low, high))
        low, high = max(low, least), min(high, most)
        scheme = Scheme(
            dtype.bits,
            symmetric=node in self._factors,
            signed=False,
            power_of_two=self._power_of_two,
        )
        found = from_range(torch.tensor([low]), torch.tensor([high]), scheme)
        if low < 0 or high > 0:
            _check_step(float(found.scale), f"the output of {node!r}", scheme)
        return found


def _on_grid(weight: Tensor, learned: LearnedWeight, scheme: Scheme) -> Affine:
    """Return the quantiser with learned scales; the trained weights are multiples of them."""
    scale, zero_point = torch.tensor(learned.scales), torch.tensor(learned.zero_points).int()
    found = Affine(scheme, scale, zero_point)
    fits = len(scale) == len(to_rows(weight, scheme))
    if not fits or not torch.equal(found.fake_quantize(weight), weight):
        raise InputError(
            f"The weights of layer {learned.layer!r} are not those with which the plan's scales "
            "were learned; give the model that aiq.finetune returned."
        )
    return found


def _of(learned: LearnedActivation) -> Affine:
    """Return the quantiser of an activation whose scale was learned."""
    scheme = Scheme(learned.bits, symmetric=False, signed=False)
    return Affine(scheme, torch.tensor([learned.scale]), torch.tensor([learned.zero_point]).int())


def _has_groups(weight: Tensor, granularity: Granularity) -> bool:
    """Whether channels have several groups; runtimes store a single one as a channel."""
    group = granularity.group
    return group is not None and weight[0].numel() > group


def _check_step(step: float, what: str, scheme: Scheme) -> None:
    """Raise `InputError` if the largest scale of numbers that are not all zero is out of range."""
    least, kind = (SMALLEST_HALF, "float16") if scheme.half else (SMALLEST_SCALE, "float32")
    if step <= least or (scheme.half and step >= LARGEST_HALF):
        size = "small" if step <= least else "large"
        raise InputError(
            f"Numbers as {size} as {what} have no scale in {kind} for integers of {scheme.bits} "
            "bits; scale the model or its inputs, or leave the layer in fp32."
        )
