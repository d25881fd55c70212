"""Fit the time of a step to timed decoders.

A step takes ``call + blocks x block + bytes / rate + attention``. The first two terms are the same
in all formats: what a call takes, and what a block takes besides its matrices, such as norms,
rotary embeddings and residuals. The rate is that of a format, and depends on the matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from aiq.calibrate import roofs
from aiq.cost import products
from aiq.cost.pieces import FUNCTIONS
from aiq.formats import REFERENCE
from aiq.graph import Op
from aiq.graph.operators import WEIGHTED
from aiq.hardware import Hardware, plausible
from aiq.hardware.products import Product
from aiq.hardware.runtime_profile import Fit, KernelProfile, Realisation, RuntimeProfile

PROMPT, LONG = 64, 512
"""Tokens of a short and of a long prompt."""

TOKENS = 24
"""Tokens that are written after a prompt."""

KNOTS = (2**19, 2**25)
"""Elements of a small and of a large matrix, at which a profile states rates.

At rows of a prompt, an output layer that reads one row is not timed, and no other matrix may be as
large as the second. The largest one that was timed then takes its place, so that the rate of larger
matrices is that of the largest which is known.
"""

HEAD = 64
"""Width of a head."""

LEAST_WIDTH = 512
"""Width of a decoder from which attention is timed, and errors are computed."""

_ALIKE, _SURELY_ALIKE = 0.01, 1.0
"""Weight of the assumption that small and large matrices are read at the same rate.

It decides where a format was timed in one decoder only.
"""

MOST_DIFFERENT = 4.0
"""Largest ratio of the rates of small and large matrices in one format.

Decoders are timed one after the other. What slows one of them down looks like a difference between
sizes, in all formats.
"""

Rates = tuple[tuple[int, float], ...]
"""Elements of keys and values, and the GB/s at which they are read."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a decoder of the kind of Llama.

    Attributes
    ----------
    hidden, wide
        Width between blocks, and inside of the perceptron of a block.
    blocks, vocabulary
        Number of blocks, and of tokens.
    """

    hidden: int
    wide: int
    blocks: int
    vocabulary: int

    @property
    def kept_heads(self) -> int:
        """Heads of keys and values, each of which three heads of queries share.

        Decoders of today share them, and a runtime may copy shared ones for each head of queries.
        """
        return max(1, self.hidden // HEAD // 3)

    def attended(self, rows: int, context: int) -> int:
        """Return the elements of keys and values: those in the cache, or of all heads of queries.

        It is as in `aiq.cost.products.attention_seconds`, which depends on the number of rows.
        """
        return 2 * (HEAD * self.kept_heads if rows == 1 else self.hidden) * context


@dataclass(frozen=True, slots=True)
class TimedDecoder:
    """A decoder in one format, and its times.

    Attributes
    ----------
    format, sizes
        Format of all matrices, and sizes of the decoder.
    bits
        Bits of a weight as the runtime stores it.
    matrices
        Elements of each matrix; the last one is the output layer.
    rounds
        Rows that are computed together -> seconds in each round.
    long
        The same after a prompt of 512 tokens; empty in all formats but one, since attention takes
        as long whatever the format.
    logits_of_prompt
        Whether the output layer reads all tokens of a prompt, and not the last one only.
    """

    format: str
    sizes: Sizes
    bits: float
    matrices: tuple[int, ...]
    rounds: Mapping[int, Sequence[float]]
    long: Mapping[int, Sequence[float]]
    logits_of_prompt: bool

    @property
    def seconds(self) -> dict[int, float]:
        """Rows -> seconds of the fastest round."""
        return {rows: min(times) for rows, times in self.rounds.items()}

    def read(self, rows: int) -> tuple[int, ...]:
        """Return the elements of the matrices that are multiplied by so many rows."""
        return self.matrices if rows == 1 or self.logits_of_prompt else self.matrices[:-1]


def fitted_section(
    name: str, version: str, timed: Sequence[TimedDecoder], hardware: Hardware
) -> RuntimeProfile:
    """Return the section of a profile in which all time is that of calls, blocks and matrices.

    Parameters
    ----------
    name, version
        Name of the section, and version of the runtime.
    timed
        Decoders of one runtime.
    hardware
        The machine. No rate is stated that its memory and peaks forbid.
    """
    rates = _attention_rates([t for t in timed if t.long], hardware)
    found = _fit(timed, rates, hardware)
    kinds = [*map(str, {*Op} - WEIGHTED | {Op.LINEAR}), *FUNCTIONS.values()]
    kinds += ["residual", "mean", "average"]
    free = KernelProfile(start_us=0.0, memory=100.0, output_ns=0.0)
    return RuntimeProfile(
        name=name,
        version=version,
        run_overhead_us=roofs.four_digits(1e6 * found.call),
        formats=MappingProxyType({"fp32": Realisation("native", "fp32")}),
        kernels=MappingProxyType({op: MappingProxyType({"fp32": free}) for op in sorted(kinds)}),
        boundaries=MappingProxyType({}),
        fuses=(),
        fit=_errors(timed, rates, hardware),
        products=MappingProxyType(found.products),
        attention=found.attention,
    )


@dataclass(frozen=True, slots=True)
class _Coefficients:
    """What was fitted to the times of decoders.

    Attributes
    ----------
    call
        Seconds of a call.
    products
        Format -> its products with one row, and with the rows of the short prompt.
    attention
        Attention of one query, of the short prompt, and of the long one. Its start is the time of
        a block besides its matrices.
    """

    call: float
    products: dict[str, tuple[Product, ...]]
    attention: tuple[Product, ...]


def _fit(
    timed: Sequence[TimedDecoder],
    rates: Mapping[int, Rates],
    hardware: Hardware,
    alike: float = _ALIKE,
) -> _Coefficients:
    """Fit the time of a call, of a block, and of a byte in each format.

    Parameters
    ----------
    timed
        Decoders of one runtime.
    rates
        Rows -> the rates of attention.
    hardware
        The machine.
    alike
        Weight of the assumption that small and large matrices are read at the same rate.
    """
    formats = list(dict.fromkeys(t.format for t in timed))
    bits = {t.format: t.bits for t in timed}
    knots = {rows: _knots(timed, rows) for rows in (1, PROMPT)}
    solved: dict[int, NDArray[np.float64]] = {}
    for rows in (1, PROMPT):
        left = np.array([t.seconds[rows] - _attending(t, rows, rates) for t in timed])
        left = np.maximum(left, [t.seconds[rows] / 10 for t in timed])  # noise
        system = np.array([_terms(t, formats, knots[rows], t.read(rows)) for t in timed])
        if rows != 1:
            once = [_terms(t, formats, knots[1], t.matrices[len(t.read(rows)) :]) for t in timed]
            left = np.maximum(left - np.array(once)[:, 2:] @ solved[1][2:], left / 2)
            left = np.maximum(left - solved[1][0], left / 2)
            system[:, 0] = 0.0
        least = np.zeros(system.shape[1])
        fastest = [_most_gbps(name, rows, bits[name], hardware) for name in formats]
        least[2:] = np.repeat(1e-9 / np.array(fastest), 2)
        solved[rows] = _solve(system, left, least, alike)
    matrices = {
        name: tuple(
            _product(rows, knots[rows], found[2 + 2 * i :][:2]) for rows, found in solved.items()
        )
        for i, name in enumerate(formats)
    }
    blocks = [solved[1][1], solved[PROMPT][1], solved[PROMPT][1] * LONG / PROMPT]
    attention = tuple(
        Product(rows, roofs.four_digits(1e6 * block), rates[rows])
        for rows, block in zip(rates, blocks, strict=True)
    )
    return _Coefficients(float(solved[1][0]), matrices, attention)


def _knots(timed: Sequence[TimedDecoder], rows: int) -> tuple[int, int]:
    """Return the elements at which rates are stated, see `KNOTS`."""
    large = min(KNOTS[1], max(max(t.read(rows)) for t in timed))
    return min(KNOTS[0], large // 2), large


def _terms(
    timed: TimedDecoder, formats: Sequence[str], knots: Sequence[int], matrices: Sequence[int]
) -> NDArray[np.float64]:
    """Return the coefficients of the time of a decoder: those of call, block and bytes.

    The bytes of each matrix are divided between those of a small and those of a large one.
    """
    elements = np.array(matrices, np.float64)
    large = np.array([products.interpolated(int(n), knots, (0.0, 1.0)) for n in elements])
    size = elements * timed.bits / 8
    found = np.zeros(2 + 2 * len(formats))
    found[:2] = 1, timed.sizes.blocks
    first = 2 + 2 * formats.index(timed.format)
    found[first : first + 2] = size @ (1 - large), size @ large
    return found


def _most_gbps(name: str, rows: int, bits: float, hardware: Hardware) -> float:
    """Return the largest rate that a section may state.

    Kernels for integers may be twice as fast as that by which the peak was measured.
    """
    nearest = hardware.memory[0].read_gbps
    most = plausible.most_gbps(name, rows, bits, hardware.peak_gflops, nearest)
    same = rows > 1 and name in {REFERENCE.name, plausible.ATTENTION}
    return most if same else 2.0 * most


def _solve(
    system: NDArray[np.float64],
    seconds: NDArray[np.float64],
    least: NDArray[np.float64],
    alike: float,
) -> NDArray[np.float64]:
    """Return terms that fit times with the least squared relative error.

    Each is its `least` and something more.
    """
    relative = system / seconds[:, None]
    firsts = range(2, system.shape[1], 2)
    equal = np.zeros((len(firsts), system.shape[1]))
    for i, small in enumerate(firsts):
        large = small + 1
        scale = alike * relative[:, [small, large]].sum(axis=1).max()
        equal[i, [small, large]] = scale, -scale
    right = np.concatenate([1 - relative @ least, np.zeros(len(firsts))])
    # Sums of these two mixtures, each 0 or more, are all pairs within the largest ratio.
    mixtures = np.eye(system.shape[1])
    for small in firsts:
        pair = slice(small, small + 2)
        mixtures[pair, pair] = [[MOST_DIFFERENT, 1.0], [1.0, MOST_DIFFERENT]]
    scale = np.linalg.norm(relative @ mixtures, axis=0)
    scale[scale == 0] = 1.0  # a term that is left out
    found, _ = nnls(np.concatenate([relative, equal]) @ mixtures / scale, right)
    return np.asarray(least + mixtures @ (found / scale))


def _product(rows: int, knots: Sequence[int], byte: NDArray[np.float64]) -> Product:
    """Return the product of seconds of a byte, at each of the knots."""
    rates = [roofs.four_digits(1e-9 / seconds) for seconds in byte]
    return Product(rows, 0.0, tuple(zip(knots, rates, strict=True)))


def _attention_rates(timed: Sequence[TimedDecoder], hardware: Hardware) -> dict[int, Rates]:
    """Return the rates at which one query, and a prompt of them, read keys and values.

    A prompt of 512 tokens takes eight times as long as one of 64, but for an output layer that
    reads one row, and attention from 64 to 512 tokens comes on top. More rows make matrices faster,
    so that the difference may be too small; attention is taken to multiply no faster than matrices
    do, and no faster than the hardware can.
    """
    found = {}
    for rows, short, times in ((1, 1, 1.0), (LONG, PROMPT, LONG / PROMPT)):
        most = _most_gbps(plausible.ATTENTION, rows, 8 * products.CACHE_BYTES, hardware)
        rates = []
        for t in timed:
            read = sum(t.read(rows))
            once = t.seconds[1] * (1 - read / sum(t.matrices))
            body = times * max(t.seconds[short] - once, t.seconds[short] / 2)
            elements = t.sizes.attended(rows, LONG - PROMPT) * t.sizes.blocks
            least = body * elements / read
            seconds = max(min(t.long[rows]) - body - once, least)
            rate = min(1e-9 * elements * products.CACHE_BYTES / seconds, most)
            rates.append((t.sizes.attended(rows, LONG), roofs.four_digits(rate)))
        found[rows] = tuple(sorted(rates))
    fewer = LONG / PROMPT  # rows, so that each read is as many times faster
    short_rates = tuple((n, roofs.four_digits(fewer * rate)) for n, rate in found[LONG])
    return {1: found[1], PROMPT: short_rates, LONG: found[LONG]}


def _attending(timed: TimedDecoder, rows: int, rates: Mapping[int, Rates]) -> float:
    """Return the seconds of attention in the time of one token or of a prompt."""
    context = PROMPT + TOKENS // 2 if rows == 1 else PROMPT
    measured = [Product(rows, 0.0, rates[rows])]
    elements = timed.sizes.attended(rows, context)
    each = products.product_seconds(measured, rows, elements, products.CACHE_BYTES)
    return timed.sizes.blocks * each


def _errors(timed: Sequence[TimedDecoder], rates: Mapping[int, Rates], hardware: Hardware) -> Fit:
    """Return the errors of predicting the step of each large decoder without its own time.

    The rate of its format is then known from the other large decoder only. The section is fitted to
    both, so that its own errors should be smaller.
    """
    ratios = []
    for i, left_out in enumerate(timed):
        if left_out.sizes.hidden >= LEAST_WIDTH:
            found = _fit([*timed[:i], *timed[i + 1 :]], rates, hardware, _SURELY_ALIKE)
            ratios.append(left_out.seconds[1] / _step(found, left_out))
    halves = [(min(x[::2]), min(x[1::2])) for t in timed for x in t.rounds.values()]
    low, high = np.quantile(ratios, (0.05, 0.95))
    return Fit(
        samples=len(timed),
        noise=roofs.four_digits(float(np.median([abs(a / b - 1) for a, b in halves]))),
        mape=roofs.four_digits(float(np.abs(1 / np.array(ratios) - 1).mean())),
        low=roofs.four_digits(float(min(low, 1.0))),
        high=roofs.four_digits(float(max(high, 1.0))),
    )


def _step(found: _Coefficients, timed: TimedDecoder) -> float:
    """Return the predicted seconds of a token of a decoder."""
    width = timed.bits / 8
    measured = found.products[timed.format]
    matrices = sum(products.product_seconds(measured, 1, n, width) for n in timed.matrices)
    elements = timed.sizes.attended(1, PROMPT + TOKENS // 2)
    block = products.product_seconds(found.attention, 1, elements, products.CACHE_BYTES)
    return found.call + matrices + timed.sizes.blocks * block
