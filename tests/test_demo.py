"""The demo: the whole of it on few images, with a shipped profile in place of a calibration."""

import io
import re

import pytest
import torch
from decoders import WORDS, decoder, tokenizer
from rich.console import Console
from typer.testing import CliRunner

from aiq import Hardware, calibrate, decoders, decoding
from aiq.cli import app, demo, demo_llm
from aiq.formats import parse_all

FEW = {
    "UNIFORM": ("fp32", "w8"),
    "VERIFY": 25,
    "SENSE": 1,
    "SCORE": 2,
    "SECONDS": 0.1,
    "BATCH": 16,
    "MAX_DROP": 0.05,
    "FAST": ("w8a8",),
}


@pytest.mark.slow
def test_the_demo_measures_what_it_predicts_and_writes_the_report(monkeypatch, tmp_path):
    pytest.importorskip("openvino")
    profile = Hardware.load("epyc_zen4_2vcpu")
    monkeypatch.setattr(calibrate, "quick", lambda **options: profile)
    monkeypatch.setattr(calibrate, "brief", lambda *arguments, **options: profile)
    monkeypatch.setattr(demo, "SENSED", ("fp32", "w8", "w8a8"))
    monkeypatch.setattr(demo, "PAPER", parse_all("fp32,w8"))
    for name, value in FEW.items():
        monkeypatch.setattr(demo, name, value)
    printed = Console(file=io.StringIO(), width=120)
    monkeypatch.setattr(demo, "out", printed)
    page = tmp_path / "demo.html"
    demo.demo(page)
    text = printed.file.getvalue()
    sentence = " ".join(text.split())
    assert "int8 (w8a8)" in sentence
    assert "openvino, 16x3x32x32" in sentence
    assert "measured" in text
    assert re.search(r"\nfp32 +29\.85 ", text)  # FLOP/byte of the paper
    assert re.search(r"\nw8 +42\.47 ", text)
    assert "measured" in page.read_text()


def test_the_demo_of_a_language_model(tmp_path, monkeypatch):
    pytest.importorskip("xllamacpp")
    model = decoder(vocab_size=WORDS, num_hidden_layers=1, max_position_embeddings=256)
    found = decoders.Decoder(model, tokenizer())
    profile = Hardware.load("xeon_2vcpu")
    monkeypatch.setattr(decoders, "smollm2", lambda: found)

    def roofs(**_):
        assert torch.get_num_threads() == demo_llm.THREADS
        return profile

    monkeypatch.setattr(calibrate, "quick", roofs)
    monkeypatch.setattr(calibrate, "calibrate", lambda *_, add_to, **__: add_to)
    monkeypatch.setattr(demo_llm, "LENGTH", 16)
    monkeypatch.setattr(decoding, "CONTEXTS", (4, 16))
    monkeypatch.setattr(decoding, "ROUNDS", 1)
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["demo", "--llm", "--output", str(page)])
    assert result.exit_code == 0, result.output
    assert "perplexity" in result.output
    assert "tokens/s" in result.output
    assert "w4g32z" in result.output
    assert page.stat().st_size > 10_000
