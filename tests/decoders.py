"""Decoders of transformers with random weights, small enough for tests."""

import torch
from tokenizers import Tokenizer, normalizers
from tokenizers.decoders import ByteFallback, Fuse, Replace, Sequence
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "use_cache": False,
}

KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "gemma": (GemmaConfig, GemmaForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
    "gpt2": (GPT2Config, GPT2LMHeadModel),
}


MORE = {"mistral": (MistralConfig, MistralForCausalLM)}
"""Kinds that are others with options of their own."""


def decoder(kind="llama", *, tied=False, seed=0, **sizes):
    """Return a decoder whose layers differ in size and whose biases are not zero."""
    torch.manual_seed(seed)
    config, model = (KINDS | MORE)[kind]
    extra = {} if kind in {"llama", "mistral", "qwen2", "gpt2"} else {"head_dim": 16}
    if kind in {"gemma2", "gemma3"}:
        extra["query_pre_attn_scalar"] = 16
    found = model(config(**{**SIZES, **extra, **sizes, "tie_word_embeddings": tied}))
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            parameter.normal_(std=0.15)
            if "norm" in name:
                parameter.add_(1)
    return found.eval()


def tokens(batch=2, length=16, vocabulary=128, seed=0):
    """Return random numbers of tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (batch, length), generator=generator)


def tokenizer():
    """Return a tokenizer of all bytes, of three pairs of them, and of an end of text."""
    alphabet = sorted(ByteLevel.alphabet())
    pairs = [("t", "h"), ("th", "e"), ("a", "n")]
    words = [*alphabet, *("".join(pair) for pair in pairs)]
    inner = Tokenizer(BPE({word: i for i, word in enumerate(words)}, pairs))
    inner.pre_tokenizer, inner.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")


def pieces(*, prefixed=True):
    """Return a tokenizer of SentencePiece's kind: all ways to make a piece of two are merges."""
    made = ["th", "an", "the", "\u2581th", "\u2581the", "han", "man", "\u2581man", "\u2581\u2581"]
    known = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    known += [*"\u2581abcdefghijklmnopqrstuvwxyz,", *made]
    merges = [
        (piece[:i], piece[i:])
        for piece in made
        for i in range(1, len(piece))
        if {piece[:i], piece[i:]} <= set(known)
    ]
    inner = Tokenizer(
        BPE({x: i for i, x in enumerate(known)}, merges, byte_fallback=True, unk_token="<unk>")
    )
    parts = [normalizers.Prepend("\u2581")] if prefixed else []
    inner.normalizer = normalizers.Sequence([*parts, normalizers.Replace(" ", "\u2581")])
    inner.decoder = Sequence([Replace("\u2581", " "), ByteFallback(), Fuse()])
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


WORDS = 260
"""Number of tokens of the tokenizer."""
