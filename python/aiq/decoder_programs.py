"""Write a decoder by a plan, and open it in the runtime that writes text with it."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from aiq.errors import InputError, RuntimeUnavailableError
from aiq.formats import Format
from aiq.generative.program import Generator
from aiq.generative.write import RUNTIMES, folder_writer
from aiq.graph import Trace
from aiq.graph.export import Inputs
from aiq.runtimes import placement


class Times(Protocol):
    """What a program did with a prompt."""

    @property
    def first(self) -> float:
        """Seconds to read the prompt."""

    @property
    def token(self) -> float:
        """Seconds of each token after the prompt."""


def sample_prompt(length: int) -> list[int]:
    """Return numbers of tokens for a timing; what a prompt says does not change its time."""
    return [1 + i % 32 for i in range(length)]


class DecoderProgram(Protocol):
    """A decoder that was opened in a runtime."""

    def run(self, prompt: list[int], tokens: int) -> Times:
        """Read a prompt, and write tokens after it."""


@dataclass(frozen=True, slots=True)
class DecoderOpener:
    """What writes a decoder for a runtime, and opens it.

    Attributes
    ----------
    runtime
        Name of the runtime.
    write
        Function of a model, a path, formats, a trace, calibration inputs and a tokenizer.
    open
        Function of a path, a number of tokens that the program must have room for, and a number of
        threads.
    """

    runtime: str
    write: Callable[..., None]
    open: Callable[[Path, int, int], DecoderProgram]

    def opened(
        self,
        model: Any,  # noqa: ANN401 - a decoder of transformers
        formats: Mapping[str, Format],
        traced: Trace,
        calibration: Sequence[Inputs],
        tokenizer: Any = None,  # noqa: ANN401
        *,
        context: int,
        threads: int,
    ) -> tuple[int, DecoderProgram]:
        """Return the bytes of a decoder in the formats of a plan, and its program.

        Parameters
        ----------
        model, traced
            The decoder, and its trace.
        formats
            Layer name -> format; layers that are not named stay float32.
        calibration
            Inputs by which biases are corrected.
        tokenizer
            Its tokenizer; by default one of single bytes in a file, and none in a folder.
        context
            Number of tokens of a prompt and an answer together.
        threads
            Number of threads.
        """
        if tokenizer is None and self.runtime == placement.GGUF:
            from aiq.gguf import stand_in  # noqa: PLC0415

            tokenizer = stand_in.tokenizer()
        with tempfile.TemporaryDirectory() as folder:  # what is open outlives its name
            path = Path(folder) / ("plan.gguf" if self.runtime == placement.GGUF else "plan")
            self.write(model, path, formats, traced, calibration, tokenizer)
            files = [path] if path.is_file() else [x for x in path.iterdir() if x.is_file()]
            size = sum(file.stat().st_size for file in files)
            return size, self.open(path, context, threads)


def decoder_opener(runtime: str) -> DecoderOpener:
    """Return what writes and opens decoders: GGUF files for llama.cpp, and folders for others.

    Raises
    ------
    RuntimeUnavailableError
        If a package for that is not installed.
    InputError
        If the runtime runs no decoders.
    """
    if runtime in RUNTIMES:
        return DecoderOpener(
            runtime, folder_writer(runtime), lambda path, _, threads: Generator(path, threads)
        )
    if runtime != placement.GGUF:
        raise InputError(
            f"No runtime {runtime} writes text with a decoder; choose {', '.join(RUNTIMES)} or "
            f"{placement.GGUF}, or leave measure_top out."
        )
    try:
        from aiq.gguf.llamacpp import LlamaCpp  # noqa: PLC0415
        from aiq.gguf.write import write_gguf  # noqa: PLC0415

        import_module("xllamacpp")
    except ModuleNotFoundError as error:
        raise RuntimeUnavailableError(
            f"Timing a decoder needs the package {error.name}: `pip install 'aiq[llm]' xllamacpp`."
        ) from error
    return DecoderOpener(runtime, write_gguf, LlamaCpp)
