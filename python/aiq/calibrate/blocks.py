"""Blocks of layers in random shapes, with the operators between layers of networks."""

import math
from collections.abc import Callable, Mapping
from random import Random

import torch
from torch import nn

Built = tuple[nn.Module, tuple[int, ...]]
"""A module and the shape of its input."""


def log_uniform(rng: Random, low: float, high: float) -> float:
    """Return a number whose logarithm is uniformly distributed."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def channels(rng: Random, low: float, high: float) -> int:
    """Return a number of channels; like those of networks, most are multiples of 16 or 8."""
    value = log_uniform(rng, low, high)
    multiple = rng.choice((16,) * 12 + (8,) * 6 + (2,) * 2)
    return multiple * max(1, round(value / multiple))


def activation(rng: Random) -> Callable[[], nn.Module]:
    """Return an activation function."""
    kinds: tuple[Callable[[], nn.Module], ...] = (nn.Hardswish, nn.SiLU, nn.GELU, nn.Sigmoid)
    clamps: tuple[Callable[[], nn.Module], ...] = (nn.ReLU, nn.ReLU, nn.ReLU6)
    return rng.choice(clamps) if rng.random() < 0.75 else rng.choice(kinds)


class _Residual(nn.Module):
    """A residual block of two or three convolutions, with a convolution on the skip if needed."""

    def __init__(
        self, rng: Random, inputs: int, outputs: int, stride: int, bottlenecks: float = 0.5
    ) -> None:
        super().__init__()
        if rng.random() < bottlenecks:
            middle = outputs // rng.choice((1, 2, 4)) // 8 * 8 or 8
            width = rng.choice((middle, middle, 8))
            groups = middle // width if middle % width == 0 else 1
            parts = [
                nn.Conv2d(inputs, middle, 1),
                nn.ReLU(),
                nn.Conv2d(middle, middle, 3, stride, 1, groups=groups),
                nn.ReLU(),
                nn.Conv2d(middle, outputs, 1),
            ]
        else:
            parts = [
                nn.Conv2d(inputs, outputs, 3, stride, 1),
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, 1, 1),
            ]
        self.path = nn.Sequential(*parts)
        same = inputs == outputs and stride == 1
        self.around = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.path(x) + self.around(x))


class _Inverted(nn.Module):
    """An inverted residual block, with or without squeeze and excitation."""

    def __init__(self, rng: Random, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide, kernel = inputs * rng.choice((2, 3, 4, 6)), rng.choice((3, 3, 5))
        kind = activation(rng)
        self.expand, self.act1 = nn.Conv2d(inputs, wide, 1), kind()
        self.filter = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide)
        self.act2 = kind()
        self.project = nn.Conv2d(wide, outputs, 1)
        self.weigh = rng.random() < 0.5
        self.add = inputs == outputs and stride == 1
        if self.weigh:
            few = max(8, wide // rng.choice((4, 16, 24)))
            self.squeeze, self.excite = nn.Conv2d(wide, few, 1), nn.Conv2d(few, wide, 1)
            self.act3 = rng.choice((nn.ReLU, nn.SiLU))()
            self.gate = rng.choice((nn.Sigmoid, nn.Hardsigmoid))()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act2(self.filter(self.act1(self.expand(x))))
        if self.weigh:
            mean = nn.functional.adaptive_avg_pool2d(y, 1)
            y = self.gate(self.excite(self.act3(self.squeeze(mean)))) * y
        z: torch.Tensor = self.project(y)
        return x + z if self.add else z


class _Branches(nn.Module):
    """Two paths whose results are concatenated and, in some draws, shuffled by channel."""

    def __init__(self, rng: Random, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.split = inputs == outputs and stride == 1 and inputs % 2 == 0 and rng.random() < 0.5
        self.shuffle = outputs % 2 == 0 and (self.split or rng.random() < 0.5)
        read = inputs // 2 if self.split else inputs
        self.right = nn.Sequential(
            nn.Conv2d(read, half, 1),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, stride, 1, groups=rng.choice((1, half))),
            nn.ReLU(),
        )
        self.left = (
            nn.Identity()
            if self.split
            else nn.Sequential(nn.Conv2d(inputs, outputs - half, 1, stride), nn.ReLU())
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=1) if self.split else (x, x)
        y = torch.cat([self.left(left), self.right(right)], dim=1)
        if self.shuffle:
            n, c, h, w = y.shape
            y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return y


class _Pool(nn.Module):
    """A convolution followed by a pooling."""

    def __init__(self, rng: Random, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, rng.choice((1, 3)), padding="same")
        kind, size = rng.choice((nn.MaxPool2d, nn.MaxPool2d, nn.AvgPool2d)), rng.choice((2, 3))
        self.pool = kind(size, stride, size // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.pool(torch.relu(self.conv(x)))
        return y


class _Permuted(nn.Module):
    """A depthwise convolution, then a norm and two linear layers in channels-last layout."""

    def __init__(self, rng: Random, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        kernel, wide = rng.choice((3, 7, 7)), inputs * rng.choice((2, 4))
        self.filter = nn.Conv2d(inputs, inputs, kernel, padding=kernel // 2, groups=inputs)
        self.norm = nn.LayerNorm(inputs)
        self.up, self.down = nn.Linear(inputs, wide), nn.Linear(wide, inputs)
        self.next = nn.Conv2d(inputs, outputs, 2, 2) if stride == 2 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.filter(x).permute(0, 2, 3, 1))
        y = self.down(nn.functional.gelu(self.up(y)))
        z: torch.Tensor = self.next(x + y.permute(0, 3, 1, 2))
        return z


class _Attention(nn.Module):
    """A transformer block: attention and a feed-forward part, each with a norm and a skip."""

    def __init__(self, rng: Random, width: int) -> None:
        super().__init__()
        self.heads = width // rng.choice((32, 64))
        self.before = rng.random() < 0.6
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        wide = width * rng.choice((2, 4))
        self.up, self.down = nn.Linear(width, wide), nn.Linear(wide, width)
        self.fused = rng.random() < 0.7

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Apply self-attention over all tokens."""
        n, t, c = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-2, -1) * 0.125, dim=-1) @ v
        z: torch.Tensor = self.out(y.transpose(1, 2).reshape(n, t, c))
        return z

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.before:
            x = x + self.attend(self.norm1(x))
            z: torch.Tensor = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
            return z
        x = self.norm1(x + self.attend(x))
        y: torch.Tensor = self.norm2(x + self.down(nn.functional.gelu(self.up(x))))
        return y


_IMAGES = (  # batch, height and width
    *((1, size) for size in (7, 8, 14, 28, 32, 56, 112)),
    *((2, 20), (4, 14), (4, 56), (8, 7), (8, 28), (16, 14), (16, 28), (16, 56)),
    *((32, 7), (32, 16), (64, 8), (64, 32), (128, 4), (128, 8), (128, 16)),
)
_MOST_FLOPS = 2e9  # FLOPs of all layers of a program


def _blocks(
    kind: Callable[[Random, int, int, int], nn.Module], widest: int
) -> Callable[[Random], Built]:
    def build(rng: Random) -> Built:
        while True:
            batch, size = rng.choice(_IMAGES)
            first = width = channels(rng, 16, widest)
            side, parts = size, []
            for _ in range(rng.randint(1, 4)):
                stride = rng.choice((1, 1, 2)) if side >= 14 else 1
                same = stride == 1 and (kind is _Permuted or rng.random() < 0.7)
                outputs = width if same else channels(rng, 16, widest)
                parts.append(kind(rng, width, outputs, stride))
                width, side = outputs, side // stride
            module = nn.Sequential(*parts)
            weights = sum(p.numel() for p in module.parameters())
            # This is an upper bound, since the resolution falls along the chain.
            if 2 * batch * size**2 * weights < _MOST_FLOPS and batch * size**2 * first < 4e6:
                return module, (batch, first, size, size)

    return build


def _tokens(rng: Random) -> Built:
    while True:
        batch, tokens = rng.choice((1, 1, 2, 4)), rng.choice((16, 49, 64, 128, 197, 256))
        heads = rng.choice((1, 2, 3, 4, 6, 8, 12))
        width = 64 * heads
        layers = rng.randint(1, 3)
        if 24.0 * batch * tokens * layers * width**2 < 2 * _MOST_FLOPS:
            parts = (_Attention(rng, width) for _ in range(layers))
            return nn.Sequential(*parts), (batch, tokens, width)


def _stem(rng: Random) -> Built:
    """Return the first layers of a network: an image becomes channels."""
    batch, size = rng.choice(((1, 32), (1, 64), (1, 160), (1, 224), (1, 256), (4, 64), (8, 112)))
    kernel, stride = rng.choice(((3, 1), (3, 2), (3, 2), (7, 2), (4, 4), (8, 8), (16, 16)))
    width = channels(rng, 16, 96 if stride <= 2 else 512)
    if stride == 1:
        size = min(size, 64)
    padding = kernel // 2 if stride <= 2 else 0
    parts: list[nn.Module] = [nn.Conv2d(3, width, kernel, stride, padding), activation(rng)()]
    if rng.random() < 0.5 and stride <= 2:
        parts += [nn.MaxPool2d(3, 2, 1)]
    parts += [nn.Conv2d(width, channels(rng, 16, 128), 1), nn.ReLU()]
    return nn.Sequential(*parts), (batch, 3, size, size)


def _head(rng: Random) -> Built:
    """Return the last layers of a network: channels become classes."""
    batch, size = rng.choice((1, 1, 8, 16)), rng.choice((4, 7, 8, 14))
    width = channels(rng, 32, 768)
    wide = channels(rng, 64, 1536)
    parts = [nn.Conv2d(width, wide, 1), activation(rng)(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    parts += [nn.Linear(wide, channels(rng, 10, 2000))]
    return nn.Sequential(*parts), (batch, width, size, size)


def _thumbnails(rng: Random) -> Built:
    """Return a residual network for batches of images of 32 x 32 pixels, or the end of one."""
    size, batch = rng.choice((32, 32, 16)), rng.choice((64, 96, 128))
    first = width = channels(rng, 512 / size, 1024 / size)
    parts: list[nn.Module] = []
    if size == 32:
        parts, first = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()], 3
    strides = [1, 1, 2, 1]
    rng.shuffle(strides)
    for stride in strides:
        parts.append(_Residual(rng, width, width * stride, stride, bottlenecks=0.0))
        width *= stride
    return nn.Sequential(*parts), (batch, first, size, size)


THUMBNAILS = "thumbnails"
"""Family of networks for small images, from which only brief calibrations draw."""

FAMILIES: Mapping[str, Callable[[Random], Built]] = {
    "residual": _blocks(_Residual, 512),
    "inverted": _blocks(_Inverted, 192),
    "branches": _blocks(_Branches, 512),
    "pool": _blocks(_Pool, 256),
    "permuted": _blocks(_Permuted, 512),
    "attention": _tokens,
    "stem": _stem,
    "head": _head,
}
"""Family -> function that draws a network of the family from a random generator."""

OWN: Mapping[str, Callable[[Random], Built]] = {THUMBNAILS: _thumbnails}
"""Families that only a brief calibration draws from."""
