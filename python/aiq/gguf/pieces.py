"""Write a tokenizer of SentencePiece's pairs, as Llama 2, Mistral and Gemma have, to a GGUF file.

Such a tokenizer starts from characters, with bytes for those that it does not know, and merges
neighbours. transformers keeps merges in their order. llama.cpp has a score for each piece in their
place: it merges the pair whose piece has the largest score.
"""

import json
import re
from pathlib import Path
from typing import Any

import gguf

_LEAST = -1e9
"""Score of pieces that no merge makes."""


def has_pieces(folder: Path) -> bool:
    """Whether a folder holds such a tokenizer, in a file ``tokenizer.json``."""
    path = folder / "tokenizer.json"
    model = json.loads(path.read_text(encoding="utf-8"))["model"] if path.exists() else {}
    return model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def write_pieces(writer: gguf.GGUFWriter, folder: Path, size: int) -> None:
    """Write the tokenizer of a folder.

    Parameters
    ----------
    writer
        The file.
    folder
        The folder, see `has_pieces`.
    size
        Number of tokens of the model, which may be larger than that of the tokenizer.
    """
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
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
    special = gguf.SpecialVocab(folder, n_vocab=size)
    special.add_to_gguf(writer, quiet=True)
    if "bos" not in special.add_special_token:  # llama.cpp would put it before a text
        writer.add_add_bos_token(False)


def _type(text: str, added: dict[str, Any] | None, unknown: str | None) -> gguf.TokenType:
    if text == unknown:
        return gguf.TokenType.UNKNOWN
    if added is not None:
        return gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    is_byte = re.fullmatch(r"<0x[0-9A-F]{2}>", text)
    return gguf.TokenType.BYTE if is_byte else gguf.TokenType.NORMAL


def _adds_space(document: dict[str, Any]) -> bool:
    """Whether a tokenizer puts a space before a text."""
    parts: list[dict[str, Any]] = []
    for key in ("normalizer", "pre_tokenizer"):
        found = document.get(key) or {}
        parts += found.get("normalizers", found.get("pretokenizers", [found]))
    return any(
        part.get("type") == "Prepend"
        or (part.get("type") == "Metaspace" and part.get("prepend_scheme") != "never")
        for part in parts
    )
