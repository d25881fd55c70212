"""Tokenizers in GGUF files split texts as the file says, in llama.cpp and in transformers."""

import json
from itertools import product

import gguf
import pytest
from decoders import decoder, pieces, tokens
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.decoders import ByteLevel
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from aiq import decoders
from aiq.errors import InputError
from aiq.gguf.write import write_gguf
from aiq.graph import trace
from aiq.splitting import splitting_name

SPACE, BREAK = "\u0120", "\u010a"  # as characters stand for bytes
PAIRS = [
    *((SPACE, SPACE), (BREAK, BREAK), ("1", "2"), ("12", "3"), ("123", "4"), (SPACE, "1")),
    *((".", BREAK), ("t", "H"), ("a", "n"), ("an", "A"), ("'", "S"), ("n", "'S"), (SPACE, "an")),
]
WORD = "theme"  # a token that no pairs make
TEXTS = (
    "x\n\n1",
    "a  1",
    "1234",
    " 1234",
    "end.\n\nA",
    "tHe",
    "anA",
    "an'S",
    " an an",
    "theme",
    "\tan",
)

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = TEKKEN.replace(r"\p{M}]+|[", r"\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[").replace(
    r"\p{M}]*|\p{N}|", r"\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|"
)


def byte_level(*, words=False, prefix=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=words)


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


DIGITS = pre_tokenizers.Digits(individual_digits=True)

KNOWN = {
    "gpt-2": ([byte_level(words=True)], False),
    "smollm": ([DIGITS, byte_level(words=True)], False),
    "llama-bpe": ([split(LLAMA3), byte_level()], True),
    "dbrx": ([split(LLAMA3), byte_level()], False),
    "qwen2": ([split(QWEN2), byte_level()], False),
    "tekken": ([split(TEKKEN), byte_level()], True),
    "gpt-4o": ([split(GPT4O), byte_level()], False),
}


def words(steps, keeps_words=False, normalizer=None, **more):
    """Return a tokenizer of bytes and a few pairs, which begins each text with ``<s>``."""
    made = ["".join(pair) for pair in PAIRS]
    vocabulary = ["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *made, WORD]
    numbers = {word: i for i, word in enumerate(vocabulary)}
    inner = Tokenizer(BPE(numbers, PAIRS, ignore_merges=keeps_words, **more))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Sequence(steps), ByteLevel()
    if normalizer is not None:
        inner.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<s>")


def written(tokenizer, path):
    """Write a decoder with a tokenizer."""
    model = decoder(num_hidden_layers=1, vocab_size=320)
    write_gguf(model, path, {}, trace(model, tokens()), [tokens()], tokenizer)


@pytest.mark.parametrize("name", KNOWN)
def test_a_file_says_how_a_text_is_split(name, tmp_path):
    steps, keeps_words = KNOWN[name]
    path, tokenizer = tmp_path / "model.gguf", words(steps, keeps_words)
    written(tokenizer, path)
    fields = gguf.GGUFReader(path).fields
    assert fields["tokenizer.ggml.pre"].contents() == name
    assert not fields["tokenizer.ggml.add_bos_token"].contents()
    again = decoders.load(path).tokenizer
    for text in TEXTS:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("name", KNOWN)
def test_llama_cpp_splits_texts_as_transformers_does(name, tmp_path):
    pytest.importorskip("xllamacpp")
    from aiq.gguf.llamacpp import LlamaCpp  # noqa: PLC0415

    steps, keeps_words = KNOWN[name]
    path, tokenizer = tmp_path / "model.gguf", words(steps, keeps_words)
    written(tokenizer, path)
    with LlamaCpp(path, 64) as program:
        for text in TEXTS:
            numbers = tokenizer(text)["input_ids"]
            found = [program.run(prompt, 1, 8).tokens for prompt in (text, numbers)]
            assert found[0] == found[1], text


def test_the_texts_tell_most_splittings_apart():
    """Texts that all tokenizers split alike would test nothing."""
    found = {
        name: [tuple(words(*made)(text)["input_ids"]) for text in TEXTS]
        for name, made in KNOWN.items()
    }
    assert all(found[a] != found[b] for a, b in product(KNOWN, KNOWN) if a != b)


UNKNOWN = {
    "other expression": ([split(r"\p{N}{1,3}|\p{L}+|."), byte_level()], False),
    "removed": ([pre_tokenizers.Split(Regex(LLAMA3), "removed"), byte_level()], True),
    "inverted": (
        [pre_tokenizers.Split(Regex(LLAMA3), "isolated", invert=True), byte_level()],
        True,
    ),
    "runs of digits": ([pre_tokenizers.Digits(), byte_level(words=True)], False),
    "space before a text": ([byte_level(words=True, prefix=True)], False),
    "no splitting": ([byte_level()], False),
    "no bytes": ([pre_tokenizers.Whitespace()], False),
    "whole words": ([split(QWEN2), byte_level()], True),
    "small letters": ([byte_level(words=True)], False, normalizers.Lowercase()),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_splitting_that_llama_cpp_does_not_know_is_refused(name, tmp_path):
    path = tmp_path / "model.gguf"
    with pytest.raises(InputError, match=r"no name for, .*export the plan to a folder"):
        written(words(*UNKNOWN[name]), path)
    assert not path.exists()


def test_composed_characters_are_left_to_the_text():
    tokenizer = words([split(QWEN2), byte_level()], normalizer=normalizers.NFC())
    assert splitting_name(json.loads(tokenizer.backend_tokenizer.to_str())) == "qwen2"


@pytest.mark.parametrize("name", ["deepseek-v3", "default", None])
def test_a_file_whose_tokenizer_transformers_would_misread_is_refused(name, tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    with monkeypatch.context() as patch:
        add = gguf.GGUFWriter.add_tokenizer_pre
        replaced = (lambda *_: None) if name is None else lambda self, _: add(self, name)
        patch.setattr(gguf.GGUFWriter, "add_tokenizer_pre", replaced)
        written(words([byte_level(words=True)]), path)
    with pytest.raises(InputError, match=f"splits texts by the rule {name!r}, .*give the folder"):
        decoders.load(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"normalizer": normalizers.Lowercase()}, "by Lowercase"),
        ({"normalizer": normalizers.Replace("a", "b")}, "by Replace"),
        ({"pre_tokenizer": pre_tokenizers.Digits()}, "by Digits"),
        ({"pre_tokenizer": pre_tokenizers.Metaspace(split=True)}, "by Metaspace"),
    ],
)
def test_pieces_that_llama_cpp_would_make_otherwise_are_refused(change, words, tmp_path):
    tokenizer = pieces()
    for key, value in change.items():
        setattr(tokenizer.backend_tokenizer, key, value)
    with pytest.raises(InputError, match=words):
        written(tokenizer, tmp_path / "model.gguf")


def test_a_file_of_which_transformers_leaves_something_out_is_refused(tmp_path):
    path, names = tmp_path / "model.gguf", words([byte_level(words=True)])
    for has_biases in (False, True):
        model = decoder(num_hidden_layers=1, vocab_size=320, attention_bias=has_biases)
        write_gguf(model, path, {}, trace(model, tokens()), [tokens()], names)
        if has_biases:
            with pytest.raises(InputError, match=r"transformers reads .* of them; give the folder"):
                decoders.load(path)
        else:
            assert decoders.load(path).model is not None
