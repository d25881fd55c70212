"""Encoders of sentences: a model and tokenizer of transformers, and texts as data of a search."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from aiq import files
from aiq.errors import DataError, InputError, RuntimeUnavailableError, reason

_LONGEST_TEXT = 2**30  # bytes
_LONGEST_CONFIG = 2**20
_POOLING = Path("1_Pooling") / "config.json"
_KNOWN_MODULES = {"Transformer", "Pooling", "Normalize"}
_CLS = "pooling_mode_cls_token"
_MEAN = "pooling_mode_mean_tokens"

FEWEST_WORDS = 5
"""Pieces of a text with fewer words are headings or numbers of lists, and are left out."""


class SentenceEncoder(nn.Module):
    """A transformer whose outputs for the tokens of a sentence become one vector of length 1.

    Parameters
    ----------
    transformer
        Model whose output has a ``last_hidden_state``, (N, tokens, D).
    first
        Whether the vector is the output of the first token, as BERT's is; otherwise it is the mean
        over all tokens that are not padding (Reimers and Gurevych 2019, section 3).
    """

    def __init__(self, transformer: nn.Module, *, first: bool = False) -> None:
        super().__init__()
        self.transformer = transformer
        self.first = first

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map numbers of tokens and their mask, both (N, tokens), to vectors, (N, D)."""
        found = self.transformer(input_ids=input_ids, attention_mask=attention_mask)
        hidden: Tensor = found.last_hidden_state
        if self.first:
            return functional.normalize(hidden[:, 0], dim=1)
        mask = attention_mask[:, :, None].to(hidden.dtype)
        return functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1), dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """An encoder as it was loaded.

    Attributes
    ----------
    model
        The model, float32 and in evaluation mode.
    tokenizer
        Its tokenizer, an object of transformers.
    """

    model: SentenceEncoder
    tokenizer: Any

    def inputs(self, sentences: Sequence[str], length: int = 64) -> dict[str, Tensor]:
        """Return the inputs of the model for N sentences, each int64, (N, length).

        Parameters
        ----------
        sentences
            The sentences. Longer ones are cut, shorter ones are padded, as a program has inputs of
            one shape.
        length
            Number of tokens.
        """
        _check_size("length", length, 3)
        positions = getattr(self.model.transformer.config, "max_position_embeddings", length)
        # Some models, such as RoBERTa, do not use all positions; their tokenizers know.
        most = min(positions, getattr(self.tokenizer, "model_max_length", length))
        if length > most:
            raise InputError(f"length is {length}, and the encoder reads at most {most} tokens.")
        if isinstance(sentences, str) or not all(isinstance(s, str) for s in sentences):
            raise InputError("sentences is no list of texts; give one text for each sentence.")
        if not sentences:
            raise InputError("There is no sentence; give at least one.")
        found = self.tokenizer(
            list(sentences),
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )
        return {name: found[name] for name in ("input_ids", "attention_mask")}

    def batches(
        self,
        text: str | Path,
        length: int = 64,
        samples: int = 256,
        passages: int = 32,
        batch: int = 16,
    ) -> list[tuple[dict[str, Tensor], Tensor]]:
        """Return a text as data of a search with the metric `rank_correlation`.

        Queries and passages are sentences, taken evenly from the whole text.

        Parameters
        ----------
        text
            The text, or the path of a file that holds it.
        length
            Tokens of a sentence.
        samples
            Number of queries.
        passages
            Number of passages, with each of which every query is compared.
        batch
            Queries in a batch. The last batch may be smaller.

        Returns
        -------
        list
            Pairs of inputs and targets. The targets of a query are vectors of the float32 model,
            (1 + passages, D): its own, and those of the passages.

        Raises
        ------
        InputError
            If a size is too small.
        DataError
            If the text has too few sentences.
        """
        for name, size in {"samples": samples, "batch": batch}.items():
            _check_size(name, size, 1)
        _check_size("passages", passages, 3)
        if not isinstance(text, str | Path):
            raise InputError(f"text is {text!r:.50}; give a text, or the Path of a file.")
        if isinstance(text, Path):
            text = files.read_text(text, _LONGEST_TEXT, "give a file of text")
        found, wanted = split_sentences(text), samples + passages
        if len(found) < wanted:
            raise DataError(
                f"The text has {len(found)} sentences, and {samples} queries and {passages} "
                f"passages need {wanted}; give a longer text, or ask for fewer."
            )
        taken = [found[i] for i in torch.linspace(0, len(found) - 1, wanted).long().tolist()]
        apart = torch.linspace(0, wanted - 1, passages).long().tolist()
        compared = self.vectors([taken[i] for i in apart], length, batch)
        queries = [s for i, s in enumerate(taken) if i not in {*apart}]
        data = []
        for start in range(0, samples, batch):
            part = queries[start : start + batch]
            own = self.vectors(part, length, batch)[:, None]
            targets = torch.cat([own, compared.expand(len(part), -1, -1)], 1)
            data.append((self.inputs(part, length), targets))
        return data

    @torch.no_grad()
    def vectors(self, sentences: Sequence[str], length: int = 64, batch: int = 16) -> Tensor:
        """Return the vectors of N sentences in float32, (N, D)."""
        parts = (sentences[i : i + batch] for i in range(0, len(sentences), batch))
        return torch.cat([self.model(**self.inputs(part, length)) for part in parts])


def _check_size(name: str, size: object, least: int) -> None:
    if not isinstance(size, int) or size < least:
        raise InputError(f"{name} is {size!r}; give a number of at least {least}.")


def load(path: str | Path) -> Encoder:
    """Load an encoder of sentences and its tokenizer from this machine; nothing is downloaded.

    Parameters
    ----------
    path
        A folder of transformers, or of sentence-transformers, whose file ``1_Pooling/config.json``
        says how the outputs for tokens become one vector. Without it, it is their mean.

    Raises
    ------
    RuntimeUnavailableError
        If transformers is not installed.
    InputError
        If the folder holds no encoder, or one that needs another kind of pooling.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give one that holds an encoder.")
    try:
        from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise RuntimeUnavailableError(
            "Encoders are loaded by transformers: `pip install 'aiq[llm]'`."
        ) from error
    _check_modules(folder)
    first = _takes_first(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except Exception as error:  # transformers and safetensors raise many kinds
        raise InputError(
            f"{folder} holds no encoder that transformers can load ({reason(error)}); give a "
            "folder that save_pretrained wrote."
        ) from error
    return Encoder(SentenceEncoder(model, first=first).eval(), tokenizer)


def _check_modules(folder: Path) -> None:
    """Raise `InputError` if sentence-transformers runs more modules than aiq does."""
    if not (folder / "modules.json").is_file():
        return
    text = files.read_text(folder / "modules.json", _LONGEST_CONFIG, "give a folder of an encoder")
    try:
        found = {str(entry["type"]).rpartition(".")[2] for entry in json.loads(text)}
    except (ValueError, TypeError, KeyError):
        found = {"a list that cannot be read"}
    if found - _KNOWN_MODULES:
        raise InputError(
            f"{folder / 'modules.json'} names {', '.join(sorted(found - _KNOWN_MODULES))}, and an "
            "encoder of aiq is a transformer and a pooling; give another encoder."
        )


def _takes_first(folder: Path) -> bool:
    """Return whether the vector of a sentence is that of its first token, and not the mean."""
    if not (folder / _POOLING).is_file():
        return False
    text = files.read_text(folder / _POOLING, _LONGEST_CONFIG, "give a folder of an encoder")
    try:
        known = json.loads(text)
        chosen = {name for name, value in known.items() if name.startswith("pooling") and value}
    except (ValueError, AttributeError):
        chosen = set()
    if chosen not in ({_MEAN}, {_CLS}):
        raise InputError(
            f"{folder / _POOLING} asks for {', '.join(sorted(chosen)) or 'no pooling'}, and only "
            f"{_MEAN} or {_CLS} is known; give another encoder."
        )
    return chosen == {_CLS}


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, each on one line; those of fewer than five words are not."""
    pieces = re.split(r"(?<=[.!?])\s+|\n\s*\n", text)
    found = (" ".join(piece.split()) for piece in pieces)
    return [s for s in found if s.count(" ") >= FEWEST_WORDS - 1]


def rank_correlation(output: Tensor, targets: Tensor) -> Tensor:
    """Return how well each query orders the passages as the float32 model does, a metric.

    It is Spearman's rank correlation of the cosines of query and passages with those of the float32
    model: 1 if no passage has another rank.

    Parameters
    ----------
    output
        Vectors of N queries, (N, D).
    targets
        As `Encoder.batches` returns them, (N, 1 + passages, D).

    Returns
    -------
    Tensor
        Shape (N,).
    """
    own, passages = targets[:, 0], targets[:, 1:]
    ranks = [
        torch.einsum("nd,npd->np", functional.normalize(x, dim=1), passages).argsort(1).argsort(1)
        for x in (own, output)
    ]
    count = passages.shape[1]
    squares = (ranks[0] - ranks[1]).double().square().sum(1)
    return 1 - 6 * squares / (count * (count**2 - 1))
