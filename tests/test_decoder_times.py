"""Calibrations of decoders: whole decoders are timed, and their steps are priced."""

import math
import sys
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
from decoders import WORDS, decoder, tokens

import aiq
from aiq import cost
from aiq.calibrate import calibrate, decoder_fit, decoders, folders, llamacpp
from aiq.calibrate.decoder_fit import Sizes, TimedDecoder, fitted_section
from aiq.cost.products import interpolated
from aiq.errors import InputError, RuntimeUnavailableError
from aiq.formats import parse
from aiq.graph import Decode, extract
from aiq.hardware import Hardware, profile
from aiq.hardware.sections import DECODERS
from aiq.runtimes import placement

TINY = (Sizes(64, 96, 1, 288), Sizes(128, 192, 1, 288))

CALL, BLOCK = 40e-6, 90e-6  # seconds of a call, and of a block besides its matrices
SMALL = {"fp32": 10e9, "w4g32": 4e9, "w8g32": 6e9}  # bytes of small matrices a second
LARGE = {"fp32": 20e9, "w4g32": 8e9, "w8g32": 15e9}
QUERY = 5e9  # bytes of keys and values that a query reads in a second


def matrices(hidden, wide, blocks, vocabulary, kept):
    """Return the elements of the matrices of a decoder, the output layer last."""
    block = [hidden * hidden, kept * hidden, kept * hidden, hidden * hidden, *3 * [hidden * wide]]
    return (*blocks * block, vocabulary * hidden)


def reading(name, elements, bits):
    """Return the seconds in which a matrix is read."""
    byte = interpolated(elements, decoder_fit.KNOTS, (1 / SMALL[name], 1 / LARGE[name]))
    return elements * bits / 8 * byte


def attention(rows, context, blocks, hidden):
    """Return the time of attention: each query reads the keys and values of the context."""
    return rows * blocks * 2 * 2 * hidden * context / QUERY


def timed(runtime="llamacpp", *, logits_of_prompt=False):
    """Return the times of decoders at the rates above, with noise in one of two rounds."""
    found = []
    for sizes in decoders.SIZES:
        hidden, blocks = sizes.hidden, sizes.blocks
        kept = 64 * sizes.kept_heads
        *inner, head = matrices(hidden, sizes.wide, blocks, sizes.vocabulary, kept)
        for name in SMALL:
            bits = placement.stored_bits(runtime, parse(name))
            body = sum(reading(name, n, bits) for n in inner)
            last = reading(name, head, bits)

            def step(rows, context, body=body, last=last, sizes=sizes, blocks=blocks):
                many = 1 + rows / 16  # a prompt of many rows takes longer
                ends = last * (many if logits_of_prompt else 1 + 1 / 16)
                width = sizes.hidden if rows > 1 else 64 * sizes.kept_heads
                rest = CALL + blocks * BLOCK * many + attention(rows, context, blocks, width)
                return body * many + ends + rest

            short = {1: step(1, 76), 64: step(64, 64)}
            once = 0 if logits_of_prompt else last * (1 + 1 / 16)  # it reads one row
            eight = 8 * (step(64, 0) - once) + once
            long = {1: step(1, 524), 512: eight + attention(512, 512, blocks, hidden)}
            has_long = name == "w4g32" and hidden >= decoder_fit.LEAST_WIDTH
            found.append(
                TimedDecoder(
                    name,
                    sizes,
                    bits,
                    (*inner, head),
                    {rows: [1.1 * seconds, seconds] for rows, seconds in short.items()},
                    {rows: [seconds] for rows, seconds in long.items()} if has_long else {},
                    logits_of_prompt,
                )
            )
    return found


@cache
def with_section(name):
    """Return a shipped profile with a section that was fitted to `timed`."""
    times = timed(name, logits_of_prompt=name != placement.GGUF)
    hardware = Hardware.load("xeon_2vcpu")
    section = fitted_section(name, "1", times, hardware)
    return replace(hardware, runtimes={**hardware.runtimes, name: section})


BLOCKS = 3


@pytest.fixture(scope="module")
def graph():
    """The layer graph of a decoder, of which two heads share keys and values."""
    sizes = {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4}
    model = decoder(vocab_size=WORDS, num_hidden_layers=BLOCKS, intermediate_size=768, **sizes)
    return extract(model, tokens(1, 16, WORDS))


@pytest.mark.parametrize("name", [placement.GGUF, *DECODERS.values()])
def test_the_time_of_a_decoder_that_was_not_timed_is_predicted(name, graph):
    hardware = with_section(name)
    menu = [parse(fmt) for fmt in SMALL]
    table = cost.time_table(Decode(100, 2).writing(graph, 16), menu, hardware, name)
    plan = {layer.name: menu[i % 3] for i, layer in enumerate(graph.quantizable)}
    many = 1 + 1 / 16
    expected = CALL + BLOCKS * BLOCK * many + attention(1, 101, BLOCKS, 256)
    for layer in graph.quantizable:
        fmt, elements = plan[layer.name], math.prod(layer.weight_shape)
        bits = placement.stored_bits(name, fmt)
        expected += many * reading(fmt.name, elements, bits)
    assert table.total(plan) == pytest.approx(expected, rel=0.03)
    section = hardware.runtimes[name]
    assert section.fit.noise == pytest.approx(0.1, rel=0.01)
    # Without its own time, a decoder of large matrices has the rates of small ones.
    assert 0.2 < section.fit.mape < 0.6
    again = profile.parse_profile(profile.to_yaml(hardware), "found.yaml")
    assert again.runtimes[name] == section


def test_no_matrix_is_fitted_to_take_no_time():
    """Prompts in the large decoder are shorter than matrices of one rate can explain."""
    times = [
        replace(t, rounds={1: t.rounds[1], 64: [0.4 * seconds for seconds in t.rounds[64]]})
        if t.sizes.hidden == max(sizes.hidden for sizes in decoders.SIZES)
        else t
        for t in timed()
    ]
    found = fitted_section(placement.GGUF, "1", times, Hardware.load("xeon_2vcpu"))
    for products in found.products.values():
        for product in products:
            small, large = (rate for _, rate in product.rates)
            ratio = max(small, large) / min(small, large)
            assert ratio <= 1.001 * decoder_fit.MOST_DIFFERENT


def test_zero_points_are_priced_with_the_bits_of_files(graph):
    hardware = with_section("llamacpp")
    section = hardware.runtimes["llamacpp"]
    alike = replace(section, products=dict.fromkeys(["w4g32", "w4g32z"], section.products["w4g32"]))
    hardware = replace(hardware, runtimes={"llamacpp": alike})
    menu = [parse("w4g32"), parse("w4g32z")]
    without, with_zeros = cost.time_table(graph, menu, hardware, "llamacpp").cost.T
    assert with_zeros / without == pytest.approx(5.0 / 4.5, rel=1e-3)


def test_a_longer_context_costs_the_keys_and_values_that_are_read(graph):
    found = with_section("llamacpp")
    menu = [parse(name) for name in ("fp32", "w8g32")]
    tables = [
        cost.time_table(Decode(prompt, 2).writing(graph, 16), menu, found, "llamacpp")
        for prompt in (99, 199)
    ]
    short, long = (table.fixed / table.per_unit for table in tables)
    assert long - short == pytest.approx(attention(1, 100, BLOCKS, 256), rel=0.01)
    assert tables[0].cost == pytest.approx(tables[1].cost, rel=1e-3)


def test_a_calibrated_profile_prices_the_plan_of_a_decoder():
    model = decoder(vocab_size=WORDS, num_hidden_layers=1, intermediate_size=128)
    options = {"runtime": "openvino", "max_drop": 1.0, "workload": "8+8"}
    options |= {"example_inputs": tokens(1, 16, WORDS), "formats": "fp32,w8g32,w4g32,w4g32z"}
    plan = aiq.search(model, with_section("openvino_decoder"), **options)
    assert plan.predicted.level == "calibrated"
    assert {layer.format for layer in plan.layers} <= {"w4g32", "w4g32z"}
    assert plan.predicted.token_seconds > 0.8 * (CALL + BLOCK)
    bound = aiq.search(model, "xeon_2vcpu", **options)
    assert bound.predicted.level == "roofline"
    said = " ".join(str(bound).split())
    assert "not calibrated for decoders in openvino" in said
    assert "`aiq calibrate --runtime openvino_decoder --add-to xeon_2vcpu" in said
    with pytest.raises(InputError, match="runtime is 'openvino_decoder'"):
        aiq.search(
            model, with_section("openvino_decoder"), **options | {"runtime": "openvino_decoder"}
        )


@pytest.fixture(scope="module")
def found():
    """Calibrate llama.cpp on two tiny decoders."""
    pytest.importorskip("xllamacpp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoders, "SIZES", TINY)
        patch.setattr(decoders, "LEAST_WIDTH", 0)
        patch.setattr(decoder_fit, "LEAST_WIDTH", 0)
        patch.setattr(decoders, "_ROUNDS", 2)
        known = replace(Hardware.load("xeon_2vcpu"), threads=1)
        return calibrate("llamacpp", add_to=known, threads=1, force=True)


def test_a_calibration_times_every_format(found):
    section = found.runtimes["llamacpp"]
    assert set(section.products) == set(llamacpp.FORMATS)
    for products in section.products.values():
        assert [product.rows for product in products] == [1, 64]
        assert all(rate > 0 for product in products for _, rate in product.rates)
    assert [product.rows for product in section.attention] == [1, 64, 512]
    assert 0 < section.fit.low <= 1 <= section.fit.high
    assert section.fit.samples == len(TINY) * len(llamacpp.FORMATS)
    assert any(source.startswith("llamacpp: 12 ") for source in found.provenance["sources"])


def test_a_calibration_of_folders_times_every_format(monkeypatch):
    written = {}

    class Program:
        def __init__(self, path, threads):
            self.path, self.threads = path, threads

        def run(self, prompt, tokens):
            return SimpleNamespace(first=0.01 * len(prompt), token=0.01 + 1e-6 * len(prompt))

    def write(model, folder, plans, traced, *, runtime):
        written[model.config.hidden_size] = {name: set(fs.values()) for name, fs in plans.items()}
        assert runtime == "onnxruntime"
        return {name: folder / name for name in plans}

    monkeypatch.setattr(folders, "write_variants", write)
    monkeypatch.setattr(folders, "Generator", Program)
    monkeypatch.setattr(decoders, "SIZES", TINY)
    monkeypatch.setattr(decoders, "LEAST_WIDTH", 0)
    monkeypatch.setattr(decoder_fit, "LEAST_WIDTH", 0)
    known = replace(Hardware.load("xeon_2vcpu"), threads=1)
    found = calibrate("onnxruntime_decoder", add_to=known, threads=1, force=True)
    assert set(found.runtimes) == {*known.runtimes, "onnxruntime_decoder"}
    assert set(found.runtimes["onnxruntime_decoder"].products) == set(folders.FORMATS)
    for plans in written.values():
        assert plans == {name: {parse(name)} for name in folders.FORMATS}
    assert set(written) == {64, 128}


def test_without_its_package_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    for name in ("aiq.calibrate.llamacpp", "aiq.gguf.write", "aiq.gguf.tensors", "aiq.gguf.header"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(aiq.calibrate, "llamacpp")
    with pytest.raises(RuntimeUnavailableError, match="pip install 'aiq"):
        calibrate("llamacpp", add_to=Hardware.load("xeon_2vcpu"), threads=2, force=True)
