"""Decoders of language: a model and tokenizer of transformers, and texts as batches of tokens."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aiq import files
from aiq.errors import DataError, InputError, RuntimeUnavailableError, reason

_LONGEST_TEXT = 2**30  # bytes


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """A decoder as it was loaded.

    Attributes
    ----------
    model
        The model, float32 and in evaluation mode. It maps numbers of tokens, (batch, length), to
        logits, (batch, length, vocabulary).
    tokenizer
        Its tokenizer, an object of transformers.
    """

    model: nn.Module
    tokenizer: Any

    def batches(
        self, text: str | Path, length: int = 256, samples: int | None = None, batch: int = 1
    ) -> list[tuple[Tensor, Tensor]]:
        """Return a text as data of a search; see `token_batches`.

        Parameters
        ----------
        text
            The text, or the path of a file that holds it.
        length, samples, batch
            These are the parameters of `token_batches`.
        """
        if isinstance(text, Path):
            text = files.read_text(text, _LONGEST_TEXT, "give a file of text")
        numbers = self.tokenizer(text, verbose=False)["input_ids"]
        return token_batches(numbers, length, samples, batch)


def load(path: str | Path) -> Decoder:
    """Load a decoder of transformers and its tokenizer from this machine; nothing is downloaded.

    Parameters
    ----------
    path
        A folder as ``save_pretrained`` writes it, or a GGUF file, whose weights become float32.

    Raises
    ------
    RuntimeUnavailableError
        If transformers, or a package that it needs for the file, is not installed.
    InputError
        If the folder or file holds no decoder.
    """
    found = Path(path)
    if not found.exists():
        raise InputError(f"There is no file or folder {found}; give one that holds a decoder.")
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise RuntimeUnavailableError(
            "Decoders are loaded by transformers: `pip install 'aiq[llm]'`."
        ) from error
    is_file = found.is_file()
    where = {"gguf_file": found.name} if is_file else {}
    folder = found.parent if is_file else found
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **where)
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, **where
        )
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"transformers cannot read {found} ({reason(error)}): `pip install 'aiq[llm]'`."
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{found} holds no decoder that transformers can load ({reason(error)}); give a folder "
            "that save_pretrained wrote, or a .gguf file."
        ) from error
    model.config.use_cache = False  # a search runs whole texts
    return Decoder(model.eval(), tokenizer)


def token_batches(
    numbers: Iterable[int], length: int = 256, samples: int | None = None, batch: int = 1
) -> list[tuple[Tensor, Tensor]]:
    """Return tokens as batches of inputs and targets, each target being the token that follows.

    Parameters
    ----------
    numbers
        Numbers of the tokens of a text.
    length
        Tokens of a sample. Samples do not overlap; what is left at the end is not used.
    samples
        Largest number of samples, which are spread evenly over the text; ``None``: all.
    batch
        Samples in a batch.

    Returns
    -------
    list
        Pairs of inputs and targets, int64, (batch, length).

    Raises
    ------
    InputError
        If a size is not positive.
    DataError
        If the text is too short for one sample.
    """
    sizes: dict[str, object] = {"length": length, "samples": samples or 1, "batch": batch}
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise InputError(f"{name} is {size!r}; give a number of at least 1.")
    tokens = torch.tensor(list(numbers), dtype=torch.int64)
    count = (len(tokens) - 1) // length
    if count < 1:
        raise DataError(
            f"The text has {len(tokens)} tokens, and a sample takes {length + 1}; give a longer "
            "text, or a smaller length."
        )
    inputs = tokens[: count * length].view(count, length)
    targets = tokens[1 : count * length + 1].view(count, length)
    taken = torch.linspace(0, count - 1, min(count, samples or count)).round().long()
    starts = range(0, len(taken), batch)
    return [(inputs[taken[i : i + batch]], targets[taken[i : i + batch]]) for i in starts]
