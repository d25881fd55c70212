"""What a GGUF file says of its decoder is what `decoders.load` makes of it."""

import gguf
import pytest
import torch
from decoders import WORDS, decoder, tokenizer, tokens

from aiq import decoders
from aiq.errors import GraphError, InputError
from aiq.gguf.write import write_gguf
from aiq.gguf_config import read_config
from aiq.graph import trace

THETA = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
LINEAR = {"rope_type": "linear", "rope_theta": 777.0, "factor": 8.0}
LOCAL = {"rope_type": "default", "rope_theta": 10_000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
TRUE_LLAMA3 = LLAMA3 | {"rope_theta": 5e5, "factor": 32.0, "original_max_position_embeddings": 8192}


def written(kind, path, **options):
    """Write a decoder, and return it."""
    model = decoder(kind, tied=True, **{"vocab_size": WORDS, **options})
    write_gguf(model, path, {}, trace(model, tokens()), [tokens()], tokenizer())
    return model


def difference(model, other, inputs):
    """Return the relative difference of the logits of two decoders."""
    with torch.no_grad():
        expected, found = model(inputs).logits, other(inputs).logits
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {"head_dim": 24, "rms_norm_eps": 0.01, **THETA}),
        ("llama", {"rope_parameters": LINEAR}),
        ("llama", {"rope_parameters": TRUE_LLAMA3, "head_dim": 64}),
        ("mistral", {"num_key_value_heads": 4, "head_dim": 32}),
        ("qwen2", {"rms_norm_eps": 0.01, **THETA}),
        ("qwen2", {"rope_parameters": LINEAR}),
        ("qwen3", {}),
        ("qwen3", {"head_dim": 32, **THETA}),
        ("gemma2", {}),
        ("gemma2", {"sliding_window": 5, "attn_logit_softcapping": 1.0, **THETA}),
        ("gemma2", {"head_dim": 32, "query_pre_attn_scalar": 32, "final_logit_softcapping": 2.0}),
        ("gemma3", {}),
        ("gemma3", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 5}),
        (
            "gemma3",
            {
                "num_hidden_layers": 6,
                "rope_parameters": {"full_attention": LINEAR, "sliding_attention": LOCAL},
            },
        ),
        ("gpt2", {"n_inner": 80, "layer_norm_epsilon": 0.01}),
    ],
)
def test_a_file_is_read_as_the_decoder_that_was_written(kind, options, tmp_path):
    path = tmp_path / "model.gguf"
    model = written(kind, path, **options)
    assert difference(model, decoders.load(path).model, tokens(1, 16, WORDS)) < 1e-4


def llama_cpp_differs(model, path):
    """Return the difference of the logarithms of probability in units of their deviation."""
    from aiq.gguf.llamacpp import LlamaCpp  # noqa: PLC0415

    inputs = tokens(1, vocabulary=WORDS)
    with LlamaCpp(path, 64) as program:
        for last in range(15, 0, -1):  # it returns no token that is part of a character
            found = program.run(inputs[0, : last + 1].tolist(), 1, WORDS)
            if found.tokens:
                break
    logs = torch.empty(WORDS)
    for number, log in found.tokens[0]:
        logs[number] = log
    with torch.no_grad():
        expected = model(inputs).logits[0, last].log_softmax(-1)
    return float((logs - expected).std() / expected.std())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {"rope_parameters": LINEAR}),
        ("llama", {"rope_parameters": LLAMA3}),
        ("gemma2", {"sliding_window": 5, "attn_logit_softcapping": 1.0, **THETA}),
        ("gemma2", {"head_dim": 32, "query_pre_attn_scalar": 32, "final_logit_softcapping": 2.0}),
        (
            "gemma3",
            {
                "num_hidden_layers": 6,
                "rope_parameters": {"full_attention": LINEAR, "sliding_attention": LOCAL},
            },
        ),
    ],
)
def test_llama_cpp_computes_what_the_decoder_does(kind, options, tmp_path):
    pytest.importorskip("xllamacpp")
    path = tmp_path / "model.gguf"
    assert llama_cpp_differs(written(kind, path, **options), path) < 0.01


@pytest.mark.parametrize(
    ("kind", "layers", "width"),
    [("gemma2", 46, 8), ("gemma2", 45, 16), ("gemma3", 62, 8)],
)
def test_the_largest_gemmas_have_another_scale(kind, layers, width, tmp_path):
    """llama.cpp knows the largest decoder by its layers: it has fewer and wider heads."""
    path = tmp_path / "model.gguf"
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": layers}
    model = decoder(kind, tied=True, vocab_size=WORDS, query_pre_attn_scalar=width, **sizes)
    short = trace(
        decoder(kind, tied=True, vocab_size=WORDS, **sizes | {"num_hidden_layers": 1}), tokens()
    )
    write_gguf(model, path, {}, short, [tokens()], tokenizer())
    assert read_config(path).query_pre_attn_scalar == width
    model.config.query_pre_attn_scalar += 1
    with pytest.raises(GraphError, match="another order of attention, scale, cap"):
        write_gguf(model, path, {}, short, [tokens()], tokenizer())


@pytest.fixture
def says(monkeypatch):
    """Return a function that lets files say something more."""

    def add(key, value, call="add_uint32"):
        plain = gguf.GGUFWriter.add_quantization_version

        def both(self, version):
            plain(self, version)
            getattr(self, call)(key.format(arch=self.arch), value)

        monkeypatch.setattr(gguf.GGUFWriter, "add_quantization_version", both)

    return add


@pytest.mark.parametrize(
    ("kind", "key", "value", "call"),
    [
        ("llama", "{arch}.attention.sliding_window", 5, "add_uint32"),
        ("llama", "{arch}.rope.scaling.type", "yarn", "add_string"),
        ("llama", "{arch}.rope.freq_base_swa", 77.0, "add_float32"),
        ("qwen2", "{arch}.logit_scale", 0.5, "add_float32"),
        ("qwen2", "{arch}.final_logit_softcapping", 30.0, "add_float32"),
        ("qwen3", "{arch}.expert_count", 4, "add_uint32"),
        ("gemma3", "{arch}.attention.sliding_window_pattern", 3, "add_uint32"),
        ("gpt2", "{arch}.attention.layer_norm_rms_epsilon", 0.5, "add_float32"),
        ("gpt2", "{arch}.attention.head_count_kv", 2, "add_uint32"),
    ],
)
def test_what_transformers_does_not_follow_is_refused(kind, key, value, call, tmp_path, says):
    path = tmp_path / "model.gguf"
    says(key, value, call)
    written(kind, path, num_hidden_layers=1)
    with pytest.raises(InputError, match=r"says .*, which transformers does not follow; give"):
        decoders.load(path)


@pytest.mark.parametrize(
    ("key", "value", "call"),
    [
        ("{arch}.rope.scaling.type", "none", "add_string"),
        ("{arch}.rope.scaling.finetuned", False, "add_bool"),
    ],
)
def test_what_changes_nothing_is_read(key, value, call, tmp_path, says):
    path = tmp_path / "model.gguf"
    says(key, value, call)
    model = written("llama", path, num_hidden_layers=1)
    found = decoders.load(path).model
    assert difference(model, found, tokens(1, 16, WORDS)) < 1e-4


def test_a_factor_without_a_rule_is_linear_as_in_llama_cpp(tmp_path, says):
    path = tmp_path / "model.gguf"
    says("{arch}.rope.scaling.factor", 8.0, "add_float32")
    written("llama", path, rope_parameters=LINEAR | {"rope_type": "default"})
    model = decoder("llama", tied=True, vocab_size=WORDS, rope_parameters=LINEAR)
    assert difference(model, decoders.load(path).model, tokens(1, 16, WORDS)) < 1e-4


def test_factors_of_positions_that_are_not_those_of_llama_3_are_refused(tmp_path):
    path = tmp_path / "model.gguf"
    written("llama", path, rope_parameters=LLAMA3)
    with pytest.raises(InputError, match="other factors than Llama 3"):
        decoders.load(path)


def test_a_kind_that_was_not_compared_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    plain = gguf.GGUFWriter.__init__
    monkeypatch.setattr(
        gguf.GGUFWriter, "__init__", lambda self, place, _: plain(self, place, "starcoder2")
    )
    written("llama", path, num_hidden_layers=1)
    with pytest.raises(
        InputError, match=r"kind 'starcoder2', and aiq reads only .*give the folder"
    ):
        decoders.load(path)
