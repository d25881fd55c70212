"""The roofs of this machine: the peak of each dtype, and the bandwidth of each memory level.

Peaks are measured with PyTorch's own kernels. Its float32 products come from MKL or oneDNN. On AMD
processors MKL uses AVX2 even if there is AVX-512, and reaches half of what other kernels reach;
therefore the faster of the two counts.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aiq.hardware import MemoryLevel

Clock = Callable[[], float]

# A call lasts a few milliseconds at most, so that even on a shared machine some call runs while no
# other program uses the processors.
_SIZE = 512  # rows and columns of the square matrices: large enough for every kernel's blocking
_WINDOW = 16 << 20  # bytes that one call reads
_SECONDS = 0.3  # least time spent on each kernel
_ROUNDS = 5  # least number of calls


def best_seconds(
    call: Callable[[], object], seconds: float = _SECONDS, clock: Clock = time.perf_counter
) -> float:
    """Return the least seconds of a call, repeated for `seconds` and at least five times."""
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

    ``None`` if this machine has no kernel for the dtype.
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


def _float_product(dtype: torch.dtype) -> Callable[[int], Callable[[], object]]:
    def kernel(size: int) -> Callable[[], object]:
        left, right = (torch.rand(size, size).to(dtype) for _ in range(2))
        return lambda: torch.mm(left, right)

    return kernel


def _linear(dtype: torch.dtype) -> Callable[[int], Callable[[], object]]:
    """Return oneDNN's linear layer, which Inductor calls."""

    def kernel(size: int) -> Callable[[], object]:
        ops = torch.ops.mkldnn
        left, right = (torch.rand(size, size).to(dtype) for _ in range(2))
        weight = ops._reorder_linear_weight(right, size)
        return lambda: ops._linear_pointwise(left, weight, None, "none", [], "")

    return kernel


def _codes(size: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.rand(size, size) * 100).to(dtype)


def _linear_int8(size: int) -> Callable[[], object]:
    """Return oneDNN's product of unsigned activations and signed weights, which Inductor calls."""
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
        Size of each working set in KiB, summed over the threads, ascending.
    gbps
        Bandwidth in GB/s at which all threads together read each working set repeatedly.
    """

    kib: tuple[float, ...]
    gbps: tuple[float, ...]


def working_sets(threads: int, largest_kib: float) -> list[float]:
    """Return the sizes to sweep in KiB: two for each doubling, from 8 KiB per thread."""
    steps = int(2 * np.log2(largest_kib / (8 * threads)))
    return [round(8 * threads * 2 ** (i / 2)) for i in range(steps + 1)]


def read_gbps(kib: float, threads: int) -> float:
    """Return the bandwidth in GB/s of `threads` threads that read equal shares of a working set."""
    share = max(1024, int(kib * 256 / threads))  # float32 elements per thread
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


def levels(
    sweep: Sweep, memory_kib: float, caches: Mapping[str, float] | None = None
) -> tuple[MemoryLevel, ...]:
    """Return the memory levels that a sweep shows, from the nearest to the farthest.

    Parameters
    ----------
    sweep
        Bandwidth by working set; the largest working set must not fit any cache.
    memory_kib
        Size of the last level in KiB.
    caches
        Cache level -> KiB as the system reports it (`aiq.machine.caches`). Without it, sizes are
        those at which the bandwidth falls.
    """
    # A larger working set is never read faster; where it seems to be, another program interfered.
    speed = np.maximum.accumulate(np.asarray(sweep.gbps)[::-1])[::-1]
    found = _reported(sweep, speed, caches) if caches else _seen(sweep, speed)
    return (*found, MemoryLevel("DRAM", round(memory_kib), four_digits(float(speed[-1]))))


def _reported(
    sweep: Sweep, speed: NDArray[np.float64], caches: Mapping[str, float]
) -> list[MemoryLevel]:
    """Return the caches that the system reports, each with the median over working sets in it."""
    found: list[MemoryLevel] = []
    inside = 0.0  # KiB of the level before
    for name, size in caches.items():
        fits = [s for kib, s in zip(sweep.kib, speed, strict=True) if inside < kib <= _FULL * size]
        if fits and size > inside:
            found.append(MemoryLevel(name, size, four_digits(float(np.median(fits)))))
            inside = size
    return found


def _seen(sweep: Sweep, speed: NDArray[np.float64]) -> list[MemoryLevel]:
    """Return the caches that the bandwidth shows.

    A level is a run of working sets of about the same bandwidth. The runs minimise the squared
    error of the logarithm of the bandwidth plus a price for each level. A level ends where the
    bandwidth crosses the geometric mean of its own bandwidth and that of the next level.
    """
    logs = np.log(speed)
    price = _LEVEL_PRICE
    while len(ends := _segments(logs, price)) > _MOST_LEVELS:
        price *= 1.5
    starts = [0, *ends[:-1]]
    plateaus = [float(np.median(speed[a:b])) for a, b in zip(starts, ends, strict=True)]
    found = []
    for index, (plateau, after) in enumerate(pairwise(plateaus)):
        middle = 0.5 * (np.log(plateau) + np.log(after))
        last = int(np.flatnonzero(logs >= middle)[-1])
        size = float(
            np.exp(np.interp(-middle, -logs[last : last + 2], np.log(sweep.kib[last : last + 2])))
        )
        found.append(MemoryLevel(f"L{index + 1}", round(size), four_digits(plateau)))
    return found


_FULL = 0.75
"""Share of a cache that a working set may fill: the rest holds code, stack and other data."""
_MOST_LEVELS = 4
_LEVEL_PRICE = 0.05
"""Price of a level: it pays if the level explains a drop of about 20 % over two doublings."""


def _segments(logs: NDArray[np.float64], level_price: float) -> list[int]:
    """Return the end of each run of a piecewise constant fit, found by dynamic programming."""
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


def four_digits(value: float) -> float:
    """Return a number with four significant digits, as profiles keep it."""
    return float(f"{value:.4g}")
