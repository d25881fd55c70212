"""GGUF files: their blocks, and whole decoders read back by other programs."""

import gguf
import pytest
import torch
from decoders import KINDS, WORDS, decoder, pieces, tokenizer, tokens
from torch import nn
from transformers import AutoModelForCausalLM

import aiq
from aiq.errors import GraphError, InputError
from aiq.formats import parse
from aiq.gguf import header
from aiq.gguf.blocks import TYPES, pack_blocks
from aiq.gguf.write import write_gguf
from aiq.graph import trace
from aiq.quantize import simulate
from aiq.quantize.affine import Scheme
from aiq.quantize.fold import fold
from aiq.quantize.observers import weight_mse
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe
from aiq.runtimes import placement
from aiq.text import count

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


def test_what_a_matrix_reads_is_rounded_as_the_gguf_package_rounds_it():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 64)
    x[0, 0] = 0
    kind = gguf.GGMLQuantizationType.Q8_0
    exact = gguf.dequantize(gguf.quantize(x.view(15, 64).numpy(), kind), kind)
    assert torch.equal(simulate.round_blocks(x).view(15, 64), torch.from_numpy(exact))


@pytest.mark.parametrize("name", BLOCKS)
def test_bits_as_stored_are_those_of_the_file(name):

    size, count = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[TYPES[name]]]
    assert placement.stored_bits("llamacpp", parse(name)) == 8 * count / size


def mixed(model, names=MIX):
    layers = aiq.extract(model, tokens()).quantizable
    return {x.name: parse(names[i % len(names)]) for i, x in enumerate(layers)}


def simulated(model, formats, inputs, *, gguf=False):
    found = fold(trace(model, tokens()))
    return Simulator(found, observe(found, [tokens()]), gguf=gguf).run(inputs, formats).logits


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
def test_a_file_holds_the_network_that_was_simulated(kind, tied, sizes, tmp_path, monkeypatch):
    monkeypatch.setattr(simulate, "round_blocks", lambda x: x)  # transformers does not round it
    model, path = decoder(kind, tied=tied, **sizes), tmp_path / "model.gguf"
    formats, inputs = mixed(model), tokens()
    write_gguf(model, path, formats, trace(model, inputs), [inputs])
    expected, found = simulated(model, formats, inputs, gguf=True), read(path, inputs)
    with torch.no_grad():
        rounding = (expected - model(inputs).logits).std()
    assert float((found - expected).std()) < 0.02 * float(rounding)  # float16 scales and embedding
    kinds = {t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    assert kinds == {TYPES[name] for name in MIX}


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_becomes_a_file_whose_size_it_knows(kind, tmp_path):
    tied, few = kind != "llama", {"vocab_size": WORDS, "num_hidden_layers": 1}
    model, path = decoder(kind, tied=tied, **few), tmp_path / "model.gguf"
    plan = aiq.search(
        model,
        "xeon_2vcpu",
        example_inputs=tokens(),
        formats="fp32,w8g32,w4g32z,w4g32",
        runtime="llamacpp",
        max_drop=0.2,
        pin={DOWN[kind]: "w4g32z", UP[kind]: "w4g32", "lm_head": "w8g32"},
    )
    aiq.export(plan, model, path, tokenizer=tokenizer())
    stored = {t.name: t for t in gguf.GGUFReader(path).tensors}
    assert stored["blk.0.ffn_down.weight"].tensor_type.name == "Q4_1"
    assert stored["blk.0.ffn_up.weight"].tensor_type.name == "Q4_0"
    assert stored["token_embd.weight"].tensor_type.name == ("Q8_0" if tied else "F16")
    assert ("output.weight" in stored) != tied
    positions = stored.pop("position_embd.weight", None)  # the graph knows only those it reads
    unread = 0 if positions is None else 4 * tokens().shape[1] * model.config.hidden_size
    size = sum(t.n_bytes for t in stored.values())
    assert plan.predicted.weight_bytes - unread == size
    aiq.export(plan, model, tmp_path / "types.txt")
    types = dict(line.split("=") for line in (tmp_path / "types.txt").read_text().split())
    layers = {"token_embd.weight" if tied else "output.weight", *(n for n in stored if "_" in n)}
    assert types.keys() < layers
    assert all(stored[name].tensor_type.name.lower() == kind for name, kind in types.items())
    assert len(types) == len(plan.layers)


@pytest.mark.parametrize("tied", [False, True])
def test_a_table_without_a_choice_is_named_as_the_file_holds_it(tied, tmp_path):
    model, path = decoder(tied=tied, num_hidden_layers=1), tmp_path / "model.gguf"
    options = {"example_inputs": tokens(), "formats": "fp32,w4g32", "max_drop": 1.0}
    plan = aiq.search(model, "xeon_2vcpu", runtime="llamacpp", **options)
    aiq.export(plan, model, path)
    (table,) = (t for t in gguf.GGUFReader(path).tensors if t.name == "token_embd.weight")
    line = f"model.embed_tokens (embedding) {count(table.n_bytes)}B float16"
    assert (line in str(plan)) != tied  # the format of a shared table is that of the output layer
    assert "(embedding)" not in str(plan).replace(line, "")


DOWN = dict.fromkeys(KINDS, "*.down_proj") | {"gpt2": "*.mlp.c_proj*"}
UP = dict.fromkeys(KINDS, "*.up_proj") | {"gpt2": "*.c_fc*"}


@pytest.mark.parametrize(
    ("kind", "tied"),
    [("llama", False), *((kind, True) for kind in KINDS), ("qwen3", False)],
)
def test_llama_cpp_computes_what_was_simulated(kind, tied, tmp_path):
    pytest.importorskip("xllamacpp")
    from aiq.gguf.llamacpp import LlamaCpp  # noqa: PLC0415

    few = {"vocab_size": WORDS, "num_hidden_layers": 1}
    model, path = decoder(kind, tied=tied, **few), tmp_path / "model.gguf"
    inputs, formats = tokens(1, vocabulary=WORDS), mixed(model, MIX[:5])
    write_gguf(model, path, formats, trace(model, tokens()), [tokens()], tokenizer())
    names = {tensor.name for tensor in gguf.GGUFReader(path).tensors}
    assert ("output.weight" in names) != tied
    with LlamaCpp(path, 64) as program:
        for last in range(15, 0, -1):  # it returns no token that is part of a character
            found = program.run(inputs[0, : last + 1].tolist(), 1, WORDS)
            if found.tokens:
                break
    assert found.first > 0
    logs = torch.empty(WORDS)
    for number, log in found.tokens[0]:
        logs[number] = log
    expected, plain = (
        simulated(model, formats, inputs, gguf=gguf)[0, last].log_softmax(-1)
        for gguf in (True, False)
    )
    with torch.no_grad():
        exact = model(inputs).logits[0, last].log_softmax(-1)
    assert float((logs - expected).std()) < 0.2 * float((expected - exact).std())
    # It rounds what matrices read, too. Its float16 keys and values move some of these numbers to
    # the next integer, so the errors are of the same size, and not the same.
    assert 1 / 3 < float((logs - plain).std() / (expected - plain).std()) < 3


@pytest.mark.parametrize("prefixed", [True, False])
def test_llama_cpp_reads_a_tokenizer_of_pieces_as_transformers_does(prefixed, tmp_path):
    pytest.importorskip("xllamacpp")
    from aiq.gguf.llamacpp import LlamaCpp  # noqa: PLC0415

    words, path = pieces(prefixed=prefixed), tmp_path / "model.gguf"
    model = decoder(num_hidden_layers=1, vocab_size=len(words) + 3)
    write_gguf(model, path, {}, trace(model, tokens()), [tokens()], words)
    with LlamaCpp(path, 64) as program:
        for text in ("the man", "than then", "a  th\u00e9, han", "ananas"):
            numbers = words(text)["input_ids"]
            assert words.decode(numbers, skip_special_tokens=True).strip() == text
            found = [program.run(prompt, 1, 8).tokens for prompt in (text, numbers)]
            assert found[0] == found[1]


WINDOW = {"sliding_window": 6}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mistral", WINDOW),
        ("qwen2", {**WINDOW, "use_sliding_window": True, "max_window_layers": 0}),
        ("qwen3", {**WINDOW, "use_sliding_window": True, "max_window_layers": 0}),
    ],
)
def test_a_file_is_for_no_more_tokens_than_a_window_that_llama_cpp_does_not_know(
    kind, options, tmp_path
):
    pytest.importorskip("xllamacpp")
    from aiq.gguf.llamacpp import LlamaCpp  # noqa: PLC0415

    model, path = decoder(kind, vocab_size=WORDS, **options), tmp_path / "model.gguf"
    write_gguf(model, path, {}, trace(model, tokens()), [tokens()], tokenizer())
    key = f"{header.architecture(model)}.context_length"
    assert gguf.GGUFReader(path).fields[key].contents() == 6
    with LlamaCpp(path, 64) as program:
        assert program.run([1, 2, 3], 1).first > 0
        with pytest.raises(InputError, match=r"prompt of 12 tokens .*give fewer"):
            program.run([*range(12)], 1)


def test_openvino_genai_opens_a_file_and_writes_text(tmp_path):
    genai = pytest.importorskip("openvino_genai")
    model, path = decoder(vocab_size=WORDS, num_hidden_layers=1), tmp_path / "model.gguf"
    formats = mixed(model, ("w4g32", "w8g32", "w4g32z"))
    write_gguf(model, path, formats, trace(model, tokens()), [tokens()], tokenizer())
    assert str(genai.LLMPipeline(str(path), "CPU").generate("the man", max_new_tokens=4))


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
        ({"rope": "yarn"}, GraphError, "positions by rule 'yarn'"),
        ({"kind": "qwen2", "rope": "llama3"}, GraphError, "positions by rule 'llama3'"),
        ({"sizes": {"hidden_act": "gelu"}}, GraphError, "hidden_act 'gelu', .* computes 'silu'"),
        ({"kind": "gpt2", "sizes": {"activation_function": "relu"}}, GraphError, "'relu'"),
        ({"kind": "gpt2", "sizes": {"scale_attn_weights": False}}, GraphError, "weights False"),
        (
            {"kind": "gpt2", "sizes": {"scale_attn_by_inverse_layer_idx": True}},
            GraphError,
            "layer_idx True",
        ),
        ({"kind": "qwen3", "sizes": {"attention_bias": True}}, InputError, "no place for .*bias"),
        ({"kind": "gemma3", "sizes": {"attention_bias": True}}, InputError, "no place for .*bias"),
        ({"sizes": {"intermediate_size": 80}}, InputError, "blocks of 32 do not divide"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(change, error, words, tmp_path):
    model = decoder(change.get("kind", "llama"), num_hidden_layers=1, **change.get("sizes", {}))
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
