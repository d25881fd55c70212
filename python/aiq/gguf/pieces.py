"""Write a tokenizer of SentencePiece's pairs, as Llama 2, Mistral and Gemma have, to a GGUF file.

Such a tokenizer starts from characters, with bytes for those that it does not know, and merges
neighbours. transformers keeps merges in their order. llama.cpp has a score for each piece in their
place: it merges the pair whose piece has the largest score.
"""

import re
from collections.abc import Mapping
from typing import Any

import gguf

from aiq.errors import InputError
from aiq.splitting import ADVICE, flat

_SPACE = "\u2581"

_LEAST = -1e9
"""Score of pieces that no merge makes."""


def has_pieces(document: Mapping[str, Any]) -> bool:
    """Whether ``tokenizer.json`` holds such a tokenizer, and not one of pairs of bytes."""
    return bool(document["model"].get("byte_fallback"))


def write_pieces(writer: gguf.GGUFWriter, document: Mapping[str, Any], size: int) -> None:
    """Write a tokenizer, but no special tokens.

    Parameters
    ----------
    writer
        The file.
    document
        What ``tokenizer.json`` holds, see `has_pieces`.
    size
        Number of tokens of the model, which may be larger than that of the tokenizer.

    Raises
    ------
    InputError
        If llama.cpp would change or split texts in another way.
    """
    _check_steps(document)
    model, added = document["model"], {x["content"]: x for x in document["added_tokens"]}
    numbers = {**model["vocab"], **{text: x["id"] for text, x in added.items()}}
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [gguf.TokenType.UNUSED] * size
    for text, number in numbers.items():
        tokens[number] = text
        types[number] = _type(text, added.get(text), model.get("unk_token"))
    scores = [_LEAST] * size
    for rank, pair in reversed(list(enumerate(model["merges"]))):
        scores[numbers["".join(pair.split(" ") if isinstance(pair, str) else pair)]] = -float(rank)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_add_space_prefix(_adds_space(document))


def _check_steps(document: Mapping[str, Any]) -> None:
    """Raise `InputError` unless a tokenizer only marks spaces before it merges, and splits none.

    Splits at marks of spaces change nothing if no piece has such a mark after its first character.
    """
    inner = any(_SPACE in piece[1:] for piece in document["model"]["vocab"])
    for step in (*flat(document.get("normalizer")), *flat(document.get("pre_tokenizer"))):
        match step:
            case {"type": "Prepend", "prepend": "\u2581"}:
                continue
            case {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}:
                continue
            case {"type": "Split", "pattern": {"String": " "}}:  # there is none left
                continue
            case {"type": "Metaspace", "replacement": "\u2581", **more}:
                if not (more.get("split", True) and inner):
                    continue
        raise InputError(
            f"The tokenizer changes or splits texts by {step['type']} in a way that llama.cpp does "
            f"not; {ADVICE}"
        )


def _type(text: str, added: dict[str, Any] | None, unknown: str | None) -> gguf.TokenType:
    if text == unknown:
        return gguf.TokenType.UNKNOWN
    if added is not None:
        return gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    is_byte = re.fullmatch(r"<0x[0-9A-F]{2}>", text)
    return gguf.TokenType.BYTE if is_byte else gguf.TokenType.NORMAL


def _adds_space(document: Mapping[str, Any]) -> bool:
    """Whether a tokenizer puts a space before a text."""
    return any(
        part["type"] == "Prepend"
        or (part["type"] == "Metaspace" and part.get("prepend_scheme") != "never")
        for part in (*flat(document.get("normalizer")), *flat(document.get("pre_tokenizer")))
    )
