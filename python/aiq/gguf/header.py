"""The header of a GGUF file: what kind of decoder it holds, its sizes, and its tokenizer."""

import tempfile
from pathlib import Path
from typing import Any

import gguf
from torch import nn

from aiq.decoders import read_tokenizer
from aiq.errors import GraphError, InputError
from aiq.gguf.pieces import has_pieces, write_pieces

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma3_text": "gemma3",
    "gpt2": "gpt2",
}
"""Kind of model in transformers -> architecture in GGUF files."""

_ROPE = "default"
_GEMMA3_PERIOD, _GEMMA3_THETA = 6, 10_000.0  # what llama.cpp takes for granted


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
    for rope in _ropes(config):
        if rope.get("rope_type", _ROPE) != _ROPE:
            raise GraphError(
                f"{type(model).__name__} scales its positions by rule {rope['rope_type']!r}, which "
                "aiq does not write to .gguf files; export it to .onnx or .xml."
            )
    if kind == "gemma3_text":
        _check_gemma3(config)
    return ARCHITECTURES[kind]


def _ropes(config: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Return the rules by which positions turn queries and keys, the one of most layers last."""
    found = getattr(config, "rope_parameters", None) or {}
    if any(isinstance(value, dict) for value in found.values()):  # one for each kind of attention
        return [found[kind] for kind in ("sliding_attention", "full_attention") if kind in found]
    return [found] if found else []


def _check_gemma3(config: Any) -> None:  # noqa: ANN401
    """Raise `GraphError` if llama.cpp would take other values than those of a Gemma 3."""
    every = [
        "full_attention" if i % _GEMMA3_PERIOD == _GEMMA3_PERIOD - 1 else "sliding_attention"
        for i in range(config.num_hidden_layers)
    ]
    rules = _ropes(config)
    differs = (
        list(config.layer_types) != every
        or config.query_pre_attn_scalar != config.head_dim
        or rules[0]["rope_theta"] != _GEMMA3_THETA
        or config.attn_logit_softcapping
        or config.final_logit_softcapping
    )
    if differs:
        raise GraphError(
            "This Gemma 3 has another order of attention, scale or positions than llama.cpp takes "
            "it to have; export it to .onnx or .xml."
        )


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
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(size)
        writer.add_value_length(size)
        writer.add_rope_dimension_count(size)
        writer.add_rope_freq_base(float(_ropes(config)[-1]["rope_theta"]))
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)
    writer.add_vocab_size(config.vocab_size)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    # OpenVINO GenAI opens no file without it; types are those of each tensor in any case.
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    if tokenizer is None:
        writer.add_tokenizer_model("none")
    else:
        with tempfile.TemporaryDirectory() as folder:
            read_tokenizer(tokenizer, config.vocab_size).save_pretrained(folder)
            _write_tokenizer(writer, Path(folder), config.vocab_size)


def _write_tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int) -> None:
    """Write a tokenizer of pairs of bytes, as GPT-2, Llama 3, Qwen and SmolLM have, or of pieces.

    Raises
    ------
    InputError
        If the folder holds no such tokenizer.
    """
    if has_pieces(folder):
        write_pieces(writer, folder, size)
        return
    try:
        vocabulary = gguf.BpeVocab(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The tokenizer is not one of pairs that a .gguf file can hold ({error}); "
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
    text = _text(folder)
    if "individual_digits" in text and '"individual_digits": true' in text.replace(" :", ":"):
        return "smollm"
    if r"\\p{N}{1,3}" in text:
        return "llama-bpe"
    return "qwen2" if r"\\p{N}|" in text else "gpt-2"


def _text(folder: Path) -> str:
    path = folder / "tokenizer.json"
    return path.read_text(encoding="utf-8") if path.exists() else ""
