"""A plan of a decoder in llama.cpp beside files of one format each, timed in turns."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aiq import cost
from aiq.deployment import prepare
from aiq.formats import REFERENCE, Format, parse
from aiq.graph import Decode
from aiq.hardware import Hardware
from aiq.plan import Plan
from aiq.progress import Progress, silent
from aiq.runtimes import placement
from aiq.text import count, duration, plain, table

UNIFORM = ("w8g32", "w5g32", "w4g32z", "w4g32")
"""Formats of the files beside the plan."""

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
    """

    files: tuple[Decoded, ...]
    threads: int

    def __getitem__(self, name: str) -> Decoded:
        return next(found for found in self.files if found.name == name)

    def __str__(self) -> str:
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
        return plain(table(f"llama.cpp, {self.threads} threads", columns, rows))


def compare_files(
    plan: Plan,
    model: torch.nn.Module,
    tokenizer: Any,  # noqa: ANN401
    hw: str | Path | Hardware | None = None,
    *,
    uniform: Sequence[str] = UNIFORM,
    contexts: Sequence[int] = (16, 512),
    tokens: int = 32,
    rounds: int = 5,
    threads: int = 1,
    progress: Progress | None = None,
) -> DecoderComparison:
    """Write the plan and uniform plans to GGUF files, and time them in llama.cpp in turns.

    Parameters
    ----------
    plan, model
        The plan of a decoder, and the decoder.
    tokenizer
        Its tokenizer, an object of transformers or a folder.
    hw
        Profile that predicts. Default: that of the plan.
    uniform
        Formats of the other files.
    contexts
        Lengths of the prompts.
    tokens
        Tokens that are written after each prompt.
    rounds
        Turns of each file.
    threads
        Number of threads.
    progress
        Called with the name of the stage, the steps done and the steps in all.

    Raises
    ------
    RuntimeUnavailableError
        If ``gguf`` or ``xllamacpp`` is not installed.
    InputError
        If the plan is for another model.
    """
    from aiq.gguf.llamacpp import LlamaCpp  # noqa: PLC0415
    from aiq.gguf.write import write_gguf  # noqa: PLC0415

    report, ready = progress or silent, prepare(plan, model)
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
        tuple(Decoded(n, sizes[n], first[n], token[n], predicted[n]) for n in plans), threads
    )


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
