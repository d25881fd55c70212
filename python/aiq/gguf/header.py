"""The header of a GGUF file: what kind of decoder it holds, its sizes, and its tokenizer."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
from torch import nn

from aiq.decoders import read_tokenizer
from aiq.errors import GraphError, InputError
from aiq.gguf.pieces import has_pieces, write_pieces
from aiq.gguf_config import PERIODS, scaled_width
from aiq.splitting import ADVICE, splitting_name

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "gpt2": "gpt2",
}
"""Kind of model in transformers -> architecture in GGUF files."""

_GELU = frozenset({"gelu_new", "gelu_pytorch_tanh", "gelu_fast"})  # by the hyperbolic tangent
_SILU = frozenset({"silu", "swish"})
_ACTIVATIONS: Mapping[str, frozenset[str]] = {
    "llama": _SILU,
    "qwen2": _SILU,
    "qwen3": _SILU,
    "gemma": _GELU,
    "gemma2": _GELU,
    "gemma3": _GELU,
    "gpt2": _GELU,
}
"""Architecture -> names in transformers of the activation that llama.cpp computes in it."""

_USUAL = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "use_bidirectional_attention": False,
}
"""Options of transformers -> the value that llama.cpp takes for granted."""

_ROPE, LINEAR, LLAMA3 = "default", "linear", "llama3"
_GEMMA3_THETA = 10_000.0  # what llama.cpp takes for granted


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
    *others, last = map(rope_type, _ropes(config) or [{}])
    known = {_ROPE, LINEAR, *((LLAMA3,) if ARCHITECTURES[kind] == "llama" else ())}
    for rule in (last, *others):
        if rule not in known:
            raise GraphError(
                f"{type(model).__name__} scales its positions by rule {rule!r}, which aiq does not "
                "write to .gguf files; export it to a folder for OpenVINO or ONNX Runtime."
            )
        known = {_ROPE}
    _check_taken_for_granted(config)
    if ARCHITECTURES[kind] in PERIODS:
        _check_windows(config)
    return ARCHITECTURES[kind]


def _check_taken_for_granted(config: Any) -> None:  # noqa: ANN401
    """Raise `GraphError` if llama.cpp would compute something else, as files do not say what."""
    names = ("hidden_activation", "activation_function", "hidden_act")
    key = next(name for name in names if getattr(config, name, None))
    known: dict[str, frozenset[Any]] = {key: _ACTIVATIONS[ARCHITECTURES[config.model_type]]}
    known |= {name: frozenset({value}) for name, value in _USUAL.items() if hasattr(config, name)}
    for name, values in known.items():
        found = getattr(config, name) or False
        if found not in values:
            raise GraphError(
                f"This decoder has {name} {found!r}, and llama.cpp computes {min(values)!r} in all "
                f"decoders of kind {config.model_type}; export it to a folder for OpenVINO or ONNX "
                "Runtime."
            )


def _ropes(config: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Return the rules by which positions turn queries and keys, the one of most layers last."""
    found = getattr(config, "rope_parameters", None) or {}
    if any(isinstance(value, dict) for value in found.values()):  # one for each kind of attention
        return [found[kind] for kind in ("sliding_attention", "full_attention") if kind in found]
    return [found] if found else []


def rope_type(rule: Mapping[str, Any]) -> str:
    """Return by which rule positions are scaled."""
    return str(rule.get("rope_type", _ROPE))


def _check_windows(config: Any) -> None:  # noqa: ANN401
    """Raise `GraphError` if llama.cpp would take other values than those of a Gemma 2 or 3."""
    kind = ARCHITECTURES[config.model_type]
    every = [
        "sliding_attention" if (i + 1) % PERIODS[kind] else "full_attention"
        for i in range(config.num_hidden_layers)
    ]
    caps = (config.attn_logit_softcapping, config.final_logit_softcapping)
    of_kind = (_ropes(config)[0]["rope_theta"] == _GEMMA3_THETA and not any(caps)) or all(caps)
    if (
        list(config.layer_types) != every
        or config.query_pre_attn_scalar != scaled_width(config, kind)
        or not of_kind
    ):
        raise GraphError(
            f"This {kind.capitalize()} has another order of attention, scale, cap or positions "
            "than llama.cpp takes it to have; export it to a folder for OpenVINO."
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
    writer.add_context_length(_context(config))
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
        rope = _ropes(config)[-1]
        writer.add_rope_freq_base(float(rope["rope_theta"]))
        if rope_type(rope) == LINEAR:
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(rope["factor"]))
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if ARCHITECTURES[config.model_type] in PERIODS:
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_vocab_size(config.vocab_size)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    # OpenVINO GenAI opens no file without it; types are those of each tensor in any case.
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    if tokenizer is None:
        writer.add_tokenizer_model("none")
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = read_tokenizer(tokenizer, config.vocab_size)
            found.save_pretrained(folder)
            _write_tokenizer(writer, found, Path(folder), config.vocab_size)


def _context(config: Any) -> int:  # noqa: ANN401
    """Return the tokens up to which llama.cpp computes what the decoder does.

    Only in Gemma 2 and 3 does it know of layers that attend to a window. All tokens are in the
    window of a text that is no longer.
    """
    is_known = ARCHITECTURES[config.model_type] in PERIODS
    window = None if is_known else getattr(config, "sliding_window", None)
    return int(min(config.max_position_embeddings, window or config.max_position_embeddings))


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, folder: Path, size: int) -> None:  # noqa: ANN401
    """Write a tokenizer of pairs of bytes, as GPT-2, Llama 3, Qwen and SmolLM have, or of pieces.

    Raises
    ------
    InputError
        If the folder holds no such tokenizer.
    """
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    is_of_pairs = document.get("model", {}).get("type") == "BPE"
    if not is_of_pairs or not document.get("decoder"):
        raise InputError(f"The tokenizer is not one of pairs that a .gguf file can hold; {ADVICE}")
    if has_pieces(document):
        write_pieces(writer, document, size)
        special = gguf.SpecialVocab(folder, n_vocab=size)
    else:
        splitting = splitting_name(document)
        tokens, _, types = zip(*gguf.BpeVocab(folder).all_tokens(), strict=True)
        missing = range(len(tokens), size)  # models may have more rows than tokens
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(splitting)
        writer.add_token_list([*tokens, *(f"[PAD{i}]".encode() for i in missing)])
        writer.add_token_types([*types, *(gguf.TokenType.UNUSED for _ in missing)])
        special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=size)
    # What the package reads from files is a guess, and llama.cpp has its own for what is missing.
    numbers = [-1, *tokenizer("a")["input_ids"], -1]
    special.add_special_token = {
        "bos": numbers[1] == tokenizer.bos_token_id,
        "eos": numbers[-2] == tokenizer.eos_token_id,
    }
    special.add_to_gguf(writer, quiet=True)
