"""How tokenizers of pairs of bytes split a text before they merge, by the names of llama.cpp.

A GGUF file has only a name for it. With another splitting a tokenizer returns other tokens for some
texts, and nothing says so. What is not known here is therefore refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiq.errors import InputError

_DIGITS, _WORDS = "single digits", "words of GPT-2"

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s|\p{{N}}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"


@dataclass(frozen=True, slots=True)
class _Splitting:
    """A splitting: the expressions that cut a text, and whether a word that is a token stays one.

    Without the latter, a word is always made of pairs.
    """

    parts: tuple[str, ...]
    keeps_words: bool = False


_KNOWN: Mapping[str, _Splitting] = {
    "gpt-2": _Splitting((_WORDS,)),
    "smollm": _Splitting((_DIGITS, _WORDS)),
    "llama-bpe": _Splitting((_LLAMA3,), keeps_words=True),
    "dbrx": _Splitting((_LLAMA3,)),
    "qwen2": _Splitting((_LLAMA3.replace("{1,3}", ""),)),
    "tekken": _Splitting((_CASED % ("", "", ""),), keeps_words=True),
    "gpt-4o": _Splitting((_CASED % (_SHORT, _SHORT, "{1,3}"),)),
}
"""Name in GGUF files -> splitting, as in ``llama-vocab.cpp`` of llama.cpp."""

_ALIKE: Mapping[str, str] = {
    **dict.fromkeys(("phi-2", "mpt", "olmo", "jais", "trillion", "exaone4", "mellum"), "gpt-2"),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "minerva-7b"), "smollm"),
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "pixtral"), "llama-bpe"),
    **dict.fromkeys(("stablelm2", "hunyuan", "megrez", "deepseek-r1-qwen"), "qwen2"),
    "smaug-bpe": "dbrx",
    "exaone": "smollm",
    "llama4": "gpt-4o",
}
"""Other names of the same splittings."""

ADVICE = (
    "export the plan to a folder for OpenVINO or ONNX Runtime, which holds any tokenizer, or leave "
    "the tokenizer out and give programs that read the file the numbers of tokens."
)
"""What to do with a tokenizer that a GGUF file cannot hold."""


def splitting_name(document: Mapping[str, Any]) -> str:
    """Return the name by which llama.cpp knows the splitting of a tokenizer.

    Characters are composed (NFC) by some tokenizers and not by llama.cpp; texts that are composed
    already, as nearly all are, have the same tokens.

    Parameters
    ----------
    document
        What ``tokenizer.json`` holds, of a tokenizer of pairs of bytes.

    Raises
    ------
    InputError
        If llama.cpp would split texts in another way, or change them before.
    """
    model, steps = document["model"], list(flat(document.get("pre_tokenizer")))
    changes = [step["type"] for step in flat(document.get("normalizer")) if step["type"] != "NFC"]
    marks = [model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")]
    found = _Splitting(tuple(filter(None, map(_part, steps))), bool(model.get("ignore_merges")))
    ends = [*steps[-1:], document["decoder"]]
    is_plain = not any([*changes, *marks]) and [x["type"] for x in ends] == ["ByteLevel"] * 2
    for name, known in _KNOWN.items():
        if is_plain and found == known:
            return name
    raise InputError(
        f"The tokenizer splits or changes texts in a way that llama.cpp has no name for, as far as "
        f"aiq knows ({', '.join([*changes, *found.parts]) or 'no splitting':.100}); {ADVICE}"
    )


def flat(step: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield a step of a tokenizer, or those of a sequence of steps."""
    if step is not None:
        inner = step.get("pretokenizers", step.get("normalizers"))
        yield from [step] if inner is None else (x for part in inner for x in flat(part))


def _part(step: Mapping[str, Any]) -> str | None:
    """Return what a step does to a text, or ``None`` if it only makes bytes of it."""
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": regex}:
            return _WORDS if regex else None
        case {"type": "Digits", "individual_digits": True}:
            return _DIGITS
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"}:
            return f"all but {pattern}" if step.get("invert") else pattern
    return str(step["type"])


def restore_splitting(tokenizer: Any, name: str | None) -> None:  # noqa: ANN401
    """Let a tokenizer that transformers read from a GGUF file split texts as the file says.

    transformers 5.24 knows some names, and splits as GPT-2 does for all others.

    Parameters
    ----------
    tokenizer
        The tokenizer of pairs of bytes, which is changed.
    name
        Name in the file, ``None`` if it has none.

    Raises
    ------
    InputError
        If the name is not known.
    """
    from tokenizers import Regex, pre_tokenizers  # noqa: PLC0415

    known = _KNOWN.get(_ALIKE.get(name or "", name or ""))
    if known is None:
        raise InputError(
            f"The file says that its tokenizer splits texts by the rule {name!r:.50}, which "
            "transformers does not follow; give the folder of transformers from which the file "
            "was made."
        )
    steps = [
        pre_tokenizers.Digits(individual_digits=True)
        if part == _DIGITS
        else pre_tokenizers.Split(Regex(part), "isolated")
        for part in known.parts
        if part != _WORDS
    ]
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=_WORDS in known.parts)
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, last])
    backend.model.ignore_merges = known.keeps_words
