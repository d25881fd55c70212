"""The calibration of llama.cpp."""

import sys

import pytest
from decoders import WORDS, decoder, tokens

import aiq
from aiq import cost
from aiq.calibrate import calibrate, llamacpp
from aiq.formats import parse
from aiq.graph import Decode, extract
from aiq.hardware import Hardware, profile
from aiq.runtimes import placement

pytest.importorskip("xllamacpp")

RATE, START = 5e9, 2e-6  # bytes a second, and seconds before each product


@pytest.fixture(scope="module")
def found():
    """Calibrate on two tiny decoders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llamacpp, "_SIZES", ((64, 96, 1), (128, 192, 1)))
        patch.setattr(llamacpp, "_VOCABULARY", 288)
        patch.setattr(llamacpp, "_ROUNDS", 2)
        known = Hardware.load("xeon_2vcpu")
        return calibrate("llamacpp", add_to=known, threads=1, force=True)


def test_a_calibration_times_every_format(found):
    section = found.runtimes["llamacpp"]
    assert set(section.products) == set(llamacpp.FORMATS)
    for products in section.products.values():
        assert [product.rows for product in products] == [1, 64]
        assert all(rate > 0 for product in products for _, rate in product.rates)
    assert [product.rows for product in section.attention] == [1, 512]
    assert all(rate > 0 for product in section.attention for _, rate in product.rates)
    assert 0 < section.fit.low <= 1 <= section.fit.high
    assert section.fit.samples == 2 * len(llamacpp.FORMATS)
    assert any(source.startswith("llamacpp: 12 ") for source in found.provenance["sources"])
    assert (
        profile.parse_profile(profile.to_yaml(found), "found.yaml").runtimes["llamacpp"] == section
    )


QUERY = 5e9  # bytes of keys and values that a query reads in a second


def attention(rows, context, blocks, hidden):
    """Return the time of attention: each query reads the keys and values of the context."""
    return rows * blocks * 2 * 2 * hidden * context / QUERY


def timed(*_):
    """Return the times that two decoders take at these rates and `START`, with noise."""
    found = []
    for elements, blocks, hidden in ((25e6, 6, 576), (60e6, 4, 1024)):
        for name in llamacpp.FORMATS:
            size = elements * placement.stored_bits("llamacpp", parse(name)) / 8
            matrices = (7 * blocks + 1) * START + size / RATE
            short = {
                rows: matrices + attention(rows, context, blocks, hidden)
                for rows, context in ((1, 76), (64, 64))
            }
            long = {
                1: matrices + attention(1, 512 + 12, blocks, hidden),
                512: 8 * matrices + attention(512, 512, blocks, hidden),
            }
            found.append(
                llamacpp._Timed(
                    name,
                    elements,
                    blocks,
                    hidden,
                    {rows: [1.1 * seconds, seconds] for rows, seconds in short.items()},
                    {n: [s] for n, s in long.items()} if name == "w8g32" else {},
                )
            )
    return found


def test_rates_and_errors_are_those_of_the_times(monkeypatch):
    monkeypatch.setattr(llamacpp, "_time", timed)
    section = llamacpp.measure_llamacpp(1, force=True)
    one, prompt = section.attention
    assert [rate for _, rate in one.rates] == pytest.approx(2 * [QUERY / 1e9], rel=0.001)
    assert [rate for _, rate in prompt.rates] == pytest.approx(2 * [QUERY / 512e9], rel=0.001)
    for products in section.products.values():
        for product in products:
            assert product.start_us == pytest.approx(1e6 * START, rel=0.05)
            assert [rate for _, rate in product.rates] == pytest.approx([RATE / 1e9], rel=0.02)
    assert section.fit.noise == pytest.approx(0.1, rel=0.01)
    # Without the start the smaller decoder's time predicts too much for the larger one.
    assert 0 < section.fit.mape < 0.02


def test_a_calibrated_llama_cpp_prices_decoders(monkeypatch):
    monkeypatch.setattr(llamacpp, "_time", timed)
    plan = aiq.search(
        decoder(vocab_size=WORDS, num_hidden_layers=1),
        calibrate("llamacpp", add_to=Hardware.load("xeon_2vcpu"), threads=1, force=True),
        example_inputs=tokens(1, 16, WORDS),
        runtime="llamacpp",
        max_drop=1.0,
        workload="8+8",
    )
    assert plan.predicted.level == "calibrated"
    assert "fp32" not in {layer.format for layer in plan.layers}
    assert plan.predicted.token_seconds > 0


def test_a_longer_context_costs_the_keys_and_values_that_are_read(monkeypatch):
    monkeypatch.setattr(llamacpp, "_time", timed)
    found = calibrate("llamacpp", add_to=Hardware.load("xeon_2vcpu"), threads=1, force=True)
    model = decoder(vocab_size=WORDS, num_hidden_layers=3)
    graph = extract(model, tokens(1, 16, WORDS))
    menu = [parse(name) for name in ("fp32", "w8g32")]
    tables = [
        cost.time_table(Decode(prompt, 2).writing(graph, 16), menu, found, "llamacpp")
        for prompt in (99, 199)
    ]
    short, long = (table.fixed / table.per_unit for table in tables)
    heads = model.config.num_attention_heads // model.config.num_key_value_heads
    assert heads == 2, "heads share keys and values"
    added = attention(1, 100, 3, model.config.hidden_size // heads)
    assert long - short == pytest.approx(added, rel=1e-3)
    assert tables[0].cost == pytest.approx(tables[1].cost, rel=1e-3)


def test_without_its_package_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    for name in ("aiq.calibrate.llamacpp", "aiq.gguf.write", "aiq.gguf.tensors", "aiq.gguf.header"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(aiq.calibrate, "llamacpp")
    with pytest.raises(aiq.errors.RuntimeUnavailableError, match="pip install 'aiq"):
        calibrate("llamacpp", add_to=Hardware.load("xeon_2vcpu"), threads=1, force=True)
