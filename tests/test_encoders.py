"""Encoders: loading, texts as data, the metric, and the whole job on small BERTs and ViTs."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, ViTConfig
from transformers import ViTForImageClassification as Vit

import aiq
from aiq import encoders, sensitivity
from aiq.cost import rows
from aiq.errors import DataError, InputError
from aiq.evaluate import Evaluator, metrics
from aiq.formats import parse_all
from aiq.planning import stopwatch

WORDS = ("a", "bird", "ate", "the", "seed", "of", "old", "tree", "and", "sang", "at", "dawn")
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
LENGTH, BATCH = 12, 4


def text(count=40, seed=0):
    """Return sentences of five to nine words."""
    rng = np.random.default_rng(seed)
    lines = [" ".join(rng.choice(WORDS, rng.integers(5, 10))) for _ in range(count)]
    return "Contents\n\n" + ". ".join(line.capitalize() for line in lines) + "."


def tokenizer():
    """Return a tokenizer of whole words that adds the tokens of BERT."""
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(SPECIAL + WORDS)}, "[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]")


def bert():
    """Return a BERT whose layers differ."""
    torch.manual_seed(0)
    found = BertModel(
        BertConfig(
            vocab_size=len(SPECIAL + WORDS),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=32,
        )
    )
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return found.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder")
    bert().save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def found(folder):
    return encoders.load(folder)


def pooling(folder, **modes):
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"dimension": 32, **modes}))


@torch.no_grad()
def test_a_vector_is_the_mean_over_tokens_that_are_no_padding(found):
    given = ["a bird ate the seed", "the old tree sang at dawn and ate"]
    vectors = found.vectors(given, LENGTH)
    for line, vector in zip(given, vectors, strict=True):
        alone = torch.tensor([tokenizer()(line)["input_ids"]])  # no padding, no mask
        mean = bert()(alone).last_hidden_state[0].mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.vectors(given, 20, batch=1), vectors, atol=1e-5, rtol=1e-5)
    assert found.inputs(given, 5)["input_ids"].shape == (2, 5)  # longer ones are cut


@torch.no_grad()
def test_the_folder_says_how_tokens_are_pooled(folder, found):
    assert not found.model.first
    pooling(folder, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    first = encoders.load(folder)
    inputs = first.inputs(["a bird ate the seed"], LENGTH)
    hidden = bert()(**inputs).last_hidden_state[0, 0]
    torch.testing.assert_close(first.model(**inputs)[0], hidden / hidden.norm())
    pooling(folder, pooling_mode_max_tokens=True)
    with pytest.raises(InputError, match="pooling_mode_max_tokens, and only"):
        encoders.load(folder)
    (folder / "1_Pooling" / "config.json").write_text("[")
    with pytest.raises(InputError, match="no pooling"):
        encoders.load(folder)
    pooling(folder, pooling_mode_mean_tokens=True)
    assert not encoders.load(folder).model.first


def test_what_is_no_encoder_is_refused(tmp_path):
    with pytest.raises(InputError, match="There is no folder"):
        encoders.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="holds no encoder that transformers can load"):
        encoders.load(tmp_path)
    module = {
        "idx": 2,
        "name": "2",
        "path": "2_Dense",
        "type": "sentence_transformers.models.Dense",
    }
    for content, said in ((json.dumps([module]), "names Dense"), ("{", "cannot be read")):
        (tmp_path / "modules.json").write_text(content)
        with pytest.raises(InputError, match=said):
            encoders.load(tmp_path)


def test_a_text_becomes_queries_and_passages(found, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(text())
    lines = encoders.split_sentences(path.read_text())
    assert len(lines) == 40
    assert "Contents" not in lines
    data = found.batches(path, LENGTH, samples=10, passages=6, batch=BATCH)
    assert [len(targets) for _, targets in data] == [4, 4, 2]
    inputs, targets = data[0]
    assert targets.shape == (4, 7, 32)
    torch.testing.assert_close(found.model(**inputs), targets[:, 0])
    every = found.vectors(lines, LENGTH)
    for passage in targets[0, 1:]:
        assert (every - passage).norm(dim=1).min() < 1e-5
    assert all(torch.equal(t[0, 1:], targets[0, 1:]) for _, t in data)


def test_sizes_that_do_not_fit_are_refused(found):
    with pytest.raises(DataError, match="has 40 sentences, and 40 queries and 3 passages need 43"):
        found.batches(text(), samples=40, passages=3)
    for wrong in ({"samples": 0}, {"passages": 2}, {"batch": 1.5}, {"length": 2}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} is "):
            found.batches(text(), **{"samples": 4, "passages": 4, **wrong})
    most = found.model.transformer.config.max_position_embeddings
    for sentences, length, said in (
        (["a b"], most + 1, f"reads at most {most} tokens"),
        ("a b", LENGTH, "no list of texts"),
        ([3], LENGTH, "no list of texts"),
        ([], LENGTH, "There is no sentence"),
    ):
        with pytest.raises(InputError, match=said):
            found.inputs(sentences, length)


def test_the_metric_is_spearmans(found):
    ((_, targets),) = found.batches(text(), LENGTH, samples=8, passages=9, batch=8)
    generator = torch.Generator().manual_seed(0)
    output = targets[:, 0] + 0.02 * torch.randn(8, 32, generator=generator)
    scores = encoders.rank_correlation(output, targets)
    for score, vector, own, passages in zip(
        scores, output, targets[:, 0], targets[:, 1:], strict=True
    ):
        expected = stats.spearmanr((passages @ vector).numpy(), (passages @ own).numpy())
        assert float(score) == pytest.approx(expected.statistic)
    assert float(scores.min()) < 1
    assert encoders.rank_correlation(targets[:, 0], targets).tolist() == [1.0] * 8


def test_a_metric_with_a_comprehension_is_the_same_in_every_run():
    text = "def score(output, targets):\n    return sum([x for x in output if x != {}])\n"
    found = []
    for number in (1, 1, 2):
        names = {"__name__": "mine"}
        exec(text.format(number), names)  # noqa: S102
        found.append(metrics.identity(names["score"]))
    assert repr(found[0]) == repr(found[1])
    assert repr(found[0]) != repr(found[2])


def shift(output, targets):
    """Return a metric that is zero in float32, but for rounding errors."""
    return -(output - targets[:, 0]).square().sum(1)


def test_drops_of_a_metric_that_compares_with_float32_are_predicted(found):
    data = found.batches(text(90), LENGTH, samples=64, passages=8, batch=8)
    evaluator = Evaluator(found.model, data, metric=shift)
    assert evaluator.baseline.scores.std() < 1e-6  # says nothing about drops
    table = sensitivity.measure(evaluator, parse_all("fp32,w8a8,w4a8"))
    for name in ("w8a8", "w4a8"):
        plan = dict.fromkeys(table.layers, *parse_all(name))
        drop = evaluator.evaluate(plan).drop
        assert table.predict(plan) == pytest.approx(drop, rel=0.5)


@pytest.fixture
def short_runs(monkeypatch):
    """Time programs for milliseconds: no test asks which one is faster."""
    monkeypatch.setattr(stopwatch, "SECONDS", 0.01)
    monkeypatch.setattr(stopwatch, "FINAL_SECONDS", 0.01)


def test_the_whole_job_with_padded_sentences(found, short_runs, tmp_path):
    pytest.importorskip("openvino")
    data = found.batches(text(), LENGTH, samples=16, passages=8, batch=BATCH)
    plan = aiq.search(
        found.model,
        "epyc_zen4_2vcpu",
        data,
        runtime="openvino",
        formats="fp32,w8a8",
        metric=encoders.rank_correlation,
        max_drop=0.3,
        confidence=0.5,
        measure_top=1,
        frontier=True,
        progress=None,
    )
    layers = [layer.name for layer in plan.layers]
    assert len(layers) == 12  # the pooler of BERT is not used
    assert plan.shortlist is not None
    shown = str(plan)
    assert "rank correlation" in shown
    assert " pp" not in shown  # the drops of this metric are no percentage points
    plan.save(tmp_path / "plan.json")
    plan = aiq.Plan.load(tmp_path / "plan.json")
    plan.report(tmp_path / "plan.html")
    assert "rank correlation drop at most 0.3000" in (tmp_path / "plan.html").read_text()
    program = aiq.deploy(plan, found.model, data=data)
    inputs, _ = data[0]
    assert inputs["attention_mask"].min() == 0
    torch.testing.assert_close(program(**inputs).norm(dim=1), torch.ones(BATCH))
    simulated = plan.accuracy.plan
    scores = torch.cat([encoders.rank_correlation(program(**x), y) for x, y in data])
    assert float(scores.mean()) == pytest.approx(simulated, abs=0.05)


def test_the_whole_job_of_a_vit(tmp_path):
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    model = Vit(
        ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            image_size=32,
            patch_size=8,
            num_labels=5,
        )
    ).eval()
    images = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    data = [{"pixel_values": part} for part in images.split(16)]
    plan = aiq.search(
        model,
        "epyc_zen4_2vcpu",
        data,
        runtime="openvino",
        formats="fp32,w8a8",
        metric="cosine",
        max_drop=0.05,
        progress=None,
    )
    assert len(plan.layers) == 14
    measured = aiq.compare(plan, model, data=data, min_seconds=0.02, progress=None)
    assert not measured.mismatches
    plan.report(tmp_path / "plan.html")
    assert "cosine drop at most 0.05" in (tmp_path / "plan.html").read_text()
    assert "--metric cosine" in (tmp_path / "plan.html").read_text()


def test_a_metric_of_ones_own_on_the_command_line(tmp_path, monkeypatch):
    from aiq.cli.spec import load_metric  # noqa: PLC0415

    (tmp_path / "mymetric.py").write_text("LEVEL = 3\ndef score(output, targets): return output\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_metric("top1") == "top1"
    assert load_metric("mymetric:score").__name__ == "score"
    with pytest.raises(InputError, match="is an int; name a function"):
        load_metric("mymetric:LEVEL")


class Halves(nn.Module):
    """Two linear layers, one of which matters."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.two(self.one(x).relu())


def test_reasons_have_the_unit_of_the_metric():
    torch.manual_seed(0)
    model, x = Halves().eval(), torch.randn(64, 8)
    plan = aiq.search(
        model,
        "xeon_2vcpu_roofs",
        [x],
        objective="intensity",
        metric="cosine",
        max_drop=0.001,
        confidence=0.5,
        progress=None,
    )
    reasons = [layer.why for layer in plan.layers if "loses" in layer.why]
    assert reasons
    assert not any(" pp" in why for why in reasons)
    assert " drop  " in str(plan)


def test_an_embedding_reads_only_the_rows_that_it_looks_up():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(10_000, 64), nn.Linear(64, 4)

        def forward(self, x):
            return self.head(self.table(x))

    graph = aiq.extract(Rows().eval(), torch.arange(6)[None])
    (table,) = (layer for layer in graph.layers if layer.name == "table")
    assert table.weight_elements == 640_000
    assert rows.work(table).weights == 6 * 64
    few = aiq.extract(Rows().eval(), torch.zeros(50, 1000, dtype=torch.int64))
    (table,) = (layer for layer in few.layers if layer.name == "table")
    assert rows.work(table).weights == 640_000  # each row is read from memory once
