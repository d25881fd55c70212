"""Decoders that are timed in any runtime, their tokenizers, and their inputs."""

from types import SimpleNamespace

import pytest
import torch
from decoders import WORDS, decoder, pieces, tokenizer, tokens

import aiq
from aiq import decoder_programs, decoders, decoding
from aiq.decoder_programs import DecoderOpener, decoder_opener
from aiq.errors import InputError, RuntimeUnavailableError
from aiq.planning import files_bench, options, stopwatch
from aiq.runtimes import placement

LENGTH = 16


class Spy:
    """Stands for all runtimes of decoders, and knows what was written, opened and run."""

    def __init__(self):
        self.written, self.opened, self.runs = [], [], []

    def opener(self, runtime):
        return DecoderOpener(runtime, self.write, self.open)

    def write(self, model, path, formats, traced, calibration, words):
        self.written.append({name: fmt.name for name, fmt in formats.items()})
        path.mkdir()
        (path / "weights").write_bytes(b"0" * len(self.written))

    def open(self, path, context, threads):
        assert (path / "weights").exists()
        self.opened.append((context, threads))
        return self

    def run(self, prompt, written):
        self.runs.append((len(prompt), written))
        return SimpleNamespace(first=1e-3 * len(prompt), token=1e-3)


@pytest.fixture(scope="module")
def model():
    """A decoder of 64 positions, one matrix of which no groups of 32 or 64 divide."""
    return decoder(vocab_size=WORDS, num_hidden_layers=1, intermediate_size=80)


@pytest.fixture
def spy(monkeypatch):
    found = Spy()
    for module in (decoding, files_bench, options):
        monkeypatch.setattr(module, "decoder_opener", found.opener)
    return found


def searched(model, **changed):
    call = {
        "hw": "xeon_2vcpu",
        "example_inputs": {"input_ids": tokens(1, LENGTH, WORDS)},
        "runtime": "onnxruntime",
        "formats": "fp32,w8g32,w4g32",
        "max_drop": 1.0,
        "workload": "48+16",
        "progress": None,
    }
    return aiq.search(model, **call | changed)


def test_a_decoder_is_compared_token_by_token_in_its_own_runtime(model, spy, monkeypatch):
    monkeypatch.setattr(decoding, "ROUNDS", 2)
    plan = searched(model)
    found = aiq.compare(plan, model, progress=None)
    assert [(file.name, file.size) for file in found.files] == [
        ("plan", 1),
        *zip(decoding.IN_FOLDERS, (2, 3, 4), strict=True),
    ]
    wide = next(name for name in spy.written[0] if name.endswith("down_proj"))
    for name, formats in zip(decoding.IN_FOLDERS, spy.written[1:], strict=True):
        assert set(formats.values()) == {name, formats[wide]}
        assert formats[wide] == "fp32"  # no kernel has groups of 32 there
    # The longer prompt is cut: the decoder has no positions for 512 tokens.
    assert set(spy.runs) == {(16, 32), (32, 32)}
    assert set(spy.opened) == {(32 + 32 + 1, plan.workload.threads)}
    assert found["plan"].predicted == pytest.approx(plan.predicted.token_seconds)
    assert str(found).startswith("onnxruntime, 2 threads")
    assert "at most" in str(found)  # the profile has no section of decoders: times are bounds
    assert "predicted" not in str(found)


def test_the_stopwatch_times_the_workload_in_the_runtime_of_the_plan(model, spy, monkeypatch):
    monkeypatch.setattr(stopwatch, "SECONDS", 0.001)
    monkeypatch.setattr(stopwatch, "FINAL_SECONDS", 0.001)
    plan = searched(model, measure_top=1, example_inputs=tokens(1, LENGTH, WORDS))
    assert plan.shortlist.runtime == "onnxruntime"
    assert set(spy.runs) == {(48, 16)}
    assert {"w8g32", "w4g32"} <= {row.name for row in plan.shortlist.plans}


@pytest.mark.parametrize("runtime", ["inductor", "eager"])
def test_a_runtime_without_decoders_times_none(model, runtime):
    with pytest.raises(InputError, match=f"No runtime {runtime} writes text with a decoder"):
        searched(model, runtime=runtime, measure_top=1)


@pytest.mark.parametrize("package", ["gguf", "xllamacpp"])
def test_a_package_that_is_missing_is_named_before_the_search(package, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name=package)

    monkeypatch.setattr(decoder_programs, "import_module", missing)
    with pytest.raises(RuntimeUnavailableError, match=f"needs the package {package}: `pip install"):
        decoder_opener(placement.GGUF)


@pytest.mark.parametrize("workload", ["48+17", "64+1"])
def test_a_workload_past_the_positions_of_a_decoder_is_refused(model, workload):
    with pytest.raises(InputError, match="has 64 positions, and the workload takes 65; give a"):
        searched(model, workload=workload)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (42, "The tokenizer is 42; give one of transformers"),
        ("nowhere", "There is no tokenizer in nowhere; give a folder"),
        (tokenizer(), "has 260 tokens, and the decoder 257; give the decoder's own"),
        (pieces(), "tokens, and the decoder 257; give the decoder's own"),
    ],
)
def test_a_tokenizer_that_is_not_the_decoders_is_refused(given, words):
    with pytest.raises(InputError, match=words):
        decoders.read_tokenizer(given, 257)


def test_a_tokenizer_may_be_its_folder_or_missing(tmp_path):
    tokenizer().save_pretrained(tmp_path)
    assert len(decoders.read_tokenizer(tmp_path, 260)) == 260
    assert decoders.read_tokenizer(None, 260) is None


def test_tokens_are_found_among_the_arguments_of_a_call():
    numbers = tokens(1, LENGTH)
    mask = torch.ones_like(numbers)
    for inputs in (numbers, (numbers, mask), {"attention_mask": mask, "input_ids": numbers}):
        assert decoders.token_input(inputs) is numbers


@pytest.mark.parametrize("inputs", [torch.ones(2, 3), tokens()[0], {"x": 3}, torch.ones(1, 2, 3)])
def test_inputs_without_tokens_are_refused(inputs):
    with pytest.raises(InputError, match=r"reads numbers of tokens, integers of shape"):
        decoders.token_input(inputs)


@pytest.mark.parametrize("text", [None, 42, b"bytes"])
def test_what_is_no_text_is_refused(model, text):
    with pytest.raises(InputError, match="give a text, or the Path of its file"):
        decoders.Decoder(model, tokenizer()).batches(text)
