"""What times plans of a decoder: programs that read a prompt and write tokens after it."""

from dataclasses import dataclass

import torch

from aiq.decoder_programs import DecoderProgram, decoder_opener, sample_prompt
from aiq.graph import Decode, Trace
from aiq.graph.export import Inputs
from aiq.planning.stopwatch import TimingBench
from aiq.planning.task import Formats
from aiq.runtimes import Mismatch

MOST_TOKENS = 80
"""Largest number of tokens of one call: a longer workload is timed in proportion."""


@dataclass(frozen=True, slots=True, eq=False)
class _Timed:
    """A decoder that was opened in a runtime.

    Attributes
    ----------
    program
        The decoder.
    prompt, tokens, threads
        Tokens that a call reads and writes, and number of threads.
    """

    program: DecoderProgram
    prompt: int
    tokens: int
    threads: int
    mismatches: tuple[Mismatch, ...] = ()

    def __call__(self, *_: object) -> None:
        """Read the prompt and write the tokens."""
        self.program.run(sample_prompt(self.prompt), self.tokens)


def decoder_bench(
    model: torch.nn.Module, traced: Trace, inputs: Inputs, decode: Decode, runtime: str
) -> TimingBench:
    """Return what writes plans to files or folders, and times them with a prompt and an answer.

    Parameters
    ----------
    model, traced
        A decoder of transformers, and its trace.
    inputs
        Inputs by which biases are corrected.
    decode
        The workload.
    runtime
        Name of a runtime of decoders.

    Raises
    ------
    RuntimeUnavailableError
        If a package for that is not installed.
    InputError
        If the runtime runs no decoders.
    """
    opener = decoder_opener(runtime)
    share = min(1.0, MOST_TOKENS / (decode.prompt + decode.tokens))
    prompt, tokens = (max(1, round(share * n)) for n in (decode.prompt, decode.tokens))
    context, threads = prompt + tokens + 1, torch.get_num_threads()

    def compiled(formats: Formats) -> _Timed:
        _, program = opener.opened(
            model, formats, traced, [inputs], context=context, threads=threads
        )
        return _Timed(program, prompt, tokens, threads)

    return TimingBench(
        runtime=runtime,
        compile=compiled,
        inputs=inputs,
        batch=traced.graph.batch,
        kinds=tuple(str(layer.op) for layer in traced.graph.quantizable),
        share=(prompt + tokens) / (decode.prompt + decode.tokens),
    )
