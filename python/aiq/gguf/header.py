"""The header of a GGUF file: what kind of decoder it holds, its sizes, and its tokenizer."""

import tempfile
from pathlib import Path
from typing import Any

import gguf
from torch import nn

from aiq.errors import GraphError, InputError

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Kind of model in transformers -> architecture in GGUF files."""

_ROPE = "default"


def architecture(model: nn.Module) -> str:
    """Return the architecture of a decoder in GGUF files.

    Raises
    ------
    GraphError
        If the model is not a decoder of transformers, or of a kind that cannot be written.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in ARCHITECTURES or not hasattr(model, "lm_head"):
        raise GraphError(
            f"A .gguf file holds a decoder of transformers ({', '.join(ARCHITECTURES)}), "
            f"and the model is {type(model).__name__}; export it to .onnx, .xml or .pt2."
        )
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", _ROPE)
    if rope != _ROPE:
        raise GraphError(
            f"{type(model).__name__} scales its positions by rule {rope!r}, which aiq does not "
            "write to .gguf files; export it to .onnx or .xml."
        )
    return ARCHITECTURES[kind]


def write_header(writer: gguf.GGUFWriter, config: Any, tokenizer: Any) -> None:  # noqa: ANN401
    """Write the sizes of a decoder, and its tokenizer.

    Parameters
    ----------
    writer
        The file.
    config
        Configuration of the model, of transformers.
    tokenizer
        Tokenizer of transformers, or a folder that holds one, or ``None``: the file then has no
        tokenizer, and programs that read it have to be given the numbers of tokens.
    """
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if tokenizer is None:
        writer.add_tokenizer_model("none")
    elif isinstance(tokenizer, str | Path):
        _write_tokenizer(writer, Path(tokenizer), config.vocab_size)
    else:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            _write_tokenizer(writer, Path(folder), config.vocab_size)


def _write_tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int) -> None:
    """Write a tokenizer of pairs of bytes, as GPT-2, Llama 3, Qwen and SmolLM have.

    Raises
    ------
    InputError
        If the folder holds no such tokenizer.
    """
    try:
        vocabulary = gguf.BpeVocab(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The tokenizer is not one of pairs of bytes that a .gguf file can hold ({error}); "
            "leave it out, and give programs that read the file the numbers of tokens."
        ) from error
    tokens, _, types = zip(*vocabulary.all_tokens(), strict=True)
    missing = range(len(tokens), size)  # models may have more rows than tokens
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitting(folder))
    writer.add_token_list([*tokens, *(f"[PAD{i}]".encode() for i in missing)])
    writer.add_token_types([*types, *(gguf.TokenType.UNUSED for _ in missing)])
    gguf.SpecialVocab(folder, load_merges=True, n_vocab=size).add_to_gguf(writer, quiet=True)


def _splitting(folder: Path) -> str:
    """Return the name by which llama.cpp knows how a tokenizer splits a text before merging."""
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    if "individual_digits" in text and '"individual_digits": true' in text.replace(" :", ":"):
        return "smollm"
    if r"\\p{N}{1,3}" in text:
        return "llama-bpe"
    return "qwen2" if r"\\p{N}|" in text else "gpt-2"
