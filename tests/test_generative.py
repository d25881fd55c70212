"""Decoders in folders: any length of the cache, the logits that were simulated, and text."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from decoders import WORDS, decoder, tokenizer, tokens
from torch import nn

import aiq
from aiq.errors import GraphError, InputError, VerificationError
from aiq.formats import REFERENCE, parse
from aiq.generative import program, write
from aiq.generative.matrices import Lookup, Matrix
from aiq.generative.program import LONGER_BUFFERS, Generator
from aiq.generative.variants import write_variants
from aiq.generative.write import write_folder
from aiq.graph import extract, trace
from aiq.planning import weights
from aiq.quantize.weights import weight_only

MIX = ("w4g32", "w8g32", "w4g32z", "fp32", "w4", "w8", "w8g32z", "w4g64")
FEW = {"vocab_size": WORDS, "num_hidden_layers": 1}


@pytest.fixture(autouse=True)
def little_room(monkeypatch):
    """Let buffers of the cache run out of room in texts of some tokens."""
    monkeypatch.setattr(program, "_LEAST_ROOM", 4)


@pytest.fixture(scope="module")
def small():
    """A decoder and its trace."""
    model = decoder(num_hidden_layers=1)
    return model, trace(model, tokens())


def mixed(traced, names=MIX):
    return {x.name: parse(names[i % len(names)]) for i, x in enumerate(traced.graph.quantizable)}


def check(model, folder, formats, text):
    """Compare a folder with the simulation, whatever is read together and what one by one."""
    traced = trace(model, text)
    _, simulator = weight_only(traced, [text])
    expected = simulator.run(text, formats).logits[0]
    with torch.no_grad():
        rounding = (expected - model(text).logits[0]).std()
    numbers, decodes = text[0].tolist(), Generator(folder)
    for read in (1, 7, 23):
        decodes.reset()
        found = [decodes.logits(numbers[:read])]
        found += [decodes.logits([number]) for number in numbers[read:]]
        assert decodes.length == len(numbers)
        difference = torch.from_numpy(np.concatenate(found)) - expected
        assert float(difference.std()) < 0.01 * float(rounding)  # embeddings are float16
    likeliest = int(decodes.logits([5])[-1].argmax())
    assert decodes.generate([*numbers, 5], 3)[0] == likeliest
    assert decodes.length == len(numbers) + 3
    with pytest.raises(InputError, match=r"would have 65 tokens, .* positions for 64"):
        decodes.generate(numbers, 66 - len(numbers))
    with pytest.raises(InputError, match=f"Token {WORDS} is none of the decoder's {WORDS}"):
        decodes.logits([WORDS])
    assert stored_bytes(folder) < 0.8 * sum(4 * x.numel() for x in model.parameters())


def stored_bytes(folder):
    """Return the size of the file of weights."""
    found = (folder / "openvino_model.bin", folder / "model.onnx.data")
    return next(x for x in found if x.exists()).stat().st_size


def size(model, formats, section):
    """Return the predicted size of a decoder in the formats of a plan."""
    graph, columns = extract(model, tokens(1, 24, WORDS)), list(dict.fromkeys(formats.values()))
    bits = weights.size_table(graph, columns, section)
    used = [bits[i, columns.index(formats[x.name])] for i, x in enumerate(graph.quantizable)]
    return sum(used) / 8 + weights.fixed_bytes(graph, section)


def test_a_folder_computes_what_was_simulated_at_any_length(tmp_path, capfd):
    model, text = decoder("gpt2", tied=True, **FEW), tokens(1, 24, WORDS)
    traced = trace(model, text)
    formats, folder = mixed(traced), tmp_path / "decoder"
    write_folder(model, folder, formats, traced, [text], runtime="onnxruntime")
    assert capfd.readouterr() == ("", "")
    check(model, folder, formats, text)
    every = dict.fromkeys((x.name for x in traced.graph.quantizable), REFERENCE) | formats
    known = size(model, every, "onnxruntime_decoder")
    assert known == pytest.approx(stored_bytes(folder), rel=0.05)  # the embedding is stored twice


def test_a_plan_becomes_a_folder_and_replaces_an_older_one(tmp_path):
    model, folder, text = decoder("qwen2", **FEW), tmp_path / "deep" / "new", tokens(1, 24, WORDS)
    model.generation_config.eos_token_id = None
    plan = aiq.search(
        model,
        "xeon_2vcpu",
        example_inputs=text,
        formats="w8g32,w4g32",
        runtime="openvino",
        max_drop=1.0,
        workload="8+8",
        pin={"*[qvo]_proj": "w4g32", "*[kp]_proj": "w8g32", "*[en]_proj": "w4g32"},
    )
    aiq.export(plan, model, folder, data=[text], tokenizer=tokenizer())
    check(model, folder, plan.formats, text)
    assert plan.predicted.weight_bytes == pytest.approx(stored_bytes(folder), rel=0.03)
    check_openvino(model, folder)
    aiq.export(plan, model, folder, data=[text], runtime="onnxruntime")
    check(model, folder, plan.formats, text)
    check_onnxruntime(folder)
    known = size(model, plan.formats, "onnxruntime_decoder")
    assert known == pytest.approx(stored_bytes(folder), rel=0.03)
    check_buffers(folder)
    assert not (folder / "openvino_model.xml").exists()
    assert [x.name for x in folder.parent.iterdir()] == ["new"]
    with pytest.raises(VerificationError, match="other logits"):
        write._check(decoder("qwen2", seed=1, **FEW), folder, [text])


def test_plans_of_a_decoder_that_is_exported_once_compute_nearly_its_logits(tmp_path):
    model, text = decoder(**FEW), tokens(1, 24, WORDS)
    traced = trace(model, text)
    plans = {"mix": mixed(traced, MIX[:6]), "fp32": {}, "w8g32z": mixed(traced, ("w8g32z",))}
    found = write_variants(model, tmp_path, plans, traced, runtime="onnxruntime")
    with torch.no_grad():
        expected = model(text).logits[0]
    for (name, folder), most in zip(found.items(), (0.6, 0.005, 0.05), strict=True):
        decodes = Generator(folder)
        parts = [decodes.logits(text[0, :9].tolist())]
        parts += [decodes.logits([number]) for number in text[0, 9:].tolist()]
        difference = torch.from_numpy(np.concatenate(parts)) - expected
        assert float(difference.std()) < most * float(expected.std()), name
        times = decodes.run([1, 2, 3], 4)
        assert min(times.first, times.token) > 0
        assert decodes.length == 7
    sizes = {name: (folder / "model.onnx.data").stat().st_size for name, folder in found.items()}
    assert sizes["mix"] < sizes["w8g32z"] < sizes["fp32"]


def check_openvino(model, folder):
    """Check the types of constants, and what OpenVINO GenAI writes."""
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == WORDS
    nodes = openvino.Core().read_model(folder / "openvino_model.xml").get_ordered_ops()
    stored = Counter(
        str(x.get_element_type().to_string())
        for x in nodes
        if x.get_type_name() == "Constant" and len(x.shape) > 1 and np.prod(x.shape) > 999
    )
    assert stored == {"i4": 6, "i8": 2, "f16": 1}
    genai = pytest.importorskip("openvino_genai")
    pipeline = genai.LLMPipeline(str(folder), "CPU")
    numbers = pipeline.get_tokenizer().encode("the man").input_ids
    expected = Generator(folder).generate(tokenizer()("the man")["input_ids"], 4)
    for _ in range(2):  # the second text starts with an empty cache
        found = pipeline.generate(openvino.Tensor(numbers.data), max_new_tokens=4)
        assert list(found.tokens[0]) == expected


def check_onnxruntime(folder):
    """Check the kernels: neighbours that read the same tensor in the same format are joined."""
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    kinds = Counter(node.op_type for node in graph.node)
    packed = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert kinds["GroupQueryAttention"] == 1
    assert (len(packed), kinds["MatMul"]) == (6, 2)  # keys and the upper matrix have eight bits
    levels = {a.i for node in packed for a in node.attribute if a.name == "accuracy_level"}
    assert levels == {1}  # float32: what matrices read is not rounded


def check_buffers(folder):
    """Check that the cache is added to in place, and otherwise as if it were copied."""
    in_place = Generator(folder)
    in_place.logits([1])
    buffers = dict(in_place._program._arrays)
    found = [in_place.logits([token]) for token in (2, 3, 4)]
    assert all(buffers[name] is array for name, array in in_place._program._arrays.items())
    assert all(np.any(array[:, :, 3]) for array in buffers.values())
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    assert [entry.key for entry in model.metadata_props].count(LONGER_BUFFERS) == 1
    del model.metadata_props[:]
    onnx.save(model, folder / "model.onnx")
    copied = Generator(folder)
    copied.logits([1])
    for token, expected in zip((2, 3, 4), found, strict=True):
        assert np.allclose(copied.logits([token]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": nn.Sequential(nn.Linear(64, 64))}, GraphError, "decoder of transformers"),
        ({"formats": "w5g32"}, InputError, "no kernel for layer .* in w5g32"),
        ({"formats": "w8a8"}, InputError, "no kernel for layer"),
        ({"formats": "w4g64"}, InputError, "reads 96 numbers, which groups of 64 do not divide"),
        ({"tokenizer": "nowhere"}, InputError, "no tokenizer in nowhere"),
        ({"file": "notes.txt"}, InputError, "holds other files"),
    ],
)
def test_what_a_folder_cannot_hold_is_refused(small, change, error, words, tmp_path):
    (model, traced), folder = small, tmp_path / "folder"
    if "file" in change:
        folder.mkdir()
        (folder / change["file"]).write_text("mine")
    formats = mixed(traced, (change.get("formats", "w4g32"),))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=words):
        write_folder(
            change.get("model", model),
            folder,
            formats,
            traced,
            [tokens()],
            change.get("tokenizer"),
            runtime="openvino",
        )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("stop", [OSError, KeyboardInterrupt])
def test_a_failure_between_two_renames_leaves_the_older_folder(small, stop, tmp_path, monkeypatch):
    class Exported:
        program = None

        def save_pretrained(self, folder):
            folder.mkdir()
            (folder / write.MANIFEST).write_text("new")

    def rename(path, target):
        if path.name == "draft":
            raise stop
        return real(path, target)

    real, (model, traced), folder = Path.rename, small, tmp_path / "folder"
    monkeypatch.setattr(write, "exported_decoder", lambda model, runtime: Exported())
    monkeypatch.setattr(write, "store", lambda program, runtime, matrices: None)
    monkeypatch.setattr(write, "_check", lambda model, folder, calibration: None)
    arguments = (model, folder, mixed(traced), traced, [tokens()])
    folder.mkdir()
    (folder / write.MANIFEST).write_text("old")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        with pytest.raises((InputError, KeyboardInterrupt)):
            write_folder(*arguments, runtime="onnxruntime")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (folder / write.MANIFEST).read_text() == "old"
    write_folder(*arguments, runtime="onnxruntime")
    assert (folder / write.MANIFEST).read_text() == "new"


@pytest.mark.parametrize("runtime", [None, "inductor"])
def test_a_folder_needs_a_runtime_that_has_one(runtime):
    with pytest.raises(InputError, match="give one of these as runtime, or a file such as"):
        write.folder_writer(runtime)


def test_joined_matrices_are_found_by_their_values():
    draw = np.random.default_rng(0)
    none = np.empty(0, np.float32)
    values = [draw.normal(size=(n, 6)).astype(np.float32) for n in (3, 2, 4)]
    values.append(values[1].copy())  # two layers with the same weight
    known = [Matrix(str(i), REFERENCE, v, none, none, None) for i, v in enumerate(values)]
    lookup = Lookup(known)
    assert lookup.parts(draw.normal(size=(5, 6)).astype(np.float32)) == []
    assert lookup.parts(np.concatenate([values[2], values[1]])) == [known[2], known[1]]
    assert lookup.parts(np.concatenate([values[0], values[3]])) == [known[0], known[3]]
    Lookup(known).check_all_found()  # float32 weights may be joined with other operators
    known[0] = replace(known[0], fmt=parse("w4g32"))
    lookup = Lookup(known)
    with pytest.raises(GraphError, match=r"weight of '0' .*pin that layer to fp32"):
        lookup.check_all_found()
    assert lookup.parts(values[0]) == [known[0]]
    lookup.check_all_found()


def test_an_output_layer_that_the_exporter_joins_with_a_cap_stays_float32(tmp_path):
    model = decoder("gemma2", **FEW, layer_types=["full_attention"], final_logit_softcapping=2.0)
    text = tokens(1, 24, WORDS)
    traced = trace(model, text)
    formats, folder = mixed(traced, ("w4g32",)), tmp_path / "new"
    with pytest.raises(GraphError, match=r"weight of 'lm_head' .*pin that layer to fp32, or"):
        write_folder(model, folder, formats, traced, [text], runtime="onnxruntime")
    write_folder(
        model, folder, formats | {"lm_head": REFERENCE}, traced, [text], runtime="onnxruntime"
    )
    assert Generator(folder).logits([1]).shape == (1, WORDS)


def test_a_folder_without_a_decoder_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no decoder"):
        Generator(tmp_path)


@pytest.mark.parametrize("options", [{}, {"sliding_window": 6}])
def test_a_window_of_attention_is_refused_for_onnx_runtime(options, tmp_path):
    """Gemma 3 has windows in any case, and Mistral if it is given one."""
    model, text = (
        decoder("mistral" if options else "gemma3", **FEW, **options),
        tokens(1, 24, WORDS),
    )
    with pytest.raises(GraphError, match=r"window of tokens .*with runtime openvino"):
        write_folder(model, tmp_path / "new", {}, trace(model, text), [text], runtime="onnxruntime")
    assert not (tmp_path / "new").exists()
