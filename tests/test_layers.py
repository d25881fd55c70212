"""The layers of a graph: their classes, what fuses into them, their names and edges."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from graphs import Lambda, edges, encoder, layer
from torch import nn

from aiq.graph import Op, extract


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
