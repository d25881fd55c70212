"""Read what a GGUF file says of its decoder, of which transformers leaves a part out.

transformers 5.24 takes its own defaults for what it does not read, such as the width of a head, and
says nothing. llama.cpp has other defaults for what a file does not say. All that a file says is
therefore set here, with the defaults of llama.cpp, and what cannot be set is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from aiq.errors import InputError

_NAMES: Mapping[str, str] = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "vocab_size": "vocab_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "rope.dimension_count": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
"""Key of a file, without the kind of decoder before it -> name in transformers."""

_WINDOW = "attention.sliding_window"

_OF_GEMMA = {
    _WINDOW: "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}

_MORE: Mapping[str, Mapping[str, str]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma2": _OF_GEMMA,
    "gemma3": _OF_GEMMA,
    "gpt2": {"feed_forward_length": "n_inner"},
}
"""Kind of decoder -> names of its own. No other kinds have been compared with llama.cpp."""

PERIODS = {"gemma2": 2, "gemma3": 6}
"""Kind of decoder -> every how many layers one attends to all tokens, and not to a window."""

_LARGEST = {"gemma2": 46, "gemma3": 62}
"""Layers of the decoder of a kind whose attention is not scaled by the width of its heads."""

_THETA = 10_000.0  # where a file does not say it
FACTORS = "rope_freqs.weight"
"""Tensor of a file with the numbers by which frequencies of positions are divided."""

_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""What all Llamas of version 3 have; files hold only the factors that follow from it."""

ADVICE = "give the folder of transformers from which the file was made."


def read_config(path: Path) -> Any:  # noqa: ANN401 - a configuration of transformers
    """Return the configuration of the decoder in a GGUF file.

    Raises
    ------
    InputError
        If the decoder is of a kind, or says something of itself, that transformers cannot follow.
    """
    import gguf  # noqa: PLC0415
    from transformers import AutoConfig  # noqa: PLC0415

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    reader = gguf.GGUFReader(path)
    kind = str(reader.fields["general.architecture"].contents())
    if kind not in _MORE:
        raise InputError(
            f"{path} holds a decoder of kind {kind!r:.50}, and aiq reads only files of "
            f"{', '.join(_MORE)}; {ADVICE}"
        )
    said = {
        key.removeprefix(f"{kind}."): field.contents()
        for key, field in reader.fields.items()
        if key.startswith(f"{kind}.")
    }
    if kind == "gemma3" and _WINDOW not in said:
        raise InputError(f"{path} does not say to how many tokens its layers attend; {ADVICE}")
    _set(config, kind, said)
    for key in _left_out(config, kind, said):
        raise InputError(
            f"{path} says {kind}.{key} = {said[key]!r:.50}, which transformers does not follow; "
            f"{ADVICE}"
        )
    for tensor in reader.tensors:
        if tensor.name == FACTORS and not _has_set(config, kind, torch.tensor(tensor.data)):
            raise InputError(
                f"{path} scales positions by other factors than Llama 3, which transformers does "
                f"not follow; {ADVICE}"
            )
    return config


def _set(config: Any, kind: str, said: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Set what a file says, and what llama.cpp takes for granted if it does not."""
    heads = said["attention.head_count"]
    usual = {
        "attention.head_count_kv": heads,
        "rope.freq_base": _THETA,
        "rope.freq_base_swa": _THETA,
    }
    every = {**usual, "attention.key_length": said["embedding_length"] // heads, **said}
    for key, name in {**_NAMES, **_MORE[kind]}.items():
        if key in every and (hasattr(config, name) or (kind, name) == ("qwen2", "head_dim")):
            setattr(config, name, every[key])
    rules = getattr(config, "rope_parameters", None)
    if rules:
        rule = rules.get("full_attention", rules)
        rule["rope_theta"] = every["rope.freq_base"]
        if rule is not rules:
            rules["sliding_attention"]["rope_theta"] = every["rope.freq_base_swa"]
        factor = every.get("rope.scaling.factor", 1.0)
        if factor != 1 and every.get("rope.scaling.type", "linear") == "linear":
            rule |= {"rope_type": "linear", "factor": factor}
    if kind in PERIODS:
        config.query_pre_attn_scalar = scaled_width(config, kind)


def scaled_width(config: Any, kind: str) -> int:  # noqa: ANN401
    """Return the width by whose square root llama.cpp divides the attention of a Gemma 2 or 3."""
    is_largest = config.num_hidden_layers == _LARGEST[kind]
    return int(config.hidden_size // config.num_attention_heads if is_largest else config.head_dim)


def _left_out(config: Any, kind: str, said: Mapping[str, Any]) -> list[str]:  # noqa: ANN401
    """Return what a file says and a configuration does not."""
    followed: dict[str, tuple[Any, ...]] = {
        "rope.freq_base": (said.get("rope.freq_base"),),
        "rope.freq_base_swa": (said.get("rope.freq_base_swa") if kind == "gemma3" else None,),
        "rope.scaling.type": ("none", "linear"),
        "rope.scaling.factor": (said.get("rope.scaling.factor"),),
        "rope.scaling.finetuned": (True, False),
        "attention.sliding_window_pattern": (PERIODS.get(kind),),
    }
    for key, name in {**_NAMES, **_MORE[kind]}.items():
        followed[key] = (getattr(config, name, None),)
    return [key for key, value in said.items() if value not in followed.get(key, ())]


def _has_set(config: Any, kind: str, factors: torch.Tensor) -> bool:  # noqa: ANN401
    """Set the rule by which Llama 3 scales positions; whether the factors of a file follow it."""
    if kind != "llama":
        return False
    config.rope_parameters |= {"rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3}
    found = position_factors(config)
    return found.shape == factors.shape and torch.allclose(found, factors, rtol=1e-4)


def position_factors(config: Any) -> torch.Tensor:  # noqa: ANN401
    """Return by what the rule of Llama 3 divides the frequencies of positions, float32."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: PLC0415

    divided: torch.Tensor = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0]
    exponents = torch.arange(len(divided), dtype=torch.float64) / len(divided)
    plain = float(config.rope_parameters["rope_theta"]) ** -exponents
    return (plain / divided).float()


def check_numbers(model: torch.nn.Module, path: Path) -> None:
    """Raise `InputError` if transformers has left out numbers of a file, such as biases."""
    import gguf  # noqa: PLC0415

    tensors = gguf.GGUFReader(path).tensors
    held = sum(int(tensor.n_elements) for tensor in tensors if tensor.name != FACTORS)
    read = sum(parameter.numel() for parameter in model.parameters())
    if held > read:
        raise InputError(
            f"{path} holds {held} numbers, and transformers reads {read} of them; {ADVICE}"
        )
