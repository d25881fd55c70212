"""A plan of a decoder beside files or folders of one format each, timed in turns."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from aiq import cost
from aiq.decoder_programs import DecoderProgram, decoder_opener, sample_prompt
from aiq.decoders import token_input
from aiq.deployment import Deployment, prepare
from aiq.formats import REFERENCE, Format, parse
from aiq.graph import Decode
from aiq.hardware import Hardware
from aiq.hardware.sections import section
from aiq.plan import Plan
from aiq.progress import Progress, silent
from aiq.runtimes import placement
from aiq.text import count, duration, plain, table

UNIFORM = ("w8g32", "w5g32", "w4g32z", "w4g32")
"""Formats of the GGUF files beside the plan."""

IN_FOLDERS = ("fp32", "w8g32", "w4g32")
"""Formats of the folders beside the plan."""

CONTEXTS = (16, 512)
"""Lengths of the prompts."""

ROUNDS = 5
"""Turns of each file."""

PLAN = "plan"


@dataclass(frozen=True, slots=True)
class Decoded:
    """The times of one file.

    Attributes
    ----------
    name
        ``plan``, or the format of all layers.
    size
        Bytes of the file, or of all files in the folder.
    first, token
        Measured seconds to the first token, and of each token after it: the least of all rounds,
        by the length of the prompt.
    predicted
        Predicted seconds of a token, at the workload of the plan.
    """

    name: str
    size: int
    first: Mapping[int, float]
    token: Mapping[int, float]
    predicted: float


@dataclass(frozen=True, slots=True)
class DecoderComparison:
    """Files of a decoder that were timed in turns.

    Attributes
    ----------
    files
        The plan, then the uniform ones.
    threads
        Number of threads.
    perplexity
        Perplexity of float32 and of the plan, as the search measured them, or ``None``.
    runtime
        Name of the runtime.
    level
        The cost model behind the prediction. Times of a ``roofline`` are lower bounds.
    """

    files: tuple[Decoded, ...]
    threads: int
    perplexity: tuple[float, float] | None = None
    runtime: str = placement.GGUF
    level: str = "calibrated"

    def __getitem__(self, name: str) -> Decoded:
        return next(found for found in self.files if found.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        return asdict(self)

    def __str__(self) -> str:
        return plain(self.table())

    def table(self) -> Table:
        """Return a row for each file."""
        contexts = tuple(self.files[0].token)
        columns = ["<file", "size", "at most" if self.level == "roofline" else "predicted"]
        columns += [f"tokens/s after {n}" for n in contexts]
        columns += [f"first token after {n}" for n in contexts]
        rows = (
            [
                f.name,
                f"{count(f.size)}B",
                f"{1 / f.predicted:.3g}",
                *(f"{1 / f.token[n]:.3g}" for n in contexts),
                *(duration(f.first[n]) for n in contexts),
            ]
            for f in self.files
        )
        where = "llama.cpp" if self.runtime == placement.GGUF else self.runtime
        title = f"{where}, {self.threads} thread{'' if self.threads == 1 else 's'}"
        if self.perplexity is not None:
            before, after = self.perplexity
            title += f"; perplexity {before:.2f} -> {after:.2f}, x{after / before:.3f}"
        return table(title, columns, rows)


def compare_files(
    plan: Plan,
    model: torch.nn.Module,
    tokenizer: Any = None,  # noqa: ANN401
    hw: str | Path | Hardware | None = None,
    *,
    runtime: str = placement.GGUF,
    uniform: Sequence[str] | None = None,
    contexts: Sequence[int] | None = None,
    tokens: int = 32,
    rounds: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> DecoderComparison:
    """Write the plan and uniform plans to files or folders, and time them in turns.

    Parameters
    ----------
    plan, model
        The plan of a decoder, and the decoder.
    tokenizer
        Its tokenizer, an object of transformers or a folder; by default one of single bytes, as
        times do not depend on it.
    hw
        Profile that predicts. Default: that of the plan.
    runtime
        ``llamacpp``, which reads GGUF files, or ``openvino`` or ``onnxruntime``, which read
        folders.
    uniform
        Formats of the other files. Layers that have no kernel in such a format stay float32.
        Default: `UNIFORM`, or `IN_FOLDERS`.
    contexts
        Lengths of the prompts. Default: `CONTEXTS`. Longer ones than the decoder has positions for
        are cut.
    tokens
        Tokens that are written after each prompt.
    rounds
        Turns of each file. Default: `ROUNDS`.
    threads
        Number of threads; by default those of the plan.
    progress
        Called with the name of the stage, the steps done and the steps in all.

    Raises
    ------
    RuntimeUnavailableError
        If a package of the runtime is not installed.
    InputError
        If the plan is for another model, or the runtime runs no decoders.
    """
    opener = decoder_opener(runtime)
    if threads is None:
        threads = 1 if plan.workload is None else plan.workload.threads
    report, ready = progress or silent, prepare(plan, model)
    lengths, rounds = _lengths(model, contexts or CONTEXTS, tokens), rounds or ROUNDS
    layers, priced_as = ready.traced.graph.quantizable, section(runtime, decodes=True)
    plans: dict[str, Mapping[str, Format]] = {PLAN: plan.formats}
    for name in uniform or (UNIFORM if runtime == placement.GGUF else IN_FOLDERS):
        fmt = parse(name)
        plans[name] = {x.name: placement.runs_as(priced_as, x, fmt) for x in layers}
    programs: dict[str, DecoderProgram] = {}
    sizes: dict[str, int] = {}
    room = max(lengths) + tokens + 1
    for step, (name, formats) in enumerate(plans.items()):
        report("write files", step, len(plans))
        sizes[name], programs[name] = opener.opened(
            model, formats, ready.traced, [ready.inputs], tokenizer, context=room, threads=threads
        )
    first, token = _timed_in_turns(programs, lengths, tokens, rounds, report)
    level, predicted = _predicted(plan, ready, hw, plans, priced_as)
    return DecoderComparison(
        tuple(Decoded(n, sizes[n], first[n], token[n], predicted[n]) for n in plans),
        threads,
        _perplexity(plan),
        runtime,
        level,
    )


def _timed_in_turns(
    programs: Mapping[str, DecoderProgram],
    lengths: Sequence[int],
    tokens: int,
    rounds: int,
    report: Progress,
) -> tuple[dict[str, dict[int, float]], dict[str, dict[int, float]]]:
    """Return the least seconds of each program to read a prompt, and of a token after it."""
    first: dict[str, dict[int, float]] = {name: {} for name in programs}
    token: dict[str, dict[int, float]] = {name: {} for name in programs}
    for turn in range(rounds):
        report("time files in turns", turn, rounds)
        for name, program in programs.items():
            for length in lengths:
                run = program.run(sample_prompt(length), tokens)
                first[name][length] = min(first[name].get(length, run.first), run.first)
                token[name][length] = min(token[name].get(length, run.token), run.token)
    report("time files in turns", rounds, rounds)
    return first, token


def _lengths(model: torch.nn.Module, contexts: Sequence[int], tokens: int) -> tuple[int, ...]:
    """Return the lengths of prompts, cut to the positions that a decoder has besides an answer."""
    most = getattr(getattr(model, "config", None), "max_position_embeddings", None) or max(contexts)
    return tuple(dict.fromkeys(max(1, min(length, most - tokens)) for length in contexts))


def _perplexity(plan: Plan) -> tuple[float, float] | None:
    """Return the perplexities that a search measured, of float32 and of its plan."""
    if plan.accuracy is None or plan.provenance.get("metric") != "perplexity":
        return None
    return math.exp(-plan.accuracy.baseline), math.exp(-plan.accuracy.plan)


def _predicted(
    plan: Plan,
    ready: Deployment,
    hw: str | Path | Hardware | None,
    plans: Mapping[str, Mapping[str, Format]],
    priced_as: str,
) -> tuple[str, dict[str, float]]:
    """Return the level of the cost model, and the predicted seconds of a token of every plan."""
    decode = Decode.of(plan.provenance.get("decode") or Decode())
    used = [f for formats in plans.values() for f in formats.values()]
    columns = tuple(dict.fromkeys([REFERENCE, *used]))
    found = cost.time_table(
        decode.writing(ready.traced.graph, token_input(ready.inputs).shape[1]),
        columns,
        Hardware.load(plan.hardware if hw is None else hw),
        priced_as,
    )
    return str(found.level), {name: found.total(formats) for name, formats in plans.items()}
