"""Programs are right where a compiler alone would be wrong or refuse the network."""

import pytest
import torch
from compared import away, formats, mlp
from torch import nn

from aiq import runtimes
from aiq.formats import parse


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Identity, lambda: nn.Softmax(-1)])
@pytest.mark.parametrize(("rows", "sizes"), [(1, (48, 32, 16)), (4, (64, 64, 64, 4))])
def test_small_products_in_openvino(rows, sizes, activation, tmp_path):
    openvino = pytest.importorskip("openvino")
    model, x = mlp(*sizes, activation=activation), torch.randn(rows, sizes[0])
    chosen = formats(model, x, "w8a8")
    engine = runtimes.get("openvino")
    program = engine.compile(model, x, chosen, [x])
    expected = model(x).detach()
    assert away(program(x), expected) < 0.05
    assert program.mismatches == ()
    engine.export(model, tmp_path / "m.xml", x, chosen, [x])
    alone = openvino.Core().compile_model(tmp_path / "m.xml", "CPU")
    assert away(torch.from_numpy(alone([x.numpy()])[0]), expected) < 0.05


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("inductor", lambda: nn.Conv2d(4, 8, 3, padding="valid", stride=2)),
        ("inductor", lambda: nn.Conv2d(4, 8, (3, 5), padding="same", dilation=(2, 1))),
        ("inductor", lambda: nn.Conv1d(12, 8, 3, padding="valid")),
        ("inductor", lambda: nn.Conv1d(12, 8, 4, padding="same", dilation=3)),
        ("inductor", lambda: nn.Conv2d(4, 8, (4, 3), padding="same")),
        ("openvino", lambda: nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular")),
        ("openvino", lambda: nn.Conv2d(4, 8, 3, padding=(2, 1), padding_mode="circular")),
        ("openvino", lambda: nn.Conv1d(12, 8, 4, padding="same", padding_mode="circular")),
    ],
)
def test_paddings_that_a_compiler_lacks(name, model):
    if name not in runtimes.available():
        pytest.skip(f"{name} is not installed")
    net = nn.Sequential(model(), nn.ReLU()).eval()
    x = torch.randn(2, 4, 12, 12) if isinstance(net[0], nn.Conv2d) else torch.randn(2, 12, 12)
    program = runtimes.get(name).compile(net, x, formats(net, x, "w8a8"), [x])
    assert away(program(x), net(x).detach()) < 0.05


POOLINGS = [
    (32, nn.MaxPool2d(3, 2, ceil_mode=True)),
    (33, nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)),
    (33, nn.MaxPool2d(2, ceil_mode=True)),
    (34, nn.MaxPool2d((3, 5), (2, 3), padding=(1, 2), dilation=(2, 1), ceil_mode=True)),
    (12, nn.MaxPool2d(1, 5, ceil_mode=True)),
    (12, nn.MaxPool2d(2, 5, ceil_mode=True)),
    (12, nn.AvgPool2d(1, 5, ceil_mode=True)),
    (13, nn.AvgPool2d(2, 5, padding=1, ceil_mode=True)),
    (14, nn.AvgPool2d((3, 2), 2, ceil_mode=True, count_include_pad=False)),
    (14, nn.AvgPool2d(3, 2, padding=1, ceil_mode=True)),
    (14, nn.AvgPool2d((2, 3), (3, 2), padding=(1, 0), ceil_mode=True, count_include_pad=False)),
    (13, nn.AvgPool2d(2, 2, divisor_override=3)),
    (13, nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, divisor_override=5)),
]
"""Width of an image, and a pooling whose last window goes over its edge."""


class Side(nn.ModuleList):
    """Networks that have nothing in common, side by side in one program."""

    def forward(self, *inputs):
        return tuple(network(x) for network, x in zip(self, inputs, strict=True))


@pytest.mark.parametrize("name", ["inductor", "onnxruntime", "openvino"])
def test_poolings_whose_last_window_is_not_full(name):
    if name not in runtimes.available():
        pytest.skip(f"{name} is not installed")
    net = Side(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(8, 8, 1))
        for _, pool in POOLINGS
    ).eval()
    x = tuple(torch.randn(2, 3, size, size) for size, _ in POOLINGS)
    program = runtimes.get(name).compile(net, x, formats(net, x, "w8a8"), [x])
    for (_, pool), found, expected in zip(POOLINGS, program(*x), net(*x), strict=True):
        assert away(found, expected.detach()) < 0.05, pool


class Joined(nn.Module):
    """Pools what two layers wrote side by side, as GoogLeNet does."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(16, 4, 1),
        )

    def forward(self, x):
        joined = torch.cat([self.a(x).relu(), self.b(x).relu()], 1)
        return self.c(nn.functional.max_pool2d(joined, 3, 2, ceil_mode=True))


def test_a_pooling_of_joined_results_in_inductor():
    net, x = Joined().eval(), torch.randn(2, 3, 14, 14)
    program = runtimes.get("inductor").compile(net, x, formats(net, x, "w8a8"), [x])
    assert away(program(x), net(x).detach()) < 0.05


class Residual(nn.Module):
    """Adds to a layer's result what further layers, with biases of a given size, make of it."""

    def __init__(self, layer, bias):
        super().__init__()
        self.first, self.second, self.third = layer(), layer(), layer()
        for module in (self.first, self.second, self.third):
            nn.init.uniform_(module.bias, -bias, bias)

    def forward(self, x):
        x = self.first(x)
        return x + self.third(nn.functional.hardswish(self.second(x)))


@pytest.mark.parametrize(("scale", "bias"), [(1e-6, 1e-6), (1e-7, 0.0), (1e-9, 1e-9)])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv2d(8, 8, 1), (2, 8, 3, 3)),
        (lambda: nn.Conv1d(8, 8, 3, padding=1, groups=8), (2, 8, 5)),
        (lambda: nn.Linear(8, 8), (4, 8)),
        (lambda: nn.Linear(8, 8), (2, 5, 8)),
    ],
)
def test_sums_of_vanishing_activations_in_openvino(layer, shape, scale, bias):
    pytest.importorskip("openvino")
    model, x = Residual(layer, bias).eval(), scale * torch.randn(shape)
    w8a8 = formats(model, x, "w8a8")
    program = runtimes.get("openvino").compile(model, x, w8a8, [x])
    with torch.no_grad():
        assert away(program(x), model(x)) < 0.05
    assert set(program.realised.values()) == {"w8a8"}


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.c(torch.cond(x.sum() > 0, self.a, self.b, (x,)))


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(100, 16, mode="sum"), nn.Linear(16, 1)

    def forward(self, index):
        return self.head(self.bag(index))


@pytest.mark.parametrize(
    ("model", "x"), [(Branch(), torch.randn(2, 8)), (Bag(), torch.randint(0, 100, (4, 3)))]
)
def test_branches_and_loops_in_onnx_runtime(model, x):
    pytest.importorskip("onnxruntime")
    program = runtimes.get("onnxruntime").compile(model.eval(), x, {})
    assert away(program(x), model(x).detach()) < 1e-5


class PaddedMean(nn.Module):
    """Two readers of an integer convolution, one of them a mean that counts its padding."""

    def __init__(self, dims):
        super().__init__()
        conv = nn.Conv1d if dims == 1 else nn.Conv2d
        pool = nn.AvgPool1d if dims == 1 else nn.AvgPool2d
        self.first, self.pool = conv(8, 8, 3, padding=1), pool(3, 2, 1)
        self.one, self.other = conv(8, 4, 1), conv(8, 4, 1, stride=2)

    def forward(self, x):
        y = self.first(x) + 2  # a range with a zero point
        return self.one(self.pool(y)) + self.other(y)


@pytest.mark.parametrize("dims", [1, 2])
def test_means_over_padded_codes_in_openvino(dims):
    torch.manual_seed(0)
    net, x = PaddedMean(dims).eval(), torch.randn(2, 8, *[16] * dims)
    formats = {"first": parse("w8a8")}
    program = runtimes.get("openvino").compile(net, x, formats, [x])
    with torch.no_grad():
        exact = net(x)
    assert (program(x) - exact).norm() < 0.02 * (exact - exact.mean()).norm()
    assert program.realised["first"] == "w8a8"


class Summed(nn.Module):
    """A layer whose result is added to a constant or to an input, and a norm that reads the sum."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...], change, *, constant: bool) -> None:
        super().__init__()
        self.change = change
        self.layer, self.norm, self.last = layer, nn.LayerNorm(shape[-1]), nn.Linear(shape[-1], 8)
        self.constant = nn.Parameter(torch.randn(shape)) if constant else None

    def forward(self, x):
        other = x if self.constant is None else self.constant
        return self.last(self.norm(self.change(other) + self.layer(x)))


def same(x):
    return x


def copied(x):
    return x.clone()


def scaled(x):
    return torch.relu(x) * 3


@pytest.mark.parametrize(
    ("change", "constant"),
    [(same, False), (same, True), (copied, False), (copied, True), (scaled, True)],
)
@pytest.mark.parametrize("fmt", ["w8a8", "w8a8bf16"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Linear(32, 32), (8, 4, 32)), (nn.Conv2d(4, 4, 3, padding=1), (2, 4, 8, 32))],
)
def test_inductor_changes_no_input_and_no_constant(layer, shape, fmt, change, constant):
    torch.manual_seed(0)
    network, x = Summed(layer, shape, change, constant=constant).eval(), torch.randn(shape)
    kept, exact = x.clone(), network(x).detach()
    program = runtimes.get("inductor").compile(
        network, x, dict.fromkeys(("layer", "last"), parse(fmt)), [x]
    )
    for _ in range(3):
        assert (program(x) - exact).norm() < 0.03 * exact.norm()
        assert torch.equal(x, kept)


class Means(nn.Module):
    """Means and sums over positions, as floats, rounded, and with what was summed."""

    def __init__(self, *, shows):
        super().__init__()
        self.shows = shows
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, x):
        x = self.first(x)
        parts = (
            torch.sigmoid(x.mean(1)),
            torch.tanh(0.01 * x.sum(-2)),
            x.mean((1, 2))[:, None] * x.amax(1),
            (x * x.mean(1, keepdim=True))[:, 0],
            x.flatten(0, 1).unflatten(0, (48, 49)).mean(1)[:64] * x.sigmoid().sum(),
        )
        return [self.last(part) for part in parts] + [x] * self.shows


@pytest.mark.parametrize("shows", [False, True], ids=["inner", "returned"])
def test_means_over_positions_in_openvino(shows):
    pytest.importorskip("openvino")
    net, x = Means(shows=shows).eval(), torch.randn(48, 49, 16)
    program = runtimes.get("openvino").compile(net, x, formats(net, x, "w8a8"), [x])
    assert {fmt for fmt in program.realised.values()} == {"w8a8"}
    for found, expected in zip(program(x), net(x), strict=True):
        assert away(found, expected.detach()) < 0.05


ATTENTIONS = [
    ((2, 6, 16), (2, 6, 16), (2, 6, 6), {}),
    ((2, 6, 16), (1, 12, 16), (6, 12), {}),
    ((12, 16), (12, 16), None, {"is_causal": True, "scale": 0.3}),
    ((2, 3, 2, 2, 8), (2, 3, 2, 2, 8), (2, 1, 1, 2, 2), {}),
    ((2, 2, 6, 8), (2, 1, 6, 8), None, {}),
    ((2, 2, 6, 8), (2, 2, 6, 8), None, {"enable_gqa": True}),
    ((4, 6, 8), (2, 12, 8), None, {"enable_gqa": True}),
]
"""Shapes of queries, of keys and values, and of a mask, and options of an attention."""


class Attentions(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.last = nn.ModuleList(nn.Linear(16, 16) for _ in range(3)), nn.Linear(8, 5)

    def forward(self, x, *masks):
        found, q = [], self.layers[0](x)
        masks = iter(masks)
        for queries, keys, mask, options in ATTENTIONS:
            size = torch.Size(keys).numel()
            k, v = (layer(x).flatten()[:size].view(keys) for layer in self.layers[1:])
            given = None if mask is None else next(masks)
            y = nn.functional.scaled_dot_product_attention(
                q.reshape(queries), k, v, attn_mask=given, **options
            )
            found.append(self.last(y.reshape(-1, 8)))
        return found


@pytest.mark.parametrize("name", ["inductor", "onnxruntime", "openvino"])
def test_attention_of_any_number_of_dimensions(name):
    if name not in runtimes.available():
        pytest.skip(f"{name} is not installed")
    net = Attentions().eval()
    x = [torch.randn(2, 6, 16), *(torch.randn(mask) for *_, mask, _ in ATTENTIONS if mask)]
    program = runtimes.get(name).compile(net, x, {}, batch_dim=None)
    for found, expected in zip(program(*x), net(*x), strict=True):
        assert away(found, expected.detach()) < 1e-5


class Masked(nn.Module):
    """Attentions with masks of several kinds, one of them a constant."""

    def __init__(self, mask):
        super().__init__()
        self.layers, self.last = nn.ModuleList(nn.Linear(8, 8) for _ in range(3)), nn.Linear(8, 5)
        self.register_buffer("mask", mask)

    def forward(self, x, *masks):
        q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in self.layers)
        found = [
            nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            for mask in (*masks, self.mask)
        ]
        return [self.last(y.transpose(1, 2).contiguous().view(2, 6, 8)) for y in found]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_queries_to_which_a_mask_leaves_no_key(name):
    if name not in runtimes.available():
        pytest.skip(f"{name} is not installed")
    causal = torch.ones(2, 1, 6, 6, dtype=torch.bool).tril()
    padded = causal.clone()
    padded[0, :, :, :3] = False  # the first three queries read nothing

    def call(mask):
        added = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
        each_head = added.expand(2, 2, 6, 6).clone()  # its memory order is another one
        return torch.ones(2, 6, 8), mask, added, each_head, mask[0, 0], added[0]

    net = Masked(padded[0]).eval()
    for seen, later in ((causal, padded), (padded, causal)):
        program = runtimes.get(name).compile(net, call(seen), {}, batch_dim=None)
        for found, expected in zip(program(*call(later)), net(*call(later)), strict=True):
            assert away(found, expected.detach()) < 1e-5
