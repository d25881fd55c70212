"""Second moments of what layers read: how errors of weights add up to errors of outputs.

If the weights of an output channel change by d, its output changes by ``d x``, where x are the K
inputs of one position. The mean squared change is ``d H d^T`` with the second moments
``H = E[x x^T]``, (K, K). A bias makes up for the mean of the change, and then H is the covariance.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, unfold

from aiq.formats import WeightRounding
from aiq.graph import Layer, Trace
from aiq.graph.export import Inputs
from aiq.quantize.operands import Operands, operands
from aiq.quantize.program import Program, Step, Values

MOST_INPUTS = 4608
"""Layers in which an output channel reads more numbers are left out: K^2 would fill the memory."""

POSITIONS = 4096
"""Most positions of each batch whose inputs are counted."""


def second_moments(trace: Trace, inputs: Iterable[Inputs]) -> dict[str, Tensor]:
    """Return the second moments of the inputs of layers in the float32 network.

    If the trace rounds weights to nearest, which needs none, none are computed.

    Parameters
    ----------
    trace
        Folded trace, see `aiq.quantize.fold.fold`.
    inputs
        Inputs of the model, batch by batch. Random positions of each count.

    Returns
    -------
    dict
        Layer name -> float32, (G, K, K), for G groups of channels, of which an output channel reads
        K numbers. Transposed and three-dimensional convolutions have no entry, and layers that
        read more than `MOST_INPUTS` numbers.
    """
    if trace.rounding is WeightRounding.NEAREST:
        return {}
    program, names = Program(trace), operands(trace)
    layers = {x.nodes[0]: x for x in trace.graph.quantizable if _counts(x, names[x.name])}
    keys = {layer.name: _key(layer, names[layer.name]) for layer in layers.values()}
    sums: dict[_Key, _Sum] = {}
    draw = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for batch in inputs:
            values, seen = program.start(batch), set[_Key]()
            for step in program.steps:
                layer = layers.get(step.name)
                if layer is not None and keys[layer.name] not in seen:
                    seen.add(key := keys[layer.name])
                    x = _read(program, step, values, layer, names[layer.name].groups, draw)
                    sums.setdefault(key, _Sum()).add(x)
                values[step.name] = program.call(step, values, {})
                for dead in step.dead:
                    del values[dead]
    found = {key: total.moments(centred=key[1]) for key, total in sums.items()}
    return {name: found[key] for name, key in keys.items() if key in found}


_Key = tuple[str, bool]
"""Where inputs are read, and whether a bias makes up for the mean of their errors."""


def _key(layer: Layer, names: Operands) -> _Key:
    """Return a key that is equal for linear layers that read the same, as those of queries do."""
    linear = len(layer.weight_shape or ()) == 2
    return names.input if linear else f"patches of {layer.name}", names.bias is not None


@dataclass(slots=True)
class _Sum:
    """Sums over the positions so far: of products (G, K, K), of values (G, K), and their number."""

    products: Tensor | float = 0.0
    values: Tensor | float = 0.0
    count: int = 0

    def add(self, x: Tensor) -> None:
        """Add what is read at some positions: (G, positions, K)."""
        x = x.double()  # a variance is a small difference of large sums
        self.products = self.products + x.mT @ x
        self.values = self.values + x.sum(1)
        self.count += x.shape[1]

    def moments(self, *, centred: bool) -> Tensor:
        """Return the second moments, about the mean if they are `centred`."""
        found = torch.as_tensor(self.products) / self.count
        mean = torch.as_tensor(self.values) / self.count
        return (found - mean[:, :, None] * mean[:, None, :] if centred else found).float()


def _counts(layer: Layer, names: Operands) -> bool:
    shape = layer.weight_shape or ()
    reads = 1
    for size in shape[1:]:
        reads *= size
    return not names.transposed and len(shape) in {2, 3, 4} and reads <= MOST_INPUTS


def _read(
    program: Program,
    step: Step,
    values: Values,
    layer: Layer,
    groups: int,
    draw: torch.Generator,
) -> Tensor:
    """Return what the channels of each group read at some positions: (G, positions, K)."""
    args, kwargs = program.arguments(step, values, {})
    x: Tensor = args[0]
    shape = layer.weight_shape or ()
    if len(shape) == 2:
        rows = x.reshape(1, -1, shape[1])
    else:
        patches = _patches(x, shape, args, kwargs)
        split = patches.reshape(len(patches), groups, -1, patches.shape[-1])
        rows = split.permute(1, 0, 3, 2).flatten(1, 2)
    if rows.shape[1] > POSITIONS:
        chosen = torch.randint(rows.shape[1], (POSITIONS,), generator=draw)
        rows = rows[:, chosen]
    return rows.contiguous()


def _patches(
    x: Tensor,
    shape: tuple[int, ...],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> Tensor:
    """Return the inputs of a convolution at each of L positions: (N, channels x taps, L)."""
    kernel = shape[2:]
    given = dict(zip(("stride", "padding", "dilation"), args[3:6], strict=False)) | kwargs
    ones = (1,) * len(kernel)
    stride, dilation = (_sizes(given.get(key, ones), ones) for key in ("stride", "dilation"))
    padding = given.get("padding", 0)
    if isinstance(padding, str):
        totals = [d * (k - 1) * (padding == "same") for d, k in zip(dilation, kernel, strict=True)]
        widths = [(t // 2, t - t // 2) for t in totals]
    else:
        widths = [(p, p) for p in _sizes(padding, ones)]
    if x.ndim < len(shape):
        x = x[None]
    x = pad(x, [w for pair in reversed(widths) for w in pair])
    if len(kernel) == 1:  # a row of an image
        x, kernel = x[:, :, None], (1, *kernel)
        stride, dilation = (1, *stride), (1, *dilation)
    return unfold(x, kernel, dilation=dilation, stride=stride)


def _sizes(value: object, like: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * len(like)
    assert isinstance(value, list | tuple)
    return tuple(value) if len(value) == len(like) else tuple(value) * len(like)
