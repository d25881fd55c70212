"""What times plans of a decoder: files that llama.cpp reads a prompt and writes tokens with."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aiq.errors import RuntimeUnavailableError
from aiq.graph import Decode, Trace
from aiq.graph.export import Inputs
from aiq.planning.stopwatch import TimingBench
from aiq.planning.task import Formats
from aiq.runtimes import Mismatch, placement

MOST_TOKENS = 80
"""Largest number of tokens of one call: a longer workload is timed in proportion."""


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    """A file that was opened in llama.cpp.

    Attributes
    ----------
    program
        A `aiq.gguf.llamacpp.LlamaCpp`.
    prompt, tokens, threads
        Tokens that a call reads and writes, and number of threads.
    """

    program: Any
    prompt: int
    tokens: int
    threads: int
    mismatches: tuple[Mismatch, ...] = ()

    def __call__(self, *_: object) -> None:
        """Read the prompt and write the tokens; what the prompt says does not change the time."""
        self.program.run([1 + i % 64 for i in range(self.prompt)], self.tokens)


def decoder_bench(
    model: torch.nn.Module, traced: Trace, inputs: Inputs, decode: Decode
) -> TimingBench:
    """Return what writes plans to files and times them in llama.cpp.

    Raises
    ------
    RuntimeUnavailableError
        If a package for that is not installed.
    """
    try:
        from aiq.gguf import stand_in  # noqa: PLC0415
        from aiq.gguf.llamacpp import LlamaCpp  # noqa: PLC0415
        from aiq.gguf.write import write_gguf  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise RuntimeUnavailableError(
            f"Timing a decoder needs the package {error.name}: `pip install 'aiq[llm]' xllamacpp`."
        ) from error
    share = min(1.0, MOST_TOKENS / (decode.prompt + decode.tokens))
    prompt, tokens = (max(1, round(share * n)) for n in (decode.prompt, decode.tokens))
    tokenizer, threads = stand_in.tokenizer(), torch.get_num_threads()

    def compiled(formats: Formats) -> _File:
        with tempfile.TemporaryDirectory() as folder:  # an open file outlives its name
            path = Path(folder) / "plan.gguf"
            write_gguf(model, path, formats, traced, [inputs], tokenizer)
            program = LlamaCpp(path, prompt + tokens + 1, threads)
        return _File(program, prompt, tokens, threads)

    return TimingBench(
        runtime=placement.GGUF,
        compile=compiled,
        inputs=inputs,
        batch=traced.graph.batch,
        kinds=tuple(str(layer.op) for layer in traced.graph.quantizable),
        share=(prompt + tokens) / (decode.prompt + decode.tokens),
    )
