"""Synthetic networks that the calibration times: random chains, none of which is a known network.

Every program is drawn from a generator seeded with the name of the program, so a calibration that
is continued later times the same programs. Shapes are spread evenly on a logarithmic scale within
the limits below, which cover those of known networks, because the efficiency of a layer depends on
its shape.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import nn

from aiq.calibrate import blocks
from aiq.calibrate.blocks import Built, channels, log_uniform

# Different lengths separate the time that a layer needs to start from that of a whole run.
_LAYERS = (2, 8)  # fewest and most layers of a chain
# The weights and the code of a deep chain do not stay in the nearest caches.
_MANY_LAYERS = (12, 32)  # fewest and most layers of a deep chain
_MOST_FLOPS = 1.2e9  # FLOPs of a layer: some milliseconds on one core
_MOST_IN_ALL = 3e9  # FLOPs of a chain
_MOST_ACTIVATIONS = 1.2e7  # elements that a layer reads and writes: more than most caches hold
_MOST_WEIGHTS = 4e6  # weight elements of a layer
# Height and width of images in pixels.
_SIZES = (4, 7, 8, 10, 12, 14, 16, 20, 28, 32, 40, 56, 64, 80, 112, 160, 224)
_BATCHES = (1, 1, 1, 1, 2, 4, 8, 16, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class TimedNetwork:
    """A network to time.

    Attributes
    ----------
    name
        Family, formats and number, which together define the program.
    module, inputs
        The network in evaluation mode and the arguments of one call.
    formats
        Format name by layer name.
    """

    name: str
    module: nn.Module
    inputs: torch.Tensor
    formats: Mapping[str, str]


def program_names(formats: Sequence[str], count: int) -> list[str]:
    """Return the names of the programs of a calibration, the most informative first.

    Parameters
    ----------
    formats
        Names of the formats for which the runtime has kernels, float32 first.
    count
        Programs of each operator class and format.
    """
    # A runtime with both formats can keep bfloat16 activations between integer layers.
    between = [_BETWEEN] if {"bf16", "w8a8"} <= set(formats) else []
    found = []
    for i in range(count):
        found += [f"{family}/{fmt}/{i}" for family in _CHAINS for fmt in formats]
        if i % 2 == 0:
            found += [f"{family}/{fmt}/{i}" for family in _SELDOM for fmt in formats]
            found += [f"{family}/{fmt}/{i}" for family in _FLOATING for fmt in between]
        if len(formats) > 1:
            found += [f"{family}/{'+'.join([*formats, *between])}/{i}" for family in _MIXED]
    return found


def program(name: str) -> TimedNetwork:
    """Return the program called `name`."""
    family, formats, number = name.split("/")
    # A brief calibration draws the same networks in every format: its errors cancel in speed-ups.
    rng = Random(f"{family}/{number}" if family in blocks.OWN else name)
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    module, shape = {**_CHAINS, **_SELDOM, **blocks.OWN}[family](rng)
    if len(shape) == 4 and family != "head":
        # Networks do not end in a convolution, and some runtimes have no integer kernel for a
        # convolution whose result is the output of the network.
        with torch.no_grad():
            width = module(torch.zeros(1, *shape[1:])).shape[1]
        end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
        module = nn.Sequential(module, *end)
    with torch.no_grad():
        for parameter in module.parameters():  # keeps activations of one size
            bound = math.sqrt(3 / max(1, parameter[0].numel())) if parameter.dim() > 1 else 0.1
            parameter.uniform_(-bound, bound, generator=torch_rng)
    layers = [
        path for path, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    return TimedNetwork(
        name,
        module.eval(),
        torch.rand(shape, generator=torch_rng),
        dict(zip(layers, _choose(rng, formats.split("+"), len(layers)), strict=True)),
    )


def _choose(rng: Random, formats: Sequence[str], count: int) -> list[str]:
    """Give layers formats: two in turns, scattered ones, or one run of layers for each format."""
    if len(formats) > 2 and rng.random() < 0.7:
        formats = rng.sample([name for name in formats if name != _BETWEEN], 2)
    draw = rng.random()
    if draw < 0.4 and len(formats) > 1:  # the most conversions that so many layers can have
        pair = rng.sample(formats, 2)
        return [pair[i % 2] for i in range(count)]
    if draw < 0.7:
        return [rng.choice(formats) for _ in range(count)]
    order = rng.sample(formats, len(formats))
    cuts = sorted(rng.randint(0, count) for _ in order[1:])
    return [order[sum(i >= cut for cut in cuts)] for i in range(count)]


class _Walk:
    """A chain of convolutions that grows within the limits."""

    def __init__(self, rng: Random, shape: tuple[int, int, int]) -> None:
        self.rng = rng
        self.batch, self.channels, self.size = shape
        self.layers: list[nn.Module] = []
        self.length = 0
        self._flops = 0
        self._activation = blocks.activation(rng)

    def step(self, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        """Append a convolution and an activation function if the limits allow it."""
        size = -(-self.size // stride)
        weights = outputs * self.channels // groups * kernel**2
        flops = 2 * self.batch * size**2 * weights
        elements = self.batch * (self.channels * self.size**2 + outputs * size**2)
        if (
            flops > min(_MOST_FLOPS, _MOST_IN_ALL - self._flops)
            or weights > _MOST_WEIGHTS
            or elements > _MOST_ACTIVATIONS
            or size < 4
        ):
            return
        conv = nn.Conv2d(self.channels, outputs, kernel, stride, kernel // 2, groups=groups)
        self.layers += [conv, self._activation()]
        self.channels, self.size = outputs, size
        self._flops += flops
        self.length += 1


def _chain(
    rng: Random,
    step: Callable[[_Walk], None],
    multiple: int = 1,
    lengths: tuple[int, int] = _LAYERS,
) -> Built:
    while True:  # draw again if too few layers fit the limits
        batch, size = rng.choice(_BATCHES), rng.choice(_SIZES)
        width = -(-channels(rng, *_widths(size)) // multiple) * multiple
        walk = _Walk(rng, (batch, width, size))
        length = rng.randint(*lengths)
        for _ in range(8 * length):
            if walk.length < length:
                step(walk)
        if walk.length >= lengths[0]:
            return nn.Sequential(*walk.layers), (batch, width, size, size)


def _widths(size: int) -> tuple[float, float]:
    """Return the fewest and the most channels that networks have at an image size in pixels."""
    return max(8, 300 / size), min(1536, max(64, 9000 / size))


def _outputs(walk: _Walk) -> int:
    low, high = _widths(walk.size)
    return channels(walk.rng, max(low, walk.channels / 6), min(high, walk.channels * 6))


def _stride(walk: _Walk) -> int:
    return walk.rng.choice((1, 1, 1, 2)) if walk.size >= 14 else 1


def _conv_step(walk: _Walk) -> None:
    walk.step(_outputs(walk), walk.rng.choice((3, 3, 3, 3, 5, 7)), _stride(walk))


def _pointwise_step(walk: _Walk) -> None:
    # A strided pointwise layer would let the runtime skip part of the layer before it.
    walk.step(_outputs(walk), 1)


def _depthwise_step(walk: _Walk) -> None:
    walk.step(walk.channels, walk.rng.choice((3, 3, 5, 7)), _stride(walk), walk.channels)


def _any_step(walk: _Walk) -> None:
    walk.rng.choice((_conv_step, _pointwise_step, _pointwise_step, _depthwise_step))(walk)


def _grouped(rng: Random) -> Built:
    width = rng.choice((4, 8, 8, 16, 16, 24, 32, 64))

    def step(walk: _Walk) -> None:
        walk.step(walk.channels, 3, _stride(walk), walk.channels // width)

    return _chain(rng, step, multiple=2 * width)


_ROWS = (1, 1, 2, 4, 8, 16, 16, 49, 64, 100, 128, 196, 256, 400, 784, 1024, 2048, 3136)


def _linear(rng: Random) -> Built:
    rows, width = rng.choice(_ROWS), channels(rng, 64, 3072)
    features, flops = width, 0.0
    layers: list[nn.Module] = []
    length, activation = rng.randint(*_LAYERS), blocks.activation(rng)
    for _ in range(8 * length):
        outputs = channels(rng, 32, 3072)
        small = width * outputs <= _MOST_WEIGHTS
        work = 2.0 * rows * width * outputs
        if small and work < min(_MOST_FLOPS, _MOST_IN_ALL - flops) and len(layers) < 2 * length:
            layers += [nn.Linear(width, outputs), activation()]
            width, flops = outputs, flops + work
    return nn.Sequential(*layers), (rows, features)


_CHAINS: Mapping[str, Callable[[Random], Built]] = {
    "conv": lambda rng: _chain(rng, _conv_step),
    "pointwise": lambda rng: _chain(rng, _pointwise_step),
    "depthwise": lambda rng: _chain(rng, _depthwise_step),
    "grouped": _grouped,
    "linear": _linear,
    "chain": lambda rng: _chain(rng, _any_step),
}
_SELDOM: Mapping[str, Callable[[Random], Built]] = {
    "deep": lambda rng: _chain(rng, _any_step, lengths=_MANY_LAYERS),
    **blocks.FAMILIES,
}

_MIXED = (
    *("chain", "conv", "pointwise", "depthwise", "linear"),
    *("residual", "inverted", "branches", "attention"),
)
_FLOATING = (
    "inverted",
    "permuted",
    "attention",
)  # families with many operators between layers that have no integer kernels
_BETWEEN = "w8a8bf16"

__all__ = ["TimedNetwork", "log_uniform", "program", "program_names"]
