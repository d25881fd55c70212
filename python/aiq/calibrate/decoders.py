"""Time whole decoders of random weights, in each format that a runtime has kernels for."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aiq import quiet
from aiq.calibrate.decoder_fit import (
    HEAD,
    LEAST_WIDTH,
    LONG,
    PROMPT,
    TOKENS,
    Sizes,
    TimedDecoder,
    fitted_section,
)
from aiq.decoder_programs import DecoderProgram, sample_prompt
from aiq.formats import parse
from aiq.graph import Trace, trace
from aiq.hardware import Hardware
from aiq.hardware.runtime_profile import RuntimeProfile
from aiq.progress import Progress, silent
from aiq.runtimes import placement

CONTEXT = LONG + TOKENS + 1
"""Tokens that a program has room for."""

_ROUNDS = 5
_LONG_IN = "w4g32"  # the format that is timed after a long prompt, too

SIZES = (Sizes(768, 2048, 12, 8192), Sizes(1536, 4096, 1, 40960), Sizes(192, 256, 3, 512))
"""Decoders that are timed.

The first has small matrices and the second large ones, and caches of usual sizes hold neither. The
last one has next to no weights: its time is that of calls and blocks.
"""


@dataclass(frozen=True, slots=True)
class DecoderRuntime:
    """A runtime of decoders.

    Attributes
    ----------
    name, version
        Name of its section in profiles, and the versions of its software.
    open
        Function of a decoder, its trace, an empty folder and a number of threads, which returns a
        program for each format.
    """

    name: str
    version: str
    open: Callable[[Any, Trace, Path, int], Mapping[str, DecoderProgram]]


def measure_decoders(
    runtime: DecoderRuntime,
    hardware: Hardware,
    threads: int,
    progress: Progress | None = None,
    *,
    force: bool,
) -> RuntimeProfile:
    """Return the section of a runtime of decoders, measured on this machine.

    Decoders of `SIZES` are written in each format, and all files of a decoder take turns.

    Parameters
    ----------
    runtime
        The runtime.
    hardware
        This machine.
    threads
        Number of threads.
    progress
        Called with the name of the stage, the steps done and the steps in all.
    force
        Whether to measure on a busy machine, too.

    Raises
    ------
    RuntimeUnavailableError
        If a package is not installed.
    BusyMachineError
        If other processes use the processors, and nothing is to be forced.
    """
    report = progress or silent
    timed, _ = quiet.during(
        lambda: time_decoders(runtime, threads, report), force=force, progress=report
    )
    return fitted_section(runtime.name, runtime.version, timed, hardware)


def time_decoders(runtime: DecoderRuntime, threads: int, report: Progress) -> list[TimedDecoder]:
    """Time decoders of all sizes in all formats."""
    stage = f"time decoders in {runtime.name}"
    found: list[TimedDecoder] = []
    for step, sizes in enumerate(SIZES):
        report(stage, step, len(SIZES))
        found += _timed(runtime, sizes, threads)
    report(stage, len(SIZES), len(SIZES))
    return found


def _timed(runtime: DecoderRuntime, sizes: Sizes, threads: int) -> list[TimedDecoder]:
    """Time a decoder in all formats, which take turns."""
    model = random_decoder(sizes)
    traced = trace(model, torch.ones(1, 8, dtype=torch.int64))
    with tempfile.TemporaryDirectory() as folder:
        programs = runtime.open(model, traced, Path(folder), threads)
    times: dict[str, dict[int, list[float]]] = {name: {1: [], PROMPT: []} for name in programs}
    long: dict[str, dict[int, list[float]]] = {name: {} for name in programs}
    if sizes.hidden >= LEAST_WIDTH:
        long[_LONG_IN] = {1: [], LONG: []}
    for turn, (name, program) in product(range(_ROUNDS), programs.items()):
        _add(times[name], program, PROMPT)
        if long[name] and turn % 2 == 0:  # a long prompt takes seconds
            _add(long[name], program, LONG)
    shapes = (layer.weight_shape or () for layer in traced.graph.quantizable)
    matrices = tuple(int(np.prod(shape)) for shape in shapes)
    bits = {name: placement.stored_bits(runtime.name, parse(name)) for name in programs}
    everything = runtime.name not in placement.LAST_LOGITS
    return [
        TimedDecoder(n, sizes, bits[n], matrices, times[n], long[n], everything) for n in programs
    ]


def random_decoder(sizes: Sizes) -> Any:  # noqa: ANN401 - a LlamaForCausalLM
    """Return a decoder of random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    config = LlamaConfig(
        hidden_size=sizes.hidden,
        intermediate_size=sizes.wide,
        num_hidden_layers=sizes.blocks,
        num_attention_heads=sizes.hidden // HEAD,
        num_key_value_heads=sizes.kept_heads,
        vocab_size=sizes.vocabulary,
        max_position_embeddings=CONTEXT,
        use_cache=False,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def _add(times: dict[int, list[float]], program: DecoderProgram, prompt: int) -> None:
    """Add the times after a prompt, and of the prompt itself."""
    run = program.run(sample_prompt(prompt), TOKENS)
    times[1].append(run.token)
    times[prompt].append(run.first)
