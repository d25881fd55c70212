"""What is counted, and what is said of what is not: against the model's parameters."""

import pytest
import torch
import torchvision
from graphs import Lambda
from torch import nn
from torch.nn.functional import embedding, linear

import aiq
from aiq.errors import InfeasibleError
from aiq.graph import extract
from aiq.plan import notes


def search(model, x, **options):
    return aiq.search(
        model.eval(), "xeon_2vcpu_roofs", example_inputs=x, sensitivity=lambda n, f: 0.0, **options
    )


def again(s, x):
    return s.f(torch.relu(s.a(torch.relu(s.a(x)))))


def tied(s, i):
    return linear(s.f(s.e(i)), s.e.weight)


MODELS = {
    "lstm": (
        Lambda(lambda s, x: s.f(s.r(x)[0]), r=nn.LSTM(8, 6, proj_size=4), f=nn.Linear(4, 3)),
        torch.randn(2, 5, 8),
    ),
    "gru": (
        Lambda(lambda s, x: s.f(s.r(x)[0]), r=nn.GRU(8, 6, bidirectional=True), f=nn.Linear(12, 3)),
        torch.randn(2, 5, 8),
    ),
    "tied embedding": (
        Lambda(tied, e=nn.Embedding(20, 8), f=nn.Linear(8, 8)),
        torch.zeros(2, 5, dtype=torch.long),
    ),
    "bag": (
        Lambda(lambda s, i: s.f(s.e(i)), e=nn.EmbeddingBag(20, 8), f=nn.Linear(8, 8)),
        torch.zeros(2, 5, dtype=torch.long),
    ),
    "product": (
        Lambda(lambda s, x: s.f(torch.bmm(x, s.w)), w=torch.randn(2, 8, 8), f=nn.Linear(8, 8)),
        torch.randn(2, 5, 8),
    ),
    "sum of products": (
        Lambda(
            lambda s, x: s.f(torch.einsum("bhi,hio->bho", x, s.w)),
            w=torch.randn(5, 8, 8), f=nn.Linear(8, 8),
        ),
        torch.randn(2, 5, 8),
    ),
    "positions": (
        Lambda(lambda s, x: s.f(s.n(x + s.p * 2)), p=torch.randn(5, 8), n=nn.LayerNorm(8),
               f=nn.Linear(8, 8)),
        torch.randn(2, 5, 8),
    ),
    "before a norm": (
        nn.Sequential(nn.BatchNorm2d(3), nn.PReLU(3), nn.Conv2d(3, 4, 3)),
        torch.randn(2, 3, 8, 8),
    ),
    "bilinear": (
        Lambda(lambda s, x: s.f(s.b(x, x)), b=nn.Bilinear(8, 8, 8), f=nn.Linear(8, 8)),
        torch.randn(2, 8),
    ),
    "called again": (Lambda(again, a=nn.Linear(8, 8), f=nn.Linear(8, 8)), torch.randn(2, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_size_of_a_network_is_that_of_its_parameters(name):
    model, x = MODELS[name]
    parameters = sum(p.numel() for p in model.parameters())
    plan = search(model, x, formats="fp32,w8a8", max_size=4 * parameters)
    assert plan.baseline.weight_bytes == 4 * parameters
    fixed = sum(entry["bytes"] for entry in plan.provenance["undecided"])
    decided = sum(layer.weight_elements for layer in plan.layers if layer.format != "fp32")
    exact = sum(layer.weight_elements for layer in plan.layers if layer.format == "fp32")
    if name != "tied embedding":
        assert plan.predicted.weight_bytes == fixed + decided + 4 * exact
    with pytest.raises(InfeasibleError, match="bytes of weights; the nearest feasible max_size is"):
        search(model, x, formats="fp32", max_size=4 * parameters - 1)


def test_a_tied_embedding_is_stored_once_as_float32_and_twice_otherwise():
    model, x = MODELS["tied embedding"]
    floats = search(model, x, formats="fp32")
    integers = search(model, x, formats="w8a8")
    assert floats.predicted.weight_bytes == 4 * (20 * 8 + 8 * 8 + 8)
    assert integers.predicted.weight_bytes == 4 * 20 * 8 + 20 * 8 + 8 * 8 + 8


def test_flops_of_operators_with_weights():
    def flops(function, x, **members):
        graph = extract(Lambda(function, f=nn.Linear(4, 4), **members).eval(), x)
        assert not graph.uncounted
        return {layer.name: layer.flops for layer in graph.layers}

    x, images = torch.randn(2, 64), torch.randn(2, 3, 16, 16)
    found = flops(lambda s, x: s.f(s.b(x, x)[:, :4]), x, b=nn.Bilinear(64, 64, 64))
    assert found["b"] == 2 * 2 * 64 * (64 * 64 + 64)
    found = flops(
        lambda s, x: s.f(s.d(x, s.o(x))[..., :4]), images,
        o=nn.Conv2d(3, 18, 3, padding=1), d=torchvision.ops.DeformConv2d(3, 64, 3, padding=1),
    )  # fmt: skip
    assert found["d"] == 2 * 2 * 16 * 16 * 9 * 3 * 64
    bag = flops(
        lambda s, i: s.f(embedding(i, s.w)), torch.zeros(2, 5, dtype=torch.long),
        w=torch.randn(9, 4),
    )  # fmt: skip
    assert bag["w"] == 0


@torch.library.custom_op("aiq_tests::mystery", mutates_args=())
def mystery(x: torch.Tensor) -> torch.Tensor:
    return x @ x.mT


@mystery.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return x @ x.mT


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (mystery, "mystery"),
        (lambda x: torch.fft.fft(x).real, "fft_fft"),
        (lambda x: torch.linalg.inv(x @ x.mT), "linalg_inv"),
        (torch.cdist, "cdist"),
    ],
)
def test_work_that_is_not_known_is_named(function, name):
    def forward(s, x):
        y = s.f(x)
        return function(y, y) if function is torch.cdist else function(y)

    model, x = Lambda(forward, f=nn.Linear(5, 5)), torch.randn(2, 5, 5)
    (layer,) = extract(model, x).uncounted
    assert name in layer.name
    line = f"work not known, and counted as none: {layer.name}"
    assert line in str(search(model, x))
    assert notes.not_counted([layer.name]) == [line]


def test_what_is_no_decision_is_named():
    model, x = MODELS["tied embedding"]
    assert "not decided: e (embedding) 640B float32" in str(search(model, x))


def test_layers_that_share_a_weight_are_one_decision():
    model, x = MODELS["called again"]
    graph = extract(model, x)
    a, b = graph.layers[:2]
    assert (a.name, b.name) == ("a", "a#2")
    assert graph.flops == 3 * 2 * 2 * 8 * 8
    assert (a.repeated_elements, b.repeated_elements) == (0, 72)
    for method in ("exact", "greedy", "coordinate"):
        plan = search(model, x, formats="fp32,w8a8,w8", method=method, objective="intensity")
        formats = {layer.name: layer.format for layer in plan.layers}
        assert formats["a"] == formats["a#2"]
        assert sum(layer.weight_elements for layer in plan.layers) == 144
    pinned = search(model, x, formats="fp32,w8a8", pin={"a#2": "w8"})
    assert {layer.format for layer in pinned.layers[:2]} == {"w8"}


def test_layers_may_read_what_has_no_batch():
    def forward(s, x):
        return s.f(nn.functional.conv2d(x, s.g(x.mean((0, 2, 3))).view(4, 3, 3, 3)))

    model = Lambda(forward, g=nn.Linear(3, 108), f=nn.Conv2d(4, 4, 1))
    plan = aiq.search(model.eval(), "xeon_2vcpu_roofs", example_inputs=torch.randn(2, 3, 16, 16))
    assert [layer.name for layer in plan.layers] == ["g", "f"]
    image = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3)).eval()
    plan = aiq.search(image, "xeon_2vcpu_roofs", example_inputs=torch.randn(3, 16, 16))
    assert len(plan.layers) == 2
