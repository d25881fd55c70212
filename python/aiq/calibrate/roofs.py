"""The roofs of this machine: the fastest kernel of each dtype, and how fast memory is read.

Peaks are those of PyTorch's own kernels. In float32 that is oneDNN's or MKL's: MKL's products take
AVX2 where AMD's processors have AVX-512, half of what the runtimes' kernels reach.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aiq.hardware import MemoryLevel

Clock = Callable[[], float]

# A call lasts a few milliseconds at most, so that some call finds the processors free on a machine
# that has other work as well.
_SIZE = 512  # of the square products: large enough for every kernel's blocking
_WINDOW = 16 << 20  # bytes that a call reads
_SECONDS = 0.3  # at least, per kernel or working set
_ROUNDS = 5


def best_seconds(
    call: Callable[[], object], seconds: float = _SECONDS, clock: Clock = time.perf_counter
) -> float:
    """Return the shortest time of a call, over `seconds` and at least five calls."""
    call()
    best, rounds, start = float("inf"), 0, clock()
    while rounds < _ROUNDS or clock() - start < seconds:
        before = clock()
        call()
        best = min(best, clock() - before)
        rounds += 1
    return best


def peak_gflops(dtype: str) -> float | None:
    """Return the speed of the fastest matrix product in `dtype` in GFLOP/s (GOP/s for int8).

    ``None`` if no kernel of this machine computes in it.
    """
    rates: list[float] = []
    for kernel in _KERNELS[dtype]:
        try:
            call = kernel(_SIZE)
            call()
        except (RuntimeError, AttributeError, NotImplementedError):  # no such kernel here
            continue
        rates.append(2 * _SIZE**3 / best_seconds(call) / 1e9)
    return max(rates, default=None)


DTYPES = ("fp32", "bf16", "int8")


def _float_product(dtype: torch.dtype) -> Callable[[int], Callable[[], object]]:
    def kernel(size: int) -> Callable[[], object]:
        left, right = (torch.rand(size, size).to(dtype) for _ in range(2))
        return lambda: torch.mm(left, right)

    return kernel


def _linear(dtype: torch.dtype) -> Callable[[int], Callable[[], object]]:
    """Return the linear layer that Inductor calls: oneDNN's."""

    def kernel(size: int) -> Callable[[], object]:
        ops = torch.ops.mkldnn
        left, right = (torch.rand(size, size).to(dtype) for _ in range(2))
        weight = ops._reorder_linear_weight(right, size)
        return lambda: ops._linear_pointwise(left, weight, None, "none", [], "")

    return kernel


def _codes(size: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.rand(size, size) * 100).to(dtype)


def _linear_int8(size: int) -> Callable[[], object]:
    """Return the quantised linear layer that Inductor calls: unsigned by signed bytes."""
    ops = torch.ops.onednn
    weight = ops.qlinear_prepack(_codes(size, torch.int8), [size, size])
    scales, zeros = torch.full((size,), 1e-3), torch.zeros(size, dtype=torch.int64)
    codes = _codes(size, torch.uint8)
    rest: tuple[Any, ...] = (None, 0.1, 0, torch.uint8, "none", [], "")
    return lambda: ops.qlinear_pointwise(codes, 0.1, 0, weight, scales, zeros, *rest)


def _product_int8(size: int) -> Callable[[], object]:
    left, right = (_codes(size, torch.int8) for _ in range(2))
    return lambda: torch._int_mm(left, right)


_KERNELS: dict[str, tuple[Callable[[int], Callable[[], object]], ...]] = {
    "fp32": (_float_product(torch.float32), _linear(torch.float32)),
    "bf16": (_float_product(torch.bfloat16), _linear(torch.bfloat16)),
    "int8": (_linear_int8, _product_int8),
}


@dataclass(frozen=True, slots=True)
class Sweep:
    """Read bandwidth by working set.

    Attributes
    ----------
    kib
        Size of each working set in KiB, all threads together, ascending.
    gbps
        Bandwidth at which all threads together read it again and again, in GB/s.
    """

    kib: tuple[float, ...]
    gbps: tuple[float, ...]


def working_sets(threads: int, largest_kib: float) -> list[float]:
    """Return the sizes to sweep in KiB: two per doubling, from 8 KiB a thread."""
    steps = int(2 * np.log2(largest_kib / (8 * threads)))
    return [round(8 * threads * 2 ** (i / 2)) for i in range(steps + 1)]


def read_gbps(kib: float, threads: int) -> float:
    """Return how fast `threads` threads read a working set again and again, each its own share."""
    share = max(1024, int(kib * 256 / threads))  # float32 elements a thread
    window = min(share, _WINDOW // (4 * threads))
    repeats = max(1, _WINDOW // (4 * threads * share))
    data = torch.ones(threads, share)
    # Dimension 1 has stride 0: every pass reads the same memory.
    views = cycle(
        data[:, start : start + window].unsqueeze(1).expand(threads, repeats, window)
        for start in range(0, share - window + 1, window)
    )
    for _ in range(share // window):
        next(views).sum(dim=2)
    seconds = best_seconds(lambda: next(views).sum(dim=2), seconds=0.05)
    return 4 * window * threads * repeats / seconds / 1e9


def levels(sweep: Sweep, memory_kib: float) -> tuple[MemoryLevel, ...]:
    """Return the memory levels that a sweep shows, near to far.

    A level is a run of working sets of about the same bandwidth, the runs chosen to minimise the
    squared error of log bandwidth plus a price per level. It ends where the bandwidth crosses the
    geometric mean of its own and of the next level's. What a processor reports of its caches does
    not matter: a virtual machine gets a part of them.

    Parameters
    ----------
    sweep
        Bandwidth by working set; the largest must be beyond every cache.
    memory_kib
        Size of the last level.
    """
    # Reading more never goes faster: a dip is somebody else's use of the machine.
    speed = np.maximum.accumulate(np.asarray(sweep.gbps)[::-1])[::-1]
    logs = np.log(speed)
    price = _LEVEL_PRICE
    while len(ends := _segments(logs, price)) > _MOST_LEVELS:
        price *= 1.5
    starts = [0, *ends[:-1]]
    plateaus = [float(np.median(speed[a:b])) for a, b in zip(starts, ends, strict=True)]
    found = []
    for index, plateau in enumerate(plateaus):
        if index == len(plateaus) - 1:
            found.append(MemoryLevel("DRAM", round(memory_kib), _round(float(speed[-1]))))
            break
        middle = 0.5 * (np.log(plateau) + np.log(plateaus[index + 1]))
        last = int(np.flatnonzero(logs >= middle)[-1])
        size = float(
            np.exp(np.interp(-middle, -logs[last : last + 2], np.log(sweep.kib[last : last + 2])))
        )
        found.append(MemoryLevel(f"L{index + 1}", round(size), _round(plateau)))
    return tuple(found)


_MOST_LEVELS = 4
_LEVEL_PRICE = 0.05
"""A level is worth its price if it explains a drop of about 20 % over two doublings."""


def _segments(logs: NDArray[np.float64], level_price: float) -> list[int]:
    """Return where the runs of a piecewise constant fit end, by dynamic programming."""
    count, least = len(logs), 3
    best = [0.0] + [float("inf")] * count
    previous = [0] * (count + 1)
    for end in range(least, count + 1):
        for start in range(end - least + 1):
            run = logs[start:end]
            price = best[start] + float(((run - np.median(run)) ** 2).sum()) + level_price
            if price < best[end]:
                best[end], previous[end] = price, start
    ends = [count]
    while previous[ends[0]]:
        ends.insert(0, previous[ends[0]])
    return ends


def _round(value: float) -> float:
    return float(f"{value:.4g}")
