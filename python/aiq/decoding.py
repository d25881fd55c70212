"""A plan of a decoder in llama.cpp beside files of one format each, timed in turns."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from aiq import cost
from aiq.deployment import prepare
from aiq.errors import RuntimeUnavailableError
from aiq.formats import REFERENCE, Format, parse
from aiq.graph import Decode
from aiq.hardware import Hardware
from aiq.plan import Plan
from aiq.progress import Progress, silent
from aiq.runtimes import placement
from aiq.text import count, duration, plain, table

UNIFORM = ("w8g32", "w5g32", "w4g32z", "w4g32")
"""Formats of the files beside the plan."""

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
        Bytes of the file.
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
    """

    files: tuple[Decoded, ...]
    threads: int
    perplexity: tuple[float, float] | None = None

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
        columns = ["<file", "size", "predicted"]
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
        title = f"llama.cpp, {self.threads} thread{'' if self.threads == 1 else 's'}"
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
    uniform: Sequence[str] | None = None,
    contexts: Sequence[int] | None = None,
    tokens: int = 32,
    rounds: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> DecoderComparison:
    """Write the plan and uniform plans to GGUF files, and time them in llama.cpp in turns.

    Parameters
    ----------
    plan, model
        The plan of a decoder, and the decoder.
    tokenizer
        Its tokenizer, an object of transformers or a folder; by default one of single bytes, as
        times do not depend on it.
    hw
        Profile that predicts. Default: that of the plan.
    uniform
        Formats of the other files. Default: `UNIFORM`.
    contexts
        Lengths of the prompts. Default: `CONTEXTS`.
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
        If ``gguf`` or ``xllamacpp`` is not installed.
    InputError
        If the plan is for another model.
    """
    stand_in, LlamaCpp, write_gguf = _packages()  # noqa: N806
    tokenizer = stand_in.tokenizer() if tokenizer is None else tokenizer
    if threads is None:
        threads = 1 if plan.workload is None else plan.workload.threads
    report, ready = progress or silent, prepare(plan, model)
    uniform, contexts, rounds = uniform or UNIFORM, contexts or CONTEXTS, rounds or ROUNDS
    names = [layer.name for layer in plan.layers]
    plans: dict[str, Mapping[str, Format]] = {PLAN: plan.formats}
    plans |= {name: dict.fromkeys(names, parse(name)) for name in uniform}
    first: dict[str, dict[int, float]] = {name: {} for name in plans}
    token: dict[str, dict[int, float]] = {name: {} for name in plans}
    sizes = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        programs = {}
        for step, (name, formats) in enumerate(plans.items()):
            report("write files", step, len(plans))
            path = Path(folder) / f"{name}.gguf"
            write_gguf(model, path, formats, ready.traced, [ready.inputs], tokenizer)
            sizes[name] = path.stat().st_size
            size = max(contexts) + tokens + 1
            programs[name] = stack.enter_context(LlamaCpp(path, size, threads))
        for turn in range(rounds):
            report("time files in turns", turn, rounds)
            for name, program in programs.items():
                for length in contexts:
                    run = program.run([1 + i % 64 for i in range(length)], tokens)
                    first[name][length] = min(first[name].get(length, run.first), run.first)
                    token[name][length] = min(token[name].get(length, run.token), run.token)
        report("time files in turns", rounds, rounds)
    predicted = _predicted(plan, ready.traced.graph, ready.inputs, hw, plans)
    return DecoderComparison(
        tuple(Decoded(n, sizes[n], first[n], token[n], predicted[n]) for n in plans),
        threads,
        _perplexity(plan),
    )


def _perplexity(plan: Plan) -> tuple[float, float] | None:
    """Return the perplexities that a search measured, of float32 and of its plan."""
    if plan.accuracy is None or plan.provenance.get("metric") != "perplexity":
        return None
    return math.exp(-plan.accuracy.baseline), math.exp(-plan.accuracy.plan)


def _packages() -> tuple[Any, Any, Any]:
    """Return what writes and runs files, if the packages for that are installed."""
    try:
        from aiq.gguf import stand_in  # noqa: PLC0415
        from aiq.gguf.llamacpp import LlamaCpp  # noqa: PLC0415
        from aiq.gguf.write import write_gguf  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise RuntimeUnavailableError(
            f"Timing a decoder needs the package {error.name}: `pip install 'aiq[llm]' xllamacpp`."
        ) from error
    return stand_in, LlamaCpp, write_gguf


def _predicted(
    plan: Plan,
    graph: Any,  # noqa: ANN401
    inputs: Any,  # noqa: ANN401
    hw: str | Path | Hardware | None,
    plans: Mapping[str, Mapping[str, Format]],
) -> dict[str, float]:
    """Return the predicted seconds of a token of every plan."""
    decode = Decode(**(plan.provenance.get("decode") or {}))
    used = [f for formats in plans.values() for f in formats.values()]
    columns = tuple(dict.fromkeys([REFERENCE, *used]))
    found = cost.time_table(
        decode.writing(graph, inputs.shape[1]),
        columns,
        Hardware.load(plan.hardware if hw is None else hw),
        placement.GGUF,
    )
    return {name: found.total(formats) for name, formats in plans.items()}
