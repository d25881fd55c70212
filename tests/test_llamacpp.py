"""The calibration of llama.cpp."""

import pytest
from decoders import WORDS, decoder, tokens

import aiq
from aiq.calibrate import llamacpp
from aiq.hardware import Hardware, profile

pytest.importorskip("xllamacpp")


def test_a_calibrated_llama_cpp_prices_decoders(monkeypatch):
    monkeypatch.setattr(llamacpp, "_SIZES", ((64, 96, 1), (128, 192, 1)))
    monkeypatch.setattr(llamacpp, "_VOCABULARY", 288)
    monkeypatch.setattr(llamacpp, "_ROUNDS", 2)
    found = llamacpp.calibrate(Hardware.load("xeon_2vcpu"))
    section = found.runtimes["llamacpp"]
    assert set(section.products) == set(llamacpp.FORMATS)
    for products in section.products.values():
        assert [product.rows for product in products] == [1, 64]
        assert all(rate > 0 for product in products for _, rate in product.rates)
    assert profile.parse(profile.to_yaml(found), "found.yaml").runtimes["llamacpp"] == section
    plan = aiq.search(
        decoder(vocab_size=WORDS, num_hidden_layers=1),
        found,
        example_inputs=tokens(1, 16, WORDS),
        runtime="llamacpp",
        max_drop=1.0,
        workload="8+8",
    )
    assert plan.predicted.level == "calibrated"
    assert "fp32" not in {layer.format for layer in plan.layers}
    assert plan.predicted.token_seconds > 0
