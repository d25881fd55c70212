"""The layer graph against torch.utils.flop_counter, the paper's numbers, and the model itself."""

import functools
import operator

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from graphs import Lambda, check_consistent, check_same_results, counted, edges, encoder, layer
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from aiq.graph import LayerGraph, Op, extract, trace
from aiq.models import resnet20

NETWORKS = {
    "resnet18": 3_628_146_688,
    "resnet50": 8_178_368_512,
    "mobilenet_v2": 601_548_544,
    "mobilenet_v3_small": 113_020_800,
    "mobilenet_v3_large": 433_179_520,
    "efficientnet_b0": 771_629_504,
    "vit_b_16": 35_127_656_448,
    "swin_t": 8_981_133_312,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_flops_of_torchvision_networks(name):
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
        x = torch.empty(1, 3, 224, 224)
    traced = trace(model, x)
    check_consistent(traced)
    assert traced.graph.flops == counted(model, x) == NETWORKS[name]
    assert traced.dynamic_batch
    assert traced.graph.layers[-1].is_output
    assert sum(layer.is_output for layer in traced.graph.layers) == 1
    modules = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    attention = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    weights = {layer.weight for layer in traced.graph.quantizable}
    assert len(traced.graph.quantizable) == len(weights) == len(modules) + len(attention)
    assert weights <= dict(model.named_parameters()).keys()


def paper_intensity(graph: LayerGraph, weight_bits: int) -> float:
    layers = graph.quantizable
    weights = sum(layer.weight_elements for layer in layers)
    activations = sum(layer.input_elements + layer.output_elements for layer in layers)
    return graph.flops / (weights * weight_bits / 8 + 4 * activations)


@pytest.fixture(scope="module")
def paper() -> LayerGraph:
    return extract(resnet20(), torch.randn(1, 3, 32, 32))


def test_resnet20_has_the_numbers_of_the_paper(paper):
    graph = paper
    layers = graph.quantizable
    assert graph.flops == sum(layer.flops for layer in layers) == 81_626_368
    assert sum(layer.weight_elements for layer in layers) == 270_906
    assert 81_626_368 / paper_intensity(graph, 32) == 2_734_608
    assert round(paper_intensity(graph, 32), 4) == 29.8494
    assert round(paper_intensity(graph, 8), 4) == 42.4719
    assert round(paper_intensity(graph, 4), 4) == 45.6923


def test_resnet20_layers_and_edges(paper):
    graph = paper
    assert len(graph.quantizable) == 22
    assert [layer.name for layer in graph.layers if not layer.quantizable] == ["pool"]
    first = layer(graph, "conv1")
    assert (first.op, first.weight_shape, first.input_shapes, first.output_shape) == (
        Op.CONV, (16, 3, 3, 3), ((1, 3, 32, 32),), (1, 16, 32, 32),
    )  # fmt: skip
    assert first.fused == ("batch_norm", "relu")
    plain, shortcut = layer(graph, "layer1.0.conv2"), layer(graph, "layer2.0.shortcut.0")
    assert plain.fused == shortcut.fused == ("batch_norm", "add", "relu")
    assert (shortcut.op, shortcut.fused_elements) == (Op.POINTWISE, 32 * 16 * 16)
    assert layer(graph, "layer2.0.conv2").fused == ("batch_norm",)
    assert layer(graph, "fc").is_output
    assert layer(graph, "fc").weight_elements == 64 * 10 + 10
    big, small = 16 * 32 * 32, 32 * 16 * 16
    assert edges(graph) >= {
        ("conv1", "layer1.0.conv1", big),
        ("conv1", "layer1.0.conv2", big),
        ("layer1.2.conv2", "layer2.0.conv1", big),
        ("layer1.2.conv2", "layer2.0.shortcut.0", big),
        ("layer2.0.conv2", "layer2.0.shortcut.0", small),
        ("pool", "fc", 64),
    }
    assert len(graph.edges) == 31


def test_counts_scale_with_the_batch(paper):
    one, five = paper, extract(resnet20(), torch.randn(5, 3, 32, 32))
    assert (one.batch, five.batch) == (1, 5)
    assert five.flops == 5 * one.flops
    for a, b in zip(one.layers, five.layers, strict=True):
        assert b.input_elements == 5 * a.input_elements
        assert (a.name, a.nodes, a.weight_elements) == (b.name, b.nodes, b.weight_elements)


def test_an_input_of_another_size_is_counted_as_it_is():
    # A batch of one is traced as two: an input that has two of something is not of that batch.
    model = Lambda(lambda s, x, y: (s.a(x), s.b(y)), a=nn.Linear(8, 16), b=nn.Linear(4, 8))
    graph = extract(model, (torch.randn(1, 8), torch.randn(2, 4)))
    assert [layer.output_shape for layer in graph.layers] == [(1, 16), (2, 8)]


@pytest.mark.parametrize("example", [1, 3])
def test_any_batch_runs(example):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(inplace=True), nn.Conv2d(8, 8, 3, groups=8),
        nn.Hardswish(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    traced = trace(model, torch.randn(example, 3, 16, 16))
    check_consistent(traced)
    assert traced.dynamic_batch
    for batch in (1, 2, 7):
        check_same_results(traced, model, torch.randn(batch, 3, 16, 16))


def mutating(self, x):
    y = self.l(x)
    y[:, 0] = 1.0
    y[:, 1:3] += x[:, 1:3]
    z = torch.zeros_like(y)
    z[:, 1] = 2.0
    return F.relu_(y) * z + self.l(x)


MODELS = {
    "conv1d": lambda: (
        nn.Sequential(
            nn.Conv1d(4, 6, 3, groups=2), nn.Conv1d(6, 6, 1, groups=6), nn.GroupNorm(2, 6),
            nn.SiLU(), nn.Linear(6, 3),
        ),
        torch.randn(2, 4, 8),
    ),
    "conv3d": lambda: (
        nn.Sequential(
            nn.Conv3d(1, 2, 3, padding="same"), nn.InstanceNorm3d(2), nn.MaxPool3d(2), nn.Flatten(),
            nn.Dropout(), nn.Linear(128, 3),
        ),
        torch.randn(2, 1, 8, 8, 8),
    ),
    "transposed": lambda: (
        nn.Sequential(
            nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 6, 1),
        ),
        torch.randn(2, 4, 5, 5),
    ),
    "unbatched": lambda: (nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU()), torch.randn(3, 8, 8)),
    "encoder": lambda: (encoder(), torch.randn(1, 5, 16)),
    "attention": lambda: (
        nn.MultiheadAttention(8, 2, batch_first=True, kdim=6, vdim=6),
        (torch.randn(3, 5, 8), torch.randn(3, 7, 6), torch.randn(3, 7, 6)),
    ),
    "mutation": lambda: (Lambda(mutating, l=nn.Linear(8, 8)), torch.randn(2, 8)),
    "weight norm": lambda: (nn.Sequential(weight_norm(nn.Linear(8, 8))), torch.randn(2, 8)),
    "einsum": lambda: (
        Lambda(lambda s, x: torch.einsum("bi,oi->bo", s.l(x), x), l=nn.Linear(8, 8)),
        torch.randn(2, 8),
    ),
    "addmm": lambda: (
        Lambda(lambda s, x: torch.addmm(s.b, x, s.w), w=torch.randn(8, 5), b=torch.randn(5)),
        torch.randn(2, 8),
    ),
    "products": lambda: (
        Lambda(
            lambda s, x: (x @ s.w, x @ s.w.t(), x @ s.w.transpose(1, 0), x @ s.w.permute(0, 1)),
            w=torch.randn(8, 8),
        ),
        torch.randn(2, 3, 8),
    ),
    "cond": lambda: (
        Lambda(
            lambda s, x: s.k(torch.cond(x.sum() > 0, s.l, lambda x: x * 2, (x,))),
            l=nn.Linear(8, 8), k=nn.Linear(8, 8),
        ),
        torch.ones(2, 8),
    ),
    "keywords": lambda: (
        Lambda(
            lambda s, x, y=None, scale=1.0: s.a(x) + s.b(y) * scale,
            a=nn.Linear(8, 4), b=nn.Linear(6, 4),
        ),
        {"y": torch.randn(1, 6), "x": torch.randn(1, 8), "scale": 2.0},
    ),
    "several outputs": lambda: (
        Lambda(lambda s, x: {"a": (y := s.a(x)), "b": [y.relu(), x]}, a=nn.Linear(8, 4)),
        torch.randn(2, 8),
    ),
    "gru": lambda: (
        Lambda(
            lambda s, x: s.f(s.r(x)[0][:, -1]),
            r=nn.GRU(8, 16, batch_first=True), f=nn.Linear(16, 3),
        ),
        torch.randn(2, 5, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_module_computes_the_same_and_flops_agree(name):
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    traced = trace(model, inputs)
    check_consistent(traced)
    check_same_results(traced, model, inputs)
    assert traced.graph.flops == counted(model, inputs)


def test_windowed_attention_computes_the_same():
    torch.manual_seed(0)
    model = torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10)
    traced = trace(model, torch.randn(1, 3, 64, 64))
    check_consistent(traced)
    check_same_results(traced, model, torch.randn(2, 3, 64, 64))


def test_lstm_counts_every_weight_at_every_step():
    model = Lambda(
        lambda s, x: s.head(s.lstm(x)[0]), head=nn.Linear(32, 3),
        lstm=nn.LSTM(8, 16, 2, batch_first=True, bidirectional=True),
    )  # fmt: skip
    lstm = layer(extract(model, torch.randn(3, 5, 8)), "lstm")
    # Two directions of four gates, each reading the layer's input and its own state.
    assert lstm.flops == 2 * 3 * 5 * 2 * (4 * 16 * (8 + 16) + 4 * 16 * (32 + 16))
    assert lstm.weight_elements == sum(p.numel() for p in model.lstm.parameters())
    assert not lstm.quantizable


def test_dropout_that_stays_on_is_kept():
    model = Lambda(lambda s, x: F.dropout(s.l(x), 0.5, training=True), l=nn.Linear(8, 64))
    module = trace(model, torch.randn(4, 8)).module
    assert 0.2 < (module(torch.randn(32, 8)) == 0).float().mean() < 0.8


def test_constants_are_computed_once():
    def forward(self, x):
        mask = x.new_zeros(5, 5)
        mask[1:, 2:] = -1.0
        return self.l(x) + mask.sum(0) * self.w.t()[0]

    model = Lambda(forward, l=nn.Linear(5, 5), w=torch.randn(5, 5))
    traced = trace(model, torch.randn(3, 5))
    assert [layer.name for layer in traced.graph.layers] == ["l", "add"]
    check_same_results(traced, model, torch.randn(3, 5))


def test_fixed_batch_is_recorded():
    model = Lambda(lambda s, x: s.l(x).reshape(2, -1).relu(), l=nn.Linear(8, 8))
    traced = trace(model, torch.randn(2, 8))
    assert not traced.dynamic_batch
    check_same_results(traced, model, torch.randn(2, 8))


def test_model_is_left_as_it_was():
    model = resnet20()
    model.train()
    model.bn1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    traced = trace(model, torch.randn(4, 3, 32, 32))
    assert model.training
    assert model.layer1.training
    assert not model.bn1.training
    assert all(p.requires_grad for p in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert traced.module.get_parameter("conv1.weight") is model.conv1.weight
    operators = {node.target for node in traced.module.graph.nodes if node.op == "call_function"}
    aten = torch.ops.aten
    assert {aten.conv2d.default, aten.batch_norm.default, aten.linear.default} <= operators
    assert operator.getitem not in operators


def test_meta_device_needs_no_memory():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(1_000_000, 1_000_000), nn.ReLU())
        graph = extract(model, torch.empty(1, 1_000_000))
    assert graph.flops == 2 * 10**12
    assert graph.layers[0].weight_elements == 10**12 + 10**6


def test_compiled_model_keeps_its_names():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    assert extract(torch.compile(model), torch.randn(2, 8)) == extract(model, torch.randn(2, 8))


def remembered(function):
    """Return a function that keeps its results, behind a plain one, as in transformers."""
    kept = functools.lru_cache(function)

    @functools.wraps(function)
    def wrapper(*arguments):
        return kept(*arguments)

    return wrapper


@functools.cache
def ramp(size):
    return torch.arange(size) / size


class Remembers(nn.Module):
    """Adds constants that a function, a static method and methods have computed before."""

    def __init__(self, *, is_fixed):
        super().__init__()
        self.layer, self.is_fixed = nn.Linear(4, 4), is_fixed

    @staticmethod
    @remembered
    def positions(size):
        return torch.arange(size).flip(0)

    @functools.lru_cache  # noqa: B019 - models of timm and transformers do so
    def ones(self, size):
        return torch.ones(size)

    def forward(self, x):
        x = self.layer(x)[:, self.positions(4)] + ramp(4) + self.ones(4)
        return x.reshape(2, 4) if self.is_fixed else x  # the batch of two cannot vary


@pytest.mark.parametrize("is_fixed", [False, True])
def test_a_model_with_caches_is_exported_and_left_as_it_was(is_fixed):
    torch.manual_seed(0)
    model, x = Remembers(is_fixed=is_fixed).eval(), torch.randn(2, 4)
    flipped, steps = model.layer(x).flip(1), torch.tensor([1.0, 1.25, 1.5, 1.75])
    traced = trace(model, x)
    assert traced.dynamic_batch is not is_fixed
    for found in (model(x), traced.module(x)):
        assert type(found) is torch.Tensor
        torch.testing.assert_close(found, flipped + steps)
