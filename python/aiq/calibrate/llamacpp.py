"""Calibrate llama.cpp: time decoders of random weights as files, each in one format."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import product
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from aiq import quiet
from aiq.calibrate import roofs
from aiq.cost import products
from aiq.cost.pieces import FUNCTIONS
from aiq.formats import parse
from aiq.gguf import stand_in
from aiq.gguf.llamacpp import LlamaCpp
from aiq.gguf.write import write_gguf
from aiq.graph import Op, trace
from aiq.hardware.products import Product
from aiq.hardware.runtime_profile import Fit, KernelProfile, Realisation, RuntimeProfile
from aiq.progress import Progress, silent
from aiq.runtimes import placement

FORMATS = ("fp32", "w4g32", "w4g32z", "w5g32", "w5g32z", "w8g32")

_SIZES = ((576, 1536, 6), (1024, 2816, 4))  # hidden size, intermediate size, blocks
_VOCABULARY = 4096
_PROMPT, _TOKENS, _ROUNDS = 64, 24, 5
_LONG, _ATTENTION_FORMAT = 512, "w8g32"  # attention takes as long whatever the format
_CONTEXT = 640


@dataclass(frozen=True, slots=True)
class _Timed:
    """A file and its times.

    Attributes
    ----------
    format
        Format of all matrices.
    elements, blocks, hidden
        Elements of all matrices of the decoder, its blocks, and the width of its attention.
    rounds
        Rows that are computed together -> seconds in each round.
    long
        The same after a prompt of 512 tokens; empty in all formats but one.
    """

    format: str
    elements: int
    blocks: int
    hidden: int
    rounds: Mapping[int, Sequence[float]]
    long: Mapping[int, Sequence[float]]

    @property
    def seconds(self) -> dict[int, float]:
        """Rows -> seconds of the fastest round."""
        return {rows: min(times) for rows, times in self.rounds.items()}


def measure_llamacpp(
    threads: int = 1, progress: Progress | None = None, *, force: bool
) -> RuntimeProfile:
    """Return the section of llama.cpp in a profile, measured on this machine.

    Two decoders are written in each format. All files take turns; the least of the rounds counts. A
    token takes ``blocks x start + bytes / rate`` and the time of attention, and 64 tokens of a
    prompt likewise. Attention is what a longer context adds.

    Parameters
    ----------
    threads
        Number of threads.
    progress
        Called with the name of the stage, the steps done and the steps in all.
    force
        Whether to measure on a busy machine, too.

    Raises
    ------
    RuntimeUnavailableError
        If ``xllamacpp`` is not installed.
    BusyMachineError
        If other processes use the processors, and nothing is to be forced.
    """
    report = progress or silent
    with tempfile.TemporaryDirectory() as folder:
        timed, _ = quiet.during(
            lambda: _time(Path(folder), threads, report), force=force, progress=report
        )
    attention = _attention([t for t in timed if t.long])
    measured = {
        name: _products([t for t in timed if t.format == name], attention) for name in FORMATS
    }
    start = min(found[0].start_us for found in measured.values())
    return _section(measured, attention, start, _errors(timed, attention))


def _time(folder: Path, threads: int, report: Progress) -> list[_Timed]:
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    found: list[_Timed] = []
    prompt, long = ([1 + i % 32 for i in range(n)] for n in (_PROMPT, _LONG))
    for step, (hidden, wide, blocks) in enumerate(_SIZES):
        config = LlamaConfig(
            hidden_size=hidden,
            intermediate_size=wide,
            num_hidden_layers=blocks,
            num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 64,
            vocab_size=_VOCABULARY,
            max_position_embeddings=_CONTEXT,
            use_cache=False,
            tie_word_embeddings=False,
        )
        model = LlamaForCausalLM(config).eval()
        traced = trace(model, torch.ones(1, 8, dtype=torch.int64))
        layers = traced.graph.quantizable
        elements = sum(layer.weight_elements for layer in layers)
        programs = {}
        for name in FORMATS:
            path = folder / f"{step}-{name}.gguf"
            formats = {layer.name: parse(name) for layer in layers}
            write_gguf(model, path, formats, traced, [], stand_in.tokenizer())
            programs[name] = LlamaCpp(path, _CONTEXT, threads)
        times: dict[str, dict[int, list[float]]] = {n: {1: [], _PROMPT: []} for n in FORMATS}
        after: dict[int, list[float]] = {1: [], _LONG: []}
        for turn, (name, program) in product(range(_ROUNDS), programs.items()):
            report("time decoders in llama.cpp", step * _ROUNDS + turn, len(_SIZES) * _ROUNDS)
            run = program.run(prompt, _TOKENS)
            times[name][1].append(run.token)
            times[name][_PROMPT].append(run.first)
            if name == _ATTENTION_FORMAT:
                run = program.run(long, _TOKENS)
                after[1].append(run.token)
                after[_LONG].append(run.first)
        found += [
            _Timed(n, elements, blocks, hidden, times[n], after if n == _ATTENTION_FORMAT else {})
            for n in FORMATS
        ]
    report("time decoders in llama.cpp", 1, 1)
    return found


def _attention(timed: Sequence[_Timed]) -> tuple[Product, ...]:
    """Return the rate at which one query, and a prompt of them, read keys and values.

    A prompt of 512 tokens takes eight times as long as one of 64, and attention from 64 to 512
    tokens comes on top. More rows make matrices faster, so that the difference may be too small;
    attention is taken to multiply no faster than matrices do.
    """
    found = []
    for rows, short, times in ((1, 1, 1.0), (_LONG, _PROMPT, _LONG / _PROMPT)):
        rates = []
        for t in timed:
            before = times * t.seconds[short]
            elements = 2 * t.hidden * (_LONG - _PROMPT) * t.blocks
            least = before * elements / t.elements
            seconds = max(min(t.long[rows]) - before, least)
            rate = 1e-9 * elements * products.CACHE_BYTES / seconds
            rates.append((2 * t.hidden * _LONG, roofs.four_digits(rate)))
        found.append(Product(rows, 0.0, tuple(sorted(rates))))
    return tuple(found)


def _products(timed: Sequence[_Timed], attention: Sequence[Product]) -> tuple[Product, ...]:
    """Return start and rate of the seven matrices of a block, for one token and for a prompt."""
    found = []
    for rows in (1, _PROMPT):
        size = [
            t.elements * placement.stored_bits(placement.GGUF, parse(t.format)) / 8 for t in timed
        ]
        system = np.array([[7.0 * t.blocks + 1, s] for t, s in zip(timed, size, strict=True)])
        whole = np.array([t.seconds[rows] for t in timed])
        attend = np.array([_attending(t, rows, attention) for t in timed])
        seconds = np.maximum(whole - attend, whole / 10)  # noise: matrices are never free
        start, slope = np.linalg.solve(system, seconds)
        start = float(np.clip(start, 0.0, 0.3 * seconds.min() / (7 * timed[0].blocks)))
        slope = float(((seconds - start * system[:, 0]) / system[:, 1]).mean())
        rate = roofs.four_digits(1e-9 / slope)
        found.append(Product(rows, roofs.four_digits(start * 1e6), ((timed[0].elements, rate),)))
    return tuple(found)


def _attending(timed: _Timed, rows: int, attention: Sequence[Product]) -> float:
    """Return the seconds of attention in the time of one token or of a prompt."""
    context = _PROMPT + _TOKENS // 2 if rows == 1 else _PROMPT
    elements = 2 * timed.hidden * context
    each = products.product_seconds(attention, rows, elements, products.CACHE_BYTES)
    return timed.blocks * each


def _errors(timed: Sequence[_Timed], attention: Sequence[Product]) -> Fit:
    """Return the errors of predicting each decoder by the bytes and the time of the other one.

    Attention is known, and the time of matrices is in proportion to their bytes.

    The section is fitted to both decoders, with a start, so its own errors should be smaller.
    """
    pairs = [(a, b) for a, b in product(timed, repeat=2) if a.format == b.format and a is not b]
    ratios = np.array([_ratio(a, b, rows, attention) for a, b in pairs for rows in a.rounds])
    halves = [(min(x[::2]), min(x[1::2])) for t in timed for x in t.rounds.values()]
    low, high = np.quantile(ratios, (0.05, 0.95))
    return Fit(
        samples=len(timed),
        noise=roofs.four_digits(float(np.median([abs(a / b - 1) for a, b in halves]))),
        mape=roofs.four_digits(float(np.abs(1 / ratios - 1).mean())),
        low=roofs.four_digits(float(min(low, 1.0))),
        high=roofs.four_digits(float(max(high, 1.0))),
    )


def _ratio(a: _Timed, b: _Timed, rows: int, attention: Sequence[Product]) -> float:
    """Return the time of a decoder over what another one predicts of it."""
    matrices = a.seconds[rows] - _attending(a, rows, attention)
    predicted = matrices * b.elements / a.elements + _attending(b, rows, attention)
    return b.seconds[rows] / predicted


def _section(
    measured: Mapping[str, tuple[Product, ...]],
    attention: tuple[Product, ...],
    start: float,
    errors: Fit,
) -> RuntimeProfile:
    """Return a section in which all time is that of matrices and attention."""
    kinds = [*map(str, Op), *FUNCTIONS.values(), "residual", "mean", "average", "reorder"]
    free = KernelProfile(start_us=0.0, memory=100.0, output_ns=0.0)
    return RuntimeProfile(
        name=placement.GGUF,
        version=f"xllamacpp {metadata.version('xllamacpp')}",
        run_overhead_us=start,
        formats=MappingProxyType({"fp32": Realisation("native", "fp32")}),
        kernels=MappingProxyType({op: MappingProxyType({"fp32": free}) for op in kinds}),
        boundaries=MappingProxyType({}),
        fuses=(),
        fit=errors,
        products=MappingProxyType(dict(measured)),
        attention=attention,
    )
