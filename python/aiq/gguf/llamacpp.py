"""Run GGUF files in llama.cpp, by the Python package xllamacpp."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiq.errors import InputError, RuntimeUnavailableError

_SILENT = -1  # the verbosity at which llama.cpp prints nothing


@dataclass(frozen=True, slots=True)
class Run:
    """What llama.cpp did with a prompt.

    Attributes
    ----------
    first, token
        Seconds to read the prompt, and for each token that was decoded after it.
    tokens
        Numbers of the decoded tokens with their logarithms of probability, the likeliest first.
    """

    first: float
    token: float
    tokens: tuple[tuple[tuple[int, float], ...], ...]


class LlamaCpp:
    """A GGUF file, opened in llama.cpp; use it in a ``with`` statement.

    Parameters
    ----------
    path
        The file, which needs a tokenizer.
    context
        Number of tokens that prompt and answer may have together.
    threads
        Number of threads.

    Raises
    ------
    RuntimeUnavailableError
        If xllamacpp is not installed, or cannot open the file.
    """

    def __init__(self, path: Path, context: int = 1024, threads: int = 1) -> None:
        try:
            import xllamacpp  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise RuntimeUnavailableError(
                "Running a .gguf file needs llama.cpp: `pip install xllamacpp`."
            ) from error
        options = xllamacpp.CommonParams()
        options.model.path = str(path)
        options.n_ctx, options.n_parallel, options.warmup = context, 1, False
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
        options.n_gpu_layers = 0
        options.verbosity = _SILENT
        try:
            self._server = xllamacpp.Server(options)
        except RuntimeError as error:
            raise RuntimeUnavailableError(
                f"llama.cpp cannot open {path} ({error}); export the plan again."
            ) from error

    def run(self, prompt: list[int], tokens: int = 1, likeliest: int = 0) -> Run:
        """Read a prompt and decode `tokens` tokens after it, always the likeliest one.

        Parameters
        ----------
        prompt
            Numbers of tokens. What an earlier prompt began with is read again.
        tokens
            Tokens to decode.
        likeliest
            Number of candidates to return for each decoded token.

        Raises
        ------
        InputError
            If llama.cpp does not read the prompt, as one that has more tokens than the file allows.
        """
        found = self._server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": tokens,
                "temperature": 0,
                "ignore_eos": True,
                "cache_prompt": False,
                "n_probs": likeliest,
            }
        )
        if "timings" not in found:
            said = found.get("error", {}).get("message", "it does not say why")
            raise InputError(
                f"llama.cpp does not read a prompt of {len(prompt)} tokens ({said:.200}); give "
                "fewer, and numbers of the file's own tokenizer."
            )
        times: Any = found["timings"]
        listed = (found["choices"][0].get("logprobs") or {}).get("content", [])
        return Run(
            times["prompt_ms"] / 1e3,
            times["predicted_per_token_ms"] / 1e3,
            tuple(tuple((x["id"], x["logprob"]) for x in y["top_logprobs"]) for y in listed),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server = None
