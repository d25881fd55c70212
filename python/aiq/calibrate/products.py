"""Time matrix products with few rows in packed formats: what a decoder computes for a token."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TypedDict

import numpy as np
import torch
from torch import nn

from aiq import measure
from aiq.calibrate import roofs
from aiq.formats import parse
from aiq.graph import Op
from aiq.hardware.products import Product
from aiq.progress import Progress
from aiq.runtimes import Runtime, Support
from aiq.runtimes.times import Part
from aiq.typed import Count, Name, Positive

FORMATS = ("fp32", "w8", "w4", "w4g32", "w4g64")
"""Formats that are timed; others of as many bits are taken to have the rate of the next one."""

ROWS = (1, 16, 64)
"""Numbers of tokens that are computed together: a decoded one, and short prompts."""

WIDTHS = (576, 1536, 576, 192, 576, 576, 2048, 2048, 576, 24576)
"""Widths of a chain of linear layers like those of decoders of 100 million parameters and more."""

_SECONDS = 2.0  # of timing for each number of rows
_RUNS, _REPEATS = 15, 3  # of each program under the profiler; the least median counts
_MOST_START = 0.5  # largest share of the time of the smallest matrix that may be its start


class Timed(TypedDict):
    """The measured time of one product.

    Attributes
    ----------
    format, rows
        Name of the format, and number of rows of the activation.
    outputs, inputs
        Shape of the weight.
    seconds
        Time of the layer inside a program, by the runtime's profiler.
    """

    format: Name
    rows: Count
    outputs: Count
    inputs: Count
    seconds: Positive


def _chain() -> nn.Sequential:
    """Return linear layers of all shapes, each of which reads what the one before it writes."""
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(WIDTHS))).eval()


def time_products(engine: Runtime, progress: Progress) -> list[Timed]:
    """Time all shapes in all formats that `engine` packs; the result is empty if it packs none."""
    formats = [
        name for name in FORMATS if engine.support(Op.LINEAR, parse(name)) is not Support.NONE
    ]
    if engine.support(Op.LINEAR, parse("w4")) is not Support.DEQUANT:
        return []
    found: list[Timed] = []
    stage = f"time matrix products in {engine.name}"
    for step, rows in enumerate(ROWS):
        progress(stage, step, len(ROWS))
        inputs = [torch.randn(rows, WIDTHS[0]) for _ in formats]
        layers = [str(i) for i in range(len(WIDTHS) - 1)]
        chosen = [dict.fromkeys(layers, parse(name)) for name in formats]
        models = [_chain() for _ in formats]
        parts = engine.compile_many(models, inputs, chosen)
        found += _timed(dict(zip(formats, parts, strict=True)), rows)
    progress(stage, len(ROWS), len(ROWS))
    return found


def _timed(parts: Mapping[str, Part], rows: int) -> Iterable[Timed]:
    """Yield the time of each layer of programs of the same rows, which are timed in turns."""
    whole = measure.compare_timing(
        {name: part.run for name, part in parts.items()},
        min_seconds=_SECONDS,
        min_rounds=10,
        max_seconds=4 * _SECONDS,
        warmup_seconds=0.2,
        threads=torch.get_num_threads(),
    ).levelled()
    for name, part in parts.items():
        if part.profile is None:
            continue
        passes = [part.profile(_RUNS) for _ in range(_REPEATS)]
        # Profiling slows a program down, so its times are scaled to the time without the profiler.
        share = min(1.0, whole[name] / min(times.total for times in passes))
        for i, (inputs, outputs) in enumerate(pairwise(WIDTHS)):
            seconds = min(times.layers.get(str(i), 0.0) for times in passes)
            if seconds:
                yield Timed(
                    format=name,
                    rows=rows,
                    outputs=outputs,
                    inputs=inputs,
                    seconds=share * seconds,
                )


def fit_products(timed: Iterable[Timed]) -> dict[str, tuple[Product, ...]]:
    """Return, for each format, the products of each number of rows.

    The start is that of a straight line through the times over the bytes, fitted with relative
    errors. The rate of a matrix is its bytes over the rest of its time.
    """
    by_rows: defaultdict[str, defaultdict[int, list[Timed]]]
    by_rows = defaultdict(lambda: defaultdict(list))
    for row in timed:
        by_rows[row["format"]][row["rows"]].append(row)
    return {
        name: tuple(_product(rows, found) for rows, found in sorted(measured.items()))
        for name, measured in by_rows.items()
    }


def _product(rows: int, timed: Sequence[Timed]) -> Product:
    bits = parse(timed[0]["format"]).stored_bits
    elements = np.array([row["outputs"] * row["inputs"] for row in timed])
    seconds = np.array([row["seconds"] for row in timed])
    size = elements * bits / 8
    start = np.polynomial.Polynomial.fit(size, seconds, 1, w=1 / seconds)(0.0)
    start = float(np.clip(start, 0.0, _MOST_START * seconds.min()))
    gbps = size / (seconds - start) / 1e9
    sizes = map(int, np.unique(elements))
    rates = tuple((n, roofs.four_digits(float(np.median(gbps[elements == n])))) for n in sizes)
    return Product(rows, roofs.four_digits(start * 1e6), rates)
