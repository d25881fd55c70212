"""Runtimes: what was asked for is what runs, and it returns what float32 returns, nearly."""

import pytest
import torch
from processor import able, rounded
from torch import nn

from aiq import runtimes
from aiq.errors import GraphError, InputError, RuntimeUnavailableError
from aiq.formats import parse
from aiq.graph import trace
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe
from aiq.runtimes import kernels
from aiq.runtimes.absorbed import absorbs
from aiq.runtimes.arguments import leaves


class Block(nn.Module):
    """A residual block with a convolution on its shortcut, and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.shortcut = nn.Conv2d(8, 16, 1)
        self.relu = nn.ReLU6()

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.conv2(y) + self.shortcut(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = Block()
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        return self.fc(self.block(torch.relu(self.stem(x))).mean((2, 3)))


LAYERS = ("stem", "block.conv1", "block.conv2", "block.shortcut", "fc")
MIXED = dict(zip(LAYERS, ("fp32", "w8a8", "bf16", "w8a8", "bf16"), strict=True))
LOW = dict(zip(LAYERS, ("w8a8", "w4a6", "w4", "w3a8", "w5a7"), strict=True))
HALF = dict(zip(LAYERS, ("w8a8", "fp32", "w8a8", "fp32", "w8a8"), strict=True))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = Net()
    for _ in range(3):
        model(torch.randn(16, 3, 8, 8))  # batch norm statistics other than 0 and 1
    return model.eval()


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(1)
    return (torch.randn(4, 3, 8, 8),)


@pytest.fixture(scope="module")
def batches():
    torch.manual_seed(2)
    return [(torch.randn(4, 3, 8, 8),) for _ in range(4)]


def compile_as(runtime, net, inputs, batches, names, **options):
    if isinstance(names, str):
        names = dict.fromkeys(LAYERS, names)
    formats = {layer: parse(name) for layer, name in names.items()}
    return runtimes.get(runtime).compile(net, inputs, formats, batches, **options)


def mixed(runtime):
    """Return `MIXED` as far as this processor has kernels for it."""
    return {layer: able(runtimes.get(runtime), name) for layer, name in MIXED.items()}


def relative_error(compiled, net, inputs):
    with torch.no_grad():
        expected = net(*inputs)
    return ((compiled(*inputs) - expected).norm() / expected.norm()).item()


def simulator_of(runtime, model, inputs, batches):
    """Return the simulation of what `runtime` runs."""
    folded, rule = fold(trace(model, inputs)), absorbs(runtime)
    return Simulator(folded, observe(folded, batches, rule), absorbs=rule)


def distance(compiled, net, inputs, batches, names):
    """Return how far the program is from the simulation, in units of the quantisation error."""
    names = dict.fromkeys(LAYERS, names) if isinstance(names, str) else names
    simulator = simulator_of(compiled.runtime, net, inputs, batches)
    with torch.no_grad():
        simulated = simulator.run(inputs, {n: rounded(name) for n, name in names.items()})
        return ((compiled(*inputs) - simulated).norm() / (simulated - net(*inputs)).norm()).item()


@pytest.mark.parametrize(
    ("runtime", "names"), [("eager", "fp32"), ("inductor", "fp32"), ("openvino", "fp32")]
)
def test_float32_is_what_the_model_computes(runtime, names, net, inputs, batches):
    compiled = compile_as(runtime, net, inputs, batches, names)
    assert set(compiled.realised.values()) == {"fp32"}
    assert relative_error(compiled, net, inputs) <= 1e-6


@pytest.mark.parametrize(
    ("runtime", "names", "tolerance"),
    [
        ("eager", "bf16", 4),  # how often a sum in bfloat16 is rounded is the kernel's choice
        ("inductor", "w8a8", 0.1),
        ("inductor", HALF, 0.1),
        ("inductor", MIXED, 4),
        ("onnxruntime", "w8a8", 0.1),
        ("onnxruntime", HALF, 0.1),
        ("openvino", "w8a8", 0.1),
        ("openvino", MIXED, 4),
    ],
)
def test_what_was_asked_for_and_simulated_runs(runtime, names, tolerance, net, inputs, batches):
    if names is MIXED:
        names = mixed(runtime)
    compiled = compile_as(runtime, net, inputs, batches, names)
    assert set(compiled.asked) == set(LAYERS)
    assert dict(compiled.realised) == dict(compiled.asked)
    assert compiled.mismatches == ()
    assert distance(compiled, net, inputs, batches, names) <= tolerance
    assert compiled(*inputs).dtype is torch.float32


@pytest.mark.parametrize("runtime", ["eager", "inductor", "onnxruntime", "openvino"])
def test_plans_of_one_compiler_do_not_touch_one_another(runtime, net, inputs, batches):
    other = "bf16" if runtime == "eager" else "w8a8"
    compiled = runtimes.get(runtime).compiler(net, inputs, batches)
    first, _, again = (
        compiled({layer: parse(name) for layer in LAYERS}) for name in ("fp32", other, "fp32")
    )
    mixture = {layer: parse(other if layer != "stem" else "fp32") for layer in LAYERS}
    alone = runtimes.get(runtime).compile(net, inputs, mixture, batches)
    assert torch.equal(first(*inputs), again(*inputs))
    assert torch.equal(compiled(mixture)(*inputs), alone(*inputs))


def test_a_compiler_exports_with_its_first_plan():
    # An interrupt while it does so then finds a search that knows what to return.
    compiled = runtimes.get("eager").compiler(nn.ReLU(), torch.zeros(1))
    with pytest.raises(GraphError, match="nothing to quantise"):
        compiled({})


class Clamped(nn.Module):
    """Values that reach the bounds of their clamps; then the mean of each image."""

    def __init__(self, *, keeps):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
        self.fc, self.keeps = nn.Linear(8, 4), keeps
        with torch.no_grad():
            self.one.weight.mul_(40)
            self.two.weight.mul_(10)

    def forward(self, x):
        y = torch.nn.functional.relu6(self.one(x))
        y = torch.clamp(self.two(y), -1.5, 6.0)
        return self.fc(y.mean((2, 3), keepdim=self.keeps).flatten(1))


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_clamp_keeps_no_layer_from_its_integer_kernel(name, keeps):
    torch.manual_seed(0)
    model, x = Clamped(keeps=keeps).eval(), torch.rand(4, 3, 12, 12)
    formats = dict.fromkeys(("one", "two", "fc"), parse("w8a8"))
    program = runtimes.get(name).compile(model, (x,), formats, [(x,)])
    assert program.mismatches == ()
    folded = fold(trace(model, (x,)))
    realised = dict.fromkeys(formats, rounded("w8a8"))
    expected = Simulator(folded, observe(folded, [(x,)])).run((x,), realised)
    step = float(expected.abs().max()) / 100
    torch.testing.assert_close(program(x), expected, atol=step, rtol=0)


def test_emulation_has_to_be_allowed(net, inputs, batches):
    with pytest.raises(RuntimeUnavailableError, match=r"no w4a4 kernel .* allow emulation"):
        compile_as("inductor", net, inputs, batches, "w4a4")


@pytest.mark.parametrize(
    ("runtime", "tolerance"), [("inductor", 0.1), ("openvino", 0.1), ("onnxruntime", 1)]
)
def test_emulated_formats_give_the_results_that_were_simulated(
    runtime, tolerance, net, inputs, batches
):
    compiled = compile_as(runtime, net, inputs, batches, LOW, emulate=True)
    assert {m.layer for m in compiled.mismatches} == set(LAYERS) - {"stem"}
    assert distance(compiled, net, inputs, batches, LOW) <= tolerance


@torch.no_grad()
@pytest.mark.parametrize("runtime", ["inductor", "onnxruntime", "openvino"])
def test_biases_of_channels_with_hardly_any_weights_are_kept(runtime):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        model[0].weight[::2] = 0
        model[0].weight[1] *= 1e-9
        model[0].bias[:4] = 3
    x = torch.rand(64, 32) * 0.2
    formats = dict.fromkeys("02", parse("w8a8"))
    compiled = runtimes.get(runtime).compile(model, x, formats, [x])
    assert compiled.mismatches == ()
    assert (compiled(x) - model(x)).norm() <= 0.005 * model(x).norm()


@pytest.mark.parametrize("runtime", ["inductor", "onnxruntime", "openvino"])
def test_grouped_transposed_convolutions(runtime):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 12, 3, 2, groups=2),
        nn.Conv2d(12, 4, 1),
    ).eval()
    x = torch.randn(4, 3, 8, 8)
    names = dict.fromkeys("023", "w8a8")
    formats = {layer: parse(name) for layer, name in names.items()}
    compiled = runtimes.get(runtime).compile(model, (x,), formats, [(x,)], emulate=True)
    assert distance(compiled, model, (x,), [(x,)], names) <= 1


class Encoder(nn.Module):
    """A transformer block over token indices, called by keyword; returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, tokens, shift):
        x = self.embedding(tokens) + shift
        x = x + self.attention(x, x, x, need_weights=False)[0]
        y = self.down(torch.nn.functional.gelu(self.up(self.norm(x))))
        return {"state": x + y, "pooled": (x + y).mean(1)}


@pytest.mark.parametrize("runtime", ["eager", "inductor", "onnxruntime", "openvino"])
def test_a_transformer_called_by_keyword(runtime):
    torch.manual_seed(0)
    model = Encoder().eval()
    inputs = {"tokens": torch.randint(20, (2, 5)), "shift": torch.randn(16)}
    engine = runtimes.get(runtime)
    names = [layer.name for layer in trace(model, inputs).graph.quantizable]
    fmt = parse("bf16" if runtime == "eager" else "w8a8")
    formats = dict.fromkeys(["up", "down"], fmt)
    compiled = engine.compile(model, inputs, formats, [inputs])
    assert dict(compiled.realised) == {
        n: formats[n].name if n in formats else "fp32" for n in names
    }
    with torch.no_grad():
        expected = model(**inputs)
    results = compiled(shift=inputs["shift"], tokens=inputs["tokens"])
    assert results.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(results[key], value, rtol=0.05, atol=0.05)
    with pytest.raises(InputError, match=r"for the keywords \(tokens, shift\) and was given \(\)"):
        compiled(inputs["tokens"], inputs["shift"])


def test_the_model_is_left_as_it_was(net, inputs, batches):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for runtime, names in (("eager", "bf16"), *((r, mixed(r)) for r in ("inductor", "openvino"))):
        compile_as(runtime, net, inputs, batches, names)
    after = net.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(value.dtype is before[name].dtype for name, value in after.items())


def test_a_layer_called_twice_has_two_names(inputs):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(torch.relu(self.conv(x)))

    torch.manual_seed(0)
    formats = {"conv": parse("w8a8"), "conv#2": parse("fp32")}
    compiled = runtimes.get("inductor").compile(Twice().eval(), inputs, formats, [inputs])
    assert dict(compiled.realised) == {"conv": "w8a8", "conv#2": "fp32"}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_convolution_that_the_exporter_rewrites_keeps_the_names_of_the_others(runtime, inputs):
    torch.manual_seed(0)
    convs = (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding="same"), nn.Conv2d(8, 8, 3))
    net = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    chosen = {"0": "fp32", "1": "w8a8", "2": "fp32", "5": "fp32"}
    formats = {layer: parse(name) for layer, name in chosen.items()}
    compiled = runtimes.get(runtime).compile(net, inputs, formats, [inputs])
    assert dict(compiled.realised) == chosen


def test_kernels_are_matched_to_layers_by_elimination():
    one, two, three = (
        kernels.RealisedKernel(f"kernel {labels}", "fp32", labels)
        for labels in (("a",), ("c", "b", "a"), ("c",))
    )
    # The addition went to b's kernel, and left it c's label too.
    assert kernels.assign([one, two, three]) == {"a": one, "b": two, "c": three}
    assert kernels.assign([one, one]) == {"a": one}


def test_bad_input(net, inputs, batches):
    with pytest.raises(
        RuntimeUnavailableError, match="use one of eager, inductor, onnxruntime, openvino"
    ):
        runtimes.get("tensorrt")
    with pytest.raises(RuntimeUnavailableError, match="eager cannot run conv layer 'stem' in w8a8"):
        compile_as("eager", net, inputs, batches, {"stem": "w8a8"})
    with pytest.raises(InputError, match=r"no quantizable layer 'block.conv3'; did you mean"):
        compile_as("eager", net, inputs, batches, {"block.conv3": "bf16"})
    with pytest.raises(InputError, match="need calibration data"):
        compile_as("inductor", net, inputs, [], "w8a8")
    compiled = compile_as("eager", net, inputs, batches, "fp32")
    with pytest.raises(InputError, match="compiled for inputs of shape 4x3x8x8 and was given 2x3"):
        compiled(torch.randn(2, 3, 8, 8))


def test_a_runtime_without_files_says_so(net, inputs, tmp_path):
    eager, path = runtimes.get("eager"), tmp_path / "model"
    with pytest.raises(RuntimeUnavailableError, match="eager has no files; use onnxruntime"):
        eager.export(net, path, inputs, {})
    assert not path.exists()
    path.touch()
    with pytest.raises(RuntimeUnavailableError, match="eager has no files"):
        eager.load(path)


def test_arguments_that_are_no_tensors(net, inputs):
    with pytest.raises(InputError, match=r"hold a float, .* takes tensors only"):
        leaves((*inputs, 1.5))
