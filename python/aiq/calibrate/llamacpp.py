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


@dataclass(frozen=True, slots=True)
class _Timed:
    """A file and its times.

    Attributes
    ----------
    format
        Format of all matrices.
    elements, blocks
        Elements of all matrices of the decoder, and its blocks.
    rounds
        Rows that are computed together -> seconds in each round.
    """

    format: str
    elements: int
    blocks: int
    rounds: Mapping[int, Sequence[float]]

    @property
    def seconds(self) -> dict[int, float]:
        """Rows -> seconds of the fastest round."""
        return {rows: min(times) for rows, times in self.rounds.items()}


def measure_llamacpp(
    threads: int = 1, progress: Progress | None = None, *, force: bool
) -> RuntimeProfile:
    """Return the section of llama.cpp in a profile, measured on this machine.

    Two decoders are written in each format. All files take turns; the least of the rounds counts. A
    token takes ``blocks x start + bytes / rate``, and 64 tokens of a prompt likewise.

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
    measured = {name: _products([t for t in timed if t.format == name]) for name in FORMATS}
    start = min(found[0].start_us for found in measured.values())
    return _section(measured, start, _errors(timed))


def _time(folder: Path, threads: int, report: Progress) -> list[_Timed]:
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    found: list[_Timed] = []
    prompt = [1 + i % 32 for i in range(_PROMPT)]
    for step, (hidden, wide, blocks) in enumerate(_SIZES):
        config = LlamaConfig(
            hidden_size=hidden,
            intermediate_size=wide,
            num_hidden_layers=blocks,
            num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 64,
            vocab_size=_VOCABULARY,
            max_position_embeddings=256,
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
            programs[name] = LlamaCpp(path, 256, threads)
        times: dict[str, dict[int, list[float]]] = {n: {1: [], _PROMPT: []} for n in FORMATS}
        for turn, (name, program) in product(range(_ROUNDS), programs.items()):
            report("time decoders in llama.cpp", step * _ROUNDS + turn, len(_SIZES) * _ROUNDS)
            run = program.run(prompt, _TOKENS)
            times[name][1].append(run.token)
            times[name][_PROMPT].append(run.first)
        found += [_Timed(name, elements, blocks, times[name]) for name in FORMATS]
    report("time decoders in llama.cpp", 1, 1)
    return found


def _products(timed: Sequence[_Timed]) -> tuple[Product, ...]:
    """Return start and rate of the seven matrices of a block, for one token and for a prompt."""
    found = []
    for rows in (1, _PROMPT):
        size = [
            t.elements * placement.stored_bits(placement.GGUF, parse(t.format)) / 8 for t in timed
        ]
        system = np.array([[7.0 * t.blocks + 1, s] for t, s in zip(timed, size, strict=True)])
        seconds = np.array([t.seconds[rows] for t in timed])
        start, slope = np.linalg.solve(system, seconds)
        start = float(np.clip(start, 0.0, 0.3 * seconds.min() / (7 * timed[0].blocks)))
        slope = float(((seconds - start * system[:, 0]) / system[:, 1]).mean())
        rate = roofs.four_digits(1e-9 / slope)
        found.append(Product(rows, roofs.four_digits(start * 1e6), ((timed[0].elements, rate),)))
    return tuple(found)


def _errors(timed: Sequence[_Timed]) -> Fit:
    """Return the errors of predicting each decoder by the bytes and the time of the other one.

    The section is fitted to both decoders, with a start, so its own errors should be smaller.
    """
    pairs = [(a, b) for a, b in product(timed, repeat=2) if a.format == b.format and a is not b]
    ratios = np.array(
        [
            b.seconds[rows] / (a.seconds[rows] * b.elements / a.elements)
            for a, b in pairs
            for rows in a.rounds
        ]
    )
    halves = [(min(x[::2]), min(x[1::2])) for t in timed for x in t.rounds.values()]
    low, high = np.quantile(ratios, (0.05, 0.95))
    return Fit(
        samples=len(timed),
        noise=roofs.four_digits(float(np.median([abs(a / b - 1) for a, b in halves]))),
        mape=roofs.four_digits(float(np.abs(1 / ratios - 1).mean())),
        low=roofs.four_digits(float(min(low, 1.0))),
        high=roofs.four_digits(float(max(high, 1.0))),
    )


def _section(
    measured: Mapping[str, tuple[Product, ...]], start: float, errors: Fit
) -> RuntimeProfile:
    """Return a section in which all time is that of the matrices, as llama.cpp fuses the rest."""
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
    )
