"""The layer graph against torch.utils.flop_counter, the paper's numbers, and the model itself."""

import operator
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from torch import nn
from torch._higher_order_ops import while_loop
from torch.nn.utils.parametrizations import weight_norm
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from aiq.errors import GraphError
from aiq.graph import Layer, LayerGraph, Op, Trace, extract, trace
from aiq.graph.export import call_arguments
from aiq.models import resnet20


class Lambda(nn.Module):
    """A function and the modules and parameters it uses."""

    def __init__(self, function: Callable, **members: object) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, nn.Parameter(member) if torch.is_tensor(member) else member)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def counted(model: nn.Module, inputs: object) -> int:
    args, kwargs = call_arguments(inputs)
    with FlopCounterMode(display=False) as counter:  # with gradients, lest fused kernels hide
        model.eval()(*args, **kwargs)
    return counter.get_total_flops()


def layer(graph: LayerGraph, name: str) -> Layer:
    (found,) = [layer for layer in graph.layers if layer.name == name]
    return found


def edges(graph: LayerGraph) -> set[tuple[str, str, int]]:
    names = [layer.name for layer in graph.layers]
    return {(names[e.source], names[e.target], e.elements) for e in graph.edges}


def check_consistent(traced: Trace) -> None:
    """What holds for every layer graph."""
    graph = traced.graph
    assert len({layer.name for layer in graph.layers}) == len(graph.layers)
    covered = [node for layer in graph.layers for node in layer.nodes]
    assert len(set(covered)) == len(covered)
    assert set(covered) <= {node.name for node in traced.module.graph.nodes}
    assert len({(e.source, e.target) for e in graph.edges}) == len(graph.edges)
    for edge in graph.edges:
        assert 0 <= edge.source < edge.target < len(graph.layers)
        assert 0 < edge.elements <= graph.layers[edge.source].output_elements
    for node in traced.module.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable, node


def check_same_results(traced: Trace, model: nn.Module, inputs: object) -> None:
    """The exported module, called and interpreted node by node, computes what the model does."""
    args, kwargs = call_arguments(inputs)
    model.eval()
    with torch.no_grad():
        expected = model(*args, **kwargs)
        called = traced.module(*args, **kwargs)
        stepped = torch.fx.Interpreter(traced.module).run(*pytree.tree_leaves((args, kwargs)))
    torch.testing.assert_close(called, expected)
    torch.testing.assert_close(stepped, expected)


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


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 1)


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


def test_convolution_classes():
    shapes = {
        Op.CONV: nn.Conv2d(8, 8, 3),
        Op.POINTWISE: nn.Conv2d(8, 4, 1, stride=2),
        Op.DEPTHWISE: nn.Conv2d(8, 16, 3, groups=8),
        Op.GROUPED: nn.Conv2d(8, 8, 3, groups=2),
        Op.LINEAR: nn.Linear(8, 3),
    }
    for op, module in shapes.items():
        (only,) = extract(module, torch.randn(2, 8, 8, 8)).layers
        assert only.op is op
        assert only.weight_elements == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("function", "fused"),
    [
        (lambda s, x: F.relu(s.a(x)), {"a": ("relu",)}),
        (lambda s, x: s.b(s.a(x)) + x, {"a": (), "b": ("add",)}),
        (lambda s, x: F.gelu(s.a(x) + s.b(x)), {"a": (), "b": ("add", "gelu")}),
        (lambda s, x: s.a(x) + F.relu(s.b(x)), {"a": (), "b": ("relu",), "add": ()}),
        (lambda s, x: F.dropout(s.a(x), training=s.training) + x, {"a": ("add",)}),
        (lambda s, x: (y := s.a(x)) + y, {"a": (), "add": ()}),
        (lambda s, x: (y := s.a(x)) * torch.sigmoid(y), {"a": (), "sigmoid": (), "mul": ()}),
        (lambda s, x: ((y := s.a(x)), F.relu(y)), {"a": (), "relu": ()}),
        (lambda s, x: s.n(s.a(x)), {"a": ("batch_norm",)}),
        (lambda s, x: F.relu(s.n(x) + s.a(x)), {"n": (), "a": ("add", "relu")}),
        (lambda s, x: s.a(x) + x[:, :1], {"a": ("add",)}),
        (lambda s, x: s.a(x)[:, :1] + x, {"a": (), "add": ()}),
        (lambda s, x: s.n(s.a(x).unsqueeze(0).flatten(0, 1)), {"a": (), "n": ()}),
    ],
)
def test_what_fuses(function, fused):
    model = Lambda(function, a=nn.Linear(8, 8), b=nn.Linear(8, 8), n=nn.BatchNorm1d(8))
    graph = extract(model, torch.randn(4, 8))
    found = {layer.name: layer.fused for layer in graph.layers}
    assert found == fused


def test_batch_norm_of_a_sequence_does_not_fuse_into_its_linear_layer():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(5))
    assert [layer.fused for layer in extract(model, torch.randn(4, 5, 8)).layers] == [(), ()]


def test_edges_lead_through_views_to_every_reader():
    def forward(self, x):
        left, right = self.a(x).chunk(2, 1)
        right = self.b(right)
        return self.c(torch.cat([left, right], 1).flatten(2).unflatten(2, (5, 5)))

    members = {"a": nn.Conv2d(4, 4, 1), "b": nn.Conv2d(2, 2, 3, padding=1), "c": nn.Conv2d(4, 4, 1)}
    graph = extract(Lambda(forward, **members), torch.randn(2, 4, 5, 5))
    assert edges(graph) == {
        ("a", "b", 100),
        ("a", "cat", 100),
        ("b", "cat", 100),
        ("cat", "c", 200),
    }
    assert layer(graph, "cat").op is Op.CONCAT


def test_layout_layers_are_those_that_move_data():
    def forward(self, x):
        moved = self.a(x).permute(0, 2, 1).contiguous()
        return self.b(F.pad(torch.roll(moved, 1, 2), (0, 2)).transpose(1, 2))

    graph = extract(Lambda(forward, a=nn.Linear(8, 8), b=nn.Linear(8, 8)), torch.randn(2, 6, 8))
    assert [layer.op for layer in graph.layers] == [
        Op.LINEAR, Op.LAYOUT, Op.LAYOUT, Op.LAYOUT, Op.LINEAR,
    ]  # fmt: skip
    assert layer(graph, "pad").output_elements == 2 * 8 * 8


def test_products_with_a_parameter_are_linear_layers():
    def forward(self, x):
        return torch.addmm(self.b, x @ self.w.t(), self.w) @ x.t()

    model = Lambda(forward, w=torch.randn(8, 8), b=torch.randn(8))
    first, second, product = extract(model, torch.randn(3, 8)).layers
    assert (first.op, first.weight, first.weight_elements) == (Op.LINEAR, "w", 64)
    assert (second.op, second.weight, second.weight_elements) == (Op.LINEAR, "constant_w_t", 72)
    assert (product.op, product.quantizable) == (Op.MATMUL, False)


def test_dropout_that_stays_on_is_kept():
    model = Lambda(lambda s, x: F.dropout(s.l(x), 0.5, training=True), l=nn.Linear(8, 64))
    module = trace(model, torch.randn(4, 8)).module
    assert 0.2 < (module(torch.randn(32, 8)) == 0).float().mean() < 0.8


def test_names_of_shared_and_functional_weights():
    def forward(self, tokens):
        x = self.linear(self.linear(self.embed(tokens)))
        return F.linear(x, self.w), self.head(x)

    head = nn.Linear(8, 10, bias=False)
    embed = nn.Embedding(10, 8)
    head.weight = embed.weight
    model = Lambda(forward, embed=embed, linear=nn.Linear(8, 8), head=head, w=torch.randn(3, 8))
    graph = extract(model, torch.zeros(3, 5, dtype=torch.long))
    weights = {layer.name: layer.weight for layer in graph.layers}
    assert weights == {
        "embed": "embed.weight",
        "linear": "linear.weight",
        "linear#2": "linear.weight",
        "w": "w",
        "head": "embed.weight",
    }
    assert not layer(graph, "embed").quantizable
    assert [layer.name for layer in graph.layers if layer.is_output] == ["w", "head"]


def test_attention_names_and_flops():
    graph = extract(encoder(), torch.randn(2, 5, 16))
    assert [layer.name for layer in graph.quantizable] == [
        "layers.0.self_attn.in_proj", "layers.0.self_attn.out_proj", "layers.0.linear1",
        "layers.0.linear2",
    ]  # fmt: skip
    attention = layer(graph, "layers.0.self_attn.scaled_dot_product_attention")
    assert attention.op is Op.MATMUL
    assert attention.flops == 2 * 2 * 4 * 5 * 5 * (4 + 4)  # batch, heads, queries, keys, widths


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


def test_control_flow_on_values():
    model = Lambda(lambda s, x: s.l(x) if s.l(x).sum() > 0 else x, l=nn.Linear(8, 8))
    with pytest.raises(GraphError, match=r"control flow depends on the values .*torch\.cond"):
        trace(model, torch.randn(2, 8))


def test_sizes_that_depend_on_values():
    model = Lambda(lambda s, x: s.l(x[x[:, 0] > 0]), l=nn.Linear(8, 8))
    with pytest.raises(GraphError, match="depends on the values"):
        trace(model, torch.randn(2, 8))


def test_loops_of_unknown_length():
    def forward(self, x):
        return while_loop(lambda y: y.sum() < 9, lambda y: (self.l(y).abs() + 1,), (x,))

    with pytest.raises(GraphError, match="How often while_loop runs"):
        trace(Lambda(forward, l=nn.Linear(8, 8)), torch.randn(2, 8))


def test_what_torch_cannot_export():
    model = Lambda(lambda s, x: torch.tensor(s.l(x).detach().numpy()), l=nn.Linear(8, 8))
    with pytest.raises(GraphError, match=r"cannot be exported.*numpy.*submodule"):
        trace(model, torch.randn(2, 8))


def test_errors_print_nothing(capfd):
    model = Lambda(lambda s, x: s.l(x) if s.l(x).sum() > 0 else x, l=nn.Linear(8, 8))
    for bad in (torch.randn(2, 8), torch.randn(2, 9)):
        with pytest.raises(GraphError) as raised:
            trace(model, bad)
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 500
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("wrong", [(2, 9), (8,), (2, 3, 4)])
def test_wrong_shapes(wrong):
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    with pytest.raises(GraphError, match=r"fails on the example inputs: .* Pass inputs"):
        trace(model, torch.randn(wrong))


def test_unknown_keyword():
    with pytest.raises(GraphError, match="unexpected keyword argument 'image'"):
        trace(nn.Linear(8, 8), {"image": torch.randn(2, 8)})


@pytest.mark.parametrize("inputs", [None, (), {}, [], 3, "cat", ({"x": 1},)])
def test_no_example_inputs(inputs):
    with pytest.raises(GraphError, match="pass a tensor"):
        trace(nn.Linear(8, 8), inputs)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(value):
    model = resnet20()
    with torch.no_grad():
        model.layer2[1].conv1.weight[3, 2, 1, 0] = value
    with pytest.raises(GraphError, match=r"'layer2\.1\.conv1\.weight' holds NaN or infinite"):
        trace(model, torch.randn(1, 3, 32, 32))


def test_statistics_that_are_not_numbers():
    model = resnet20()
    model.bn1.running_var[2] = float("nan")
    with pytest.raises(GraphError, match=r"'bn1\.running_var' holds NaN"):
        trace(model, torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize("model", [nn.Linear, torch.relu, None, "resnet18"])
def test_not_a_module(model):
    with pytest.raises(GraphError, match=r"pass a torch\.nn\.Module instance"):
        trace(model, torch.randn(1, 8))


def test_uninitialised_lazy_layer():
    with pytest.raises(GraphError, match="run the model once"):
        trace(nn.LazyLinear(8), torch.randn(1, 8))


@pytest.mark.parametrize("model", [nn.ReLU(), nn.LSTM(8, 8), nn.BatchNorm1d(8), nn.Sequential()])
def test_nothing_to_quantise(model):
    with pytest.raises(GraphError, match="nothing to quantise"):
        trace(model, torch.randn(4, 8))
