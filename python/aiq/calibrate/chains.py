"""Synthetic networks that the calibration times: random chains, none of them a known network.

Every program is drawn from a generator seeded with its own name, so a calibration that goes on
tomorrow times the same ones. Inputs come in few shapes, since compilers cache what they generate.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import nn

_LAYERS = (2, 10)  # fewest and most of a chain: the lengths tell a layer's start from a run's
_MOST_FLOPS = 2.5e8  # of a layer: a few milliseconds on one core
_MOST_ACTIVATIONS = 2e6  # elements that a layer reads and writes
_MOST_WEIGHTS = 2.4e6  # elements of a layer

_IMAGES = (  # batch, channels, height and width
    (1, 3, 64),
    (1, 3, 160),
    (1, 16, 28),
    (1, 24, 56),
    (1, 32, 112),
    (1, 64, 14),
    (1, 96, 28),
    (1, 160, 7),
    (1, 320, 14),
    (4, 3, 40),
    (4, 32, 28),
    (8, 128, 7),
    (16, 16, 16),
    (16, 48, 14),
)
_ROWS = ((1, 256), (1, 1280), (16, 512), (49, 384), (128, 192), (197, 256), (400, 128))
_HEAVY = ((1, 2048), (4, 1536))  # rows whose weights leave the caches


@dataclass(frozen=True, slots=True)
class Program:
    """A network to time.

    Attributes
    ----------
    name
        Family and number; says all about the program.
    module, inputs
        The network in evaluation mode and the arguments of one call.
    formats
        Format name by layer name.
    """

    name: str
    module: nn.Module
    inputs: torch.Tensor
    formats: Mapping[str, str]


def names(formats: Sequence[str], count: int) -> list[str]:
    """Return the names of the programs of a calibration.

    Parameters
    ----------
    formats
        Names of the formats that the runtime has kernels for, float32 first.
    count
        Programs of each operator class and format.
    """
    uniform = [
        f"{family}/{fmt}/{i}" for i in range(count) for family in _WEIGHTED for fmt in formats
    ]
    others = [
        f"{family}/{fmt}/{i}"
        for i in range(max(1, count // 3))
        for family in _OTHERS
        for fmt in formats
    ]
    mixed = [
        f"{family}/{'+'.join(formats)}/{i}"
        for i in range(2 * count if len(formats) > 1 else 0)
        for family in _MIXED
    ]
    return uniform + others + mixed


def program(name: str) -> Program:
    """Return the program called `name`."""
    family, formats, _ = name.split("/")
    rng = Random(name)
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    module, shape = {**_WEIGHTED, **_OTHERS, **_MIXED}[family](rng)
    with torch.no_grad():
        for parameter in module.parameters():  # activations neither grow nor die along the chain
            bound = math.sqrt(3 / max(1, parameter[0].numel())) if parameter.dim() > 1 else 0.1
            parameter.uniform_(-bound, bound, generator=torch_rng)
    layers = [
        path for path, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    choices = formats.split("+")
    return Program(
        name,
        module.eval(),
        torch.rand(shape, generator=torch_rng),
        {layer: rng.choice(choices) for layer in layers},
    )


Built = tuple[nn.Module, tuple[int, ...]]


def _log_uniform(rng: Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _channels(rng: Random, low: int = 8, high: int = 768) -> int:
    """Mostly multiples of 8, as networks have them."""
    value = _log_uniform(rng, low, high)
    return 8 * max(1, round(value / 8)) if rng.random() < 0.85 else max(1, round(value))


class _Walk:
    """Appends convolutions that fit the limits of a layer."""

    def __init__(self, rng: Random, shape: tuple[int, int, int]) -> None:
        self.rng = rng
        self.batch, self.channels, self.size = shape
        self.layers: list[nn.Module] = []

    def step(self, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> bool:
        """Append a convolution and a ReLU if it is within the limits."""
        size = -(-self.size // stride)
        weights = outputs * self.channels // groups * kernel**2
        flops = 2 * self.batch * size**2 * weights
        elements = self.batch * (self.channels * self.size**2 + outputs * size**2)
        if (
            flops > _MOST_FLOPS
            or weights > _MOST_WEIGHTS
            or elements > _MOST_ACTIVATIONS
            or size < 4
        ):
            return False
        self.layers += [
            nn.Conv2d(self.channels, outputs, kernel, stride, kernel // 2, groups=groups),
            nn.ReLU(),
        ]
        self.channels, self.size = outputs, size
        return True

    def module(self) -> nn.Module:
        """Return the chain."""
        return nn.Sequential(*self.layers)


def _chain(rng: Random, step: Callable[[_Walk], bool], least_channels: int = 0) -> Built:
    images = [shape for shape in _IMAGES if shape[1] >= least_channels]
    shape = rng.choice(images)
    walk = _Walk(rng, shape)
    steps, length = 0, rng.randint(*_LAYERS)
    while steps < length:
        steps += step(walk)
    batch, channels, size = shape
    return walk.module(), (batch, channels, size, size)


def _conv(rng: Random) -> Built:
    def step(walk: _Walk) -> bool:
        kernel, stride = rng.choice((3, 3, 3, 5)), rng.choice((1, 1, 1, 2))
        return walk.step(_channels(rng, high=384), kernel, stride)

    return _chain(rng, step)


def _pointwise(rng: Random) -> Built:
    return _chain(rng, lambda walk: walk.step(_channels(rng), 1))


def _depthwise(rng: Random) -> Built:
    def step(walk: _Walk) -> bool:
        kernel, stride = rng.choice((3, 3, 5, 7)), rng.choice((1, 1, 1, 2))
        stride = stride if walk.size >= 14 else 1
        return walk.step(walk.channels, kernel, stride, walk.channels)

    return _chain(rng, step, least_channels=8)


def _grouped(rng: Random) -> Built:
    width = rng.choice((8, 16, 16, 24, 32))
    batch, channels, size = rng.choice([shape for shape in _IMAGES if shape[1] >= 48])
    channels = channels // width * width
    walk = _Walk(rng, (batch, channels, size))
    for _ in range(rng.randint(*_LAYERS)):
        walk.step(channels, 3, 1, channels // width)
    return walk.module(), (batch, channels, size, size)


def _linear(rng: Random) -> Built:
    heavy = rng.random() < 0.25
    rows, features = rng.choice(_HEAVY if heavy else _ROWS)
    layers: list[nn.Module] = []
    width = features
    length = rng.randint(*_LAYERS)
    while len(layers) < 2 * length:
        outputs = _channels(rng, 1024 if heavy else 32, 2048)
        small = width * outputs <= _MOST_WEIGHTS and 2 * rows * width * outputs <= _MOST_FLOPS
        if heavy or small:
            layers += [nn.Linear(width, outputs), nn.ReLU()]
            width = outputs
    return nn.Sequential(*layers), (rows, features)


_WEIGHTED: Mapping[str, Callable[[Random], Built]] = {
    "conv": _conv,
    "pointwise": _pointwise,
    "depthwise": _depthwise,
    "grouped": _grouped,
    "linear": _linear,
}


class _Bottleneck(nn.Module):
    """Expand, filter by depth, weigh the channels, project, add: everything fused or between."""

    def __init__(self, rng: Random, channels: int) -> None:
        super().__init__()
        wide = channels * rng.choice((2, 4))
        self.expand = nn.Conv2d(channels, wide, 1)
        self.filter = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.project = nn.Conv2d(wide, channels, 1)
        self.weigh = rng.random() < 0.5
        if self.weigh:
            self.squeeze = nn.Conv2d(wide, max(8, wide // 8), 1)
            self.excite = nn.Conv2d(max(8, wide // 8), wide, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.filter(torch.relu(self.expand(x))))
        if self.weigh:
            mean = y.mean((2, 3), keepdim=True)
            y = y * torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))
        z: torch.Tensor = x + self.project(y)
        return z


class _Residual(nn.Module):
    """Two convolutions around which the input passes."""

    def __init__(self, rng: Random, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, rng.choice((1, 3)), padding="same")
        self.second = nn.Conv2d(channels, channels, rng.choice((1, 3)), padding="same")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class _Branches(nn.Module):
    """Two paths whose results are concatenated and, perhaps, shuffled."""

    def __init__(self, rng: Random, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.left = nn.Conv2d(channels, half, 1)
        self.right = nn.Conv2d(channels, channels - half, 1)
        self.shuffle = rng.random() < 0.5 and channels % 2 == 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], dim=1)
        if self.shuffle:
            n, c, h, w = y.shape
            y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return y


class _Pool(nn.Module):
    def __init__(self, rng: Random, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        kinds: tuple[Callable[[], nn.Module], ...] = (
            lambda: nn.MaxPool2d(3, 1, 1),
            lambda: nn.AvgPool2d(3, 1, 1),
        )
        self.pool = rng.choice(kinds)()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.pool(torch.relu(self.conv(x)))
        return y


class _Attention(nn.Module):
    """Attention and a perceptron, each behind a norm and a residual addition."""

    def __init__(self, rng: Random, width: int) -> None:
        super().__init__()
        self.heads = 4
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.fused = rng.random() < 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-2, -1) * 0.125, dim=-1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(n, t, c))
        z: torch.Tensor = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return z


class _Permuted(nn.Module):
    """A depthwise convolution, then a norm and linear layers on channels last."""

    def __init__(self, rng: Random, channels: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 3 * channels), nn.Linear(3 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.filter(x).permute(0, 2, 3, 1))
        y = self.down(nn.functional.gelu(self.up(y)))
        z: torch.Tensor = x + y.permute(0, 3, 1, 2)
        return z


_BLOCK_IMAGES = ((1, 24, 56), (1, 64, 14), (1, 96, 28), (1, 160, 7), (4, 32, 28), (8, 128, 7))
_TOKENS = ((1, 49, 96), (1, 197, 128), (4, 64, 128))


def _blocks(kind: Callable[[Random, int], nn.Module], most: int) -> Callable[[Random], Built]:
    def build(rng: Random) -> Built:
        batch, channels, size = rng.choice(_BLOCK_IMAGES)
        blocks = [kind(rng, channels) for _ in range(rng.randint(1, most))]
        return nn.Sequential(*blocks), (batch, channels, size, size)

    return build


def _tokens(rng: Random) -> Built:
    batch, tokens, width = rng.choice(_TOKENS)
    blocks = (_Attention(rng, width) for _ in range(rng.randint(1, 3)))
    return nn.Sequential(*blocks), (batch, tokens, width)


_OTHERS: Mapping[str, Callable[[Random], Built]] = {
    "pool": _blocks(_Pool, 5),
    "branches": _blocks(_Branches, 4),
    "attention": _tokens,
    "permuted": _blocks(_Permuted, 3),
}

_MIXED: Mapping[str, Callable[[Random], Built]] = {
    "bottleneck": _blocks(_Bottleneck, 3),
    "residual": _blocks(_Residual, 4),
    "chain": _pointwise,
}
