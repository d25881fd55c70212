"""GGUF files: their blocks, and whole decoders read back by other programs."""

import gguf
import pytest
import torch
from decoders import WORDS, decoder, tokenizer, tokens
from torch import nn
from transformers import AutoModelForCausalLM

import aiq
from aiq.errors import GraphError, InputError
from aiq.formats import parse
from aiq.gguf.blocks import TYPES, pack_blocks
from aiq.gguf.write import write_gguf
from aiq.graph import trace
from aiq.quantize.affine import Scheme
from aiq.quantize.fold import fold
from aiq.quantize.observers import weight_mse
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe
from aiq.runtimes import placement

BLOCKS = [name for name in TYPES if parse(name).quantizes_weights]
MIX = ("w4g32", "w8g32", "w5g32", "w4g32z", "w5g32z", "fp16", "fp32")


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_those_that_the_gguf_package_reads(name):
    torch.manual_seed(0)
    weight, fmt = torch.randn(6, 96), parse(name)
    plain = not fmt.weight_granularity.zero_point
    scheme = Scheme(fmt.weight.bits, symmetric=plain, signed=plain, axis=0, group=32, half=True)
    affine = weight_mse(weight, scheme)
    packed = pack_blocks(weight, affine)
    kind = gguf.GGMLQuantizationType[TYPES[name]]
    assert packed.shape == gguf.quant_shape_to_byte_shape((6, 96), kind)
    found = torch.from_numpy(gguf.dequantize(packed, kind))
    step = affine.scale.reshape(6, 3).repeat_interleave(32, 1)
    wrong = (found - affine.fake_quantize(weight)).abs() / step
    assert float(wrong.max()) <= (1e-6 if plain else 0.01)


@pytest.mark.parametrize("name", BLOCKS)
def test_bits_as_stored_are_those_of_the_file(name):

    size, count = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[TYPES[name]]]
    assert placement.stored_bits("llamacpp", parse(name)) == 8 * count / size


def mixed(model, names=MIX):
    layers = aiq.extract(model, tokens()).quantizable
    return {x.name: parse(names[i % len(names)]) for i, x in enumerate(layers)}


def simulated(model, formats, inputs):
    found = fold(trace(model, tokens()))
    return Simulator(found, observe(found, [tokens()])).run(inputs, formats).logits


def read(path, inputs):
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    with torch.no_grad():
        return model.eval()(inputs).logits


@pytest.mark.parametrize(
    ("kind", "tied", "sizes"),
    [
        ("llama", False, {}),
        ("llama", True, {}),
        ("qwen2", True, {}),
        ("qwen3", False, {"head_dim": 128}),  # what transformers takes it to be in a GGUF file
    ],
)
def test_a_file_holds_the_network_that_was_simulated(kind, tied, sizes, tmp_path):
    model, path = decoder(kind, tied=tied, **sizes), tmp_path / "model.gguf"
    formats, inputs = mixed(model), tokens()
    write_gguf(model, path, formats, trace(model, inputs), [inputs])
    expected, found = simulated(model, formats, inputs), read(path, inputs)
    with torch.no_grad():
        rounding = (expected - model(inputs).logits).std()
    assert float((found - expected).std()) < 0.02 * float(rounding)  # float16 scales and embedding
    kinds = {t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    assert kinds == {TYPES[name] for name in MIX}


def test_a_plan_becomes_a_file_whose_size_it_knows(tmp_path):
    model, path = decoder(vocab_size=WORDS), tmp_path / "model.gguf"
    plan = aiq.search(
        model,
        "xeon_2vcpu",
        example_inputs=tokens(),
        formats="fp32,w8g32,w4g32z,w4g32",
        runtime="llamacpp",
        max_drop=0.2,
        pin={"*.down_proj": "w4g32z", "*.up_proj": "w4g32"},
    )
    aiq.export(plan, model, path, tokenizer=tokenizer())
    stored = {t.name: t for t in gguf.GGUFReader(path).tensors}
    assert stored["blk.1.ffn_down.weight"].tensor_type.name == "Q4_1"
    assert stored["blk.0.ffn_up.weight"].tensor_type.name == "Q4_0"
    assert plan.predicted.weight_bytes == sum(t.n_bytes for t in stored.values())
    inputs = tokens(vocabulary=WORDS)
    expected = simulated(model, plan.formats, inputs)
    assert float((read(path, inputs) - expected).abs().max()) < 0.02


def test_llama_cpp_computes_what_was_simulated(tmp_path):
    pytest.importorskip("xllamacpp")
    from aiq.gguf.llamacpp import LlamaCpp  # noqa: PLC0415

    model, path = decoder(vocab_size=WORDS), tmp_path / "model.gguf"
    inputs, formats = tokens(1, vocabulary=WORDS), mixed(model, MIX[:5])
    write_gguf(model, path, formats, trace(model, tokens()), [inputs], tokenizer())
    with LlamaCpp(path, 64) as program:
        found = program.run(inputs[0].tolist(), 2, WORDS)
    assert min(found.first, found.token) > 0
    expected = simulated(model, formats, inputs)[0, -1].log_softmax(-1)
    with torch.no_grad():
        exact = model(inputs).logits[0, -1].log_softmax(-1)
    logs = torch.empty(WORDS)
    for number, log in found.tokens[0]:
        logs[number] = log
    # llama.cpp rounds what matrices read to eight bits, in blocks of 32.
    assert float((logs - expected).std()) < 0.2 * float((expected - exact).std())


class Perceptron(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(64, 64))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": Perceptron()}, GraphError, "decoder of transformers"),
        ({"formats": "w4g64"}, InputError, "no type for layer .* in w4g64"),
        ({"formats": "w8a8"}, InputError, "no type for layer"),
        ({"tokenizer": "nowhere"}, InputError, "tokenizer"),
        ({"rope": "linear"}, GraphError, "positions by rule 'linear'"),
        ({"sizes": {"intermediate_size": 80}}, InputError, "blocks of 32 do not divide"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(change, error, words, tmp_path):
    model = decoder(num_hidden_layers=1, **change.get("sizes", {}))
    traced = trace(model, tokens())
    if "rope" in change:
        model.config.rope_parameters = {"rope_type": change["rope"], "rope_theta": 1e4}
    names = [layer.name for layer in traced.graph.quantizable]
    formats = dict.fromkeys(names, parse(change.get("formats", "w4g32")))
    path = tmp_path / "model.gguf"
    with pytest.raises(error, match=words):
        write_gguf(
            change.get("model", model), path, formats, traced, [tokens()], change.get("tokenizer")
        )
    assert not path.exists()
