"""Runtimes: what was asked for is what runs, and it returns what float32 returns, nearly."""

import onnxruntime
import openvino
import pytest
import torch
from processor import able, rounded
from torch import nn
from torch.fx.passes.shape_prop import ShapeProp

from aiq import runtimes
from aiq.errors import GraphError, InputError, RuntimeUnavailableError
from aiq.formats import parse
from aiq.graph import Op, trace
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe
from aiq.runtimes import Support, kernels
from aiq.runtimes.absorbed import absorbs
from aiq.runtimes.arguments import leaves
from aiq.runtimes.rewrite import Target, rewrite


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


class Attention(nn.Module):
    """A layer of a transformer, without its second half."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(12, 16), nn.LayerNorm(16)
        self.qkv, self.out, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = self.embed(x)
        q, k, v = self.qkv(self.norm(x)).view(*x.shape[:2], 3, 2, 8).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(nn.functional.gelu(x + self.out(y)).mean(1))


def between(attention, x, names):
    """Return the dtype in which the rewritten graph computes what is no layer, by name."""
    traced = trace(attention, x)
    formats = {layer.name: parse(names) for layer in traced.graph.quantizable}
    module = rewrite(traced, x, formats, [x], Target()).module
    ShapeProp(module).propagate(x)
    wanted = ("layer_norm", "scaled_dot", "gelu", "mean", "linear")
    return {
        word: node.meta["tensor_meta"].dtype
        for node in module.graph.nodes
        for word in wanted
        if node.op == "call_function" and word in str(node.target)
    }


def test_what_stands_between_integer_layers_computes_in_bfloat16():
    torch.manual_seed(0)
    attention, x = Attention().eval(), torch.randn(2, 6, 12)
    glue = ("layer_norm", "scaled_dot", "mean")
    for names, dtype in (("w8a8", torch.float32), ("w8a8bf16", torch.bfloat16)):
        found = between(attention, x, names)
        assert {found[word] for word in glue} == {dtype}
        assert found["linear"] == torch.float32  # of the pattern behind which the integers are
    assert set(between(attention, x, "bf16").values()) == {torch.bfloat16}


@pytest.mark.parametrize("runtime", ["inductor", "openvino"])
def test_bfloat16_between_integer_layers_runs(runtime):
    torch.manual_seed(0)
    attention, x = Attention().eval(), torch.randn(2, 6, 12)
    layers = [layer.name for layer in trace(attention, x).graph.quantizable]
    engine = runtimes.get(runtime)
    programs = {
        name: engine.compile(
            attention,
            x,
            dict.fromkeys(layers, parse(name)),
            [x],
            emulate=True,  # where the processor has no bfloat16
        )
        for name in ("w8a8", "w8a8bf16")
    }
    assert programs["w8a8bf16"].mismatches == ()
    assert set(programs["w8a8bf16"].realised.values()) == {"w8a8"}
    plain, mixed = (programs[name](x) for name in programs)
    assert mixed.dtype is torch.float32
    assert (mixed - plain).norm() <= 0.03 * plain.norm()
    if engine.support(Op.LINEAR, parse("w8a8bf16")) is Support.NATIVE:
        assert (mixed - plain).norm() > 0  # OpenVINO leaves bfloat16 out where it has no kernel


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


@pytest.mark.parametrize("runtime", ["inductor", "onnxruntime", "openvino"])
@pytest.mark.parametrize("grouped", [False, True])
def test_weight_only_linear_layers_round_their_weights_alone(runtime, grouped):
    """Against the product in float64 of weights rounded group by group, here.

    The inputs stand far from zero, where rounding them would show.
    """
    torch.manual_seed(0)
    names = ("w4g32", "w8g32", "w4g64") if grouped else ("w4", "w8", "w4")
    formats = dict(zip("024", map(parse, names), strict=True))
    linears = [nn.Linear(128, 64), nn.Linear(64, 128, bias=False), nn.Linear(128, 16)]
    for linear in linears:  # groups of different magnitude
        linear.weight.data *= torch.linspace(0.2, 3, linear.in_features)
    model = nn.Sequential(linears[0], nn.GELU(), linears[1], nn.ReLU(), linears[2]).eval()
    x = 293 + torch.randn(2, 3, 128)
    compiled = runtimes.get(runtime).compile(model, x, formats)
    assert compiled.mismatches == ()
    expected = x.double()
    with torch.no_grad():
        for linear, (name, fmt), then in zip(
            linears, formats.items(), (nn.GELU(), nn.ReLU(), nn.Identity()), strict=True
        ):
            rounded = weights(model, x, name, fmt)
            bias = None if linear.bias is None else linear.bias.double()
            expected = then(nn.functional.linear(expected, rounded, bias))
    assert (compiled(x) - expected).norm() <= 1e-5 * expected.norm()


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["onnx", "xml"])
def test_weight_only_files_round_no_activations_without_aiq(suffix, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    x = 293 + torch.randn(2, 64)
    formats = {"0": parse("w8"), "2": parse("w4")}
    path = tmp_path / f"model.{suffix}"
    runtimes.for_file(path).export(model, path, x, formats)
    if suffix == "onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    else:
        program = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = program(x.numpy())[0]
    rounded_weights = {layer: weights(model, x, layer, fmt) for layer, fmt in formats.items()}
    model.double()
    hidden = nn.functional.linear(x.double(), rounded_weights["0"], model[0].bias)
    expected = nn.functional.linear(hidden.relu(), rounded_weights["2"], model[2].bias)
    error = torch.from_numpy(found) - expected
    assert error.norm() <= 1e-5 * expected.norm()
    stored = sum(file.stat().st_size for file in tmp_path.glob("model.*"))
    assert stored < 2.5 * 64 * 64 + 20_000


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


def weights(model, x, name, fmt):
    """Return weights rounded to the simulator's grid in plain float64."""
    folded = fold(trace(model, x))
    quantizer = Simulator(folded, {}).weight_quantizer(name, fmt.weight, fmt.weight_granularity)
    exact = model.get_submodule(name).weight.double()
    scale = quantizer.scale.double().view(len(exact), -1)
    scale = scale.repeat_interleave(exact.shape[1] // scale.shape[1], 1)
    limit = 2 ** (fmt.weight.bits - 1)
    return (exact / scale).round().clamp(-limit, limit - 1) * scale


def test_groups_that_do_not_fit_are_named():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 16), nn.Linear(16, 16)).eval()
    compiled = runtimes.get("onnxruntime").compile(model, torch.randn(2, 48), {"0": parse("w4g32")})
    assert compiled.mismatches == (("0", "w4g32", "fp32"),)


def test_a_channel_of_one_group_has_one_scale():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16)).eval()
    compiled = runtimes.get("onnxruntime").compile(model, torch.randn(2, 32), {"0": parse("w4g64")})
    assert compiled.realised == compiled.asked == {"0": "w4"}


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


@pytest.mark.parametrize(
    ("runtime", "op", "name", "support"),
    [
        ("eager", Op.CONV, "fp32", Support.NATIVE),
        ("eager", Op.LINEAR, "w8a8", Support.NONE),
        ("inductor", Op.DEPTHWISE, "w8a8", Support.NATIVE),
        ("inductor", Op.LINEAR, "w4a4", Support.EMULATED),
        ("inductor", Op.LINEAR, "w4g64", Support.DEQUANT),
        ("inductor", Op.LINEAR, "w8g64", Support.DEQUANT),
        ("inductor", Op.LINEAR, "w5g64", Support.EMULATED),
        ("onnxruntime", Op.LINEAR, "w8g64", Support.DEQUANT),
        ("inductor", Op.CONV, "w8", Support.EMULATED),
        ("inductor", Op.SOFTMAX, "w8a8", Support.NONE),
        ("onnxruntime", Op.CONV, "w8a8", Support.NATIVE),
        ("onnxruntime", Op.CONV, "bf16", Support.NONE),
        ("openvino", Op.POINTWISE, "w8a8", Support.NATIVE),
        ("openvino", Op.LINEAR, "w5a5", Support.EMULATED),
        ("onnxruntime", Op.LINEAR, "w8a8bf16", Support.NONE),
        ("openvino", Op.LINEAR, "w5a5bf16", Support.EMULATED),
    ],
)
def test_support(runtime, op, name, support):
    assert runtimes.get(runtime).support(op, parse(name)) is support


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


def test_inductor_without_a_compiler():
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.raises(RuntimeUnavailableError, match=r"needs a C\+\+ compiler, .* `apt install g"),
    ):
        runtimes.get("inductor")


@pytest.mark.parametrize("name", ["inductor", "onnxruntime", "openvino"])
def test_every_layer_is_timed_inside_the_network(name):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(8, 64, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 8, 1)
    ).eval()
    x = torch.rand(4, 8, 32, 32)
    seconds = runtimes.get(name).layer_seconds(model, x, {"2": parse("w8a8")}, [x], runs=5)
    assert seconds.keys() == {"0", "2"}
    assert all(value > 0 for value in seconds.values())


def test_runtimes_that_cannot_time_layers_say_so():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4)).eval()
    with pytest.raises(RuntimeUnavailableError, match="use inductor, onnxruntime or openvino"):
        runtimes.get("eager").layer_seconds(model, torch.rand(2, 4), {}, runs=1)


def test_a_runtime_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("aiq.runtimes.registry.find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailableError, match=r"openvino: `pip install 'aiq\[openvino\]'`"):
        runtimes.get("openvino")
    assert runtimes.available() == ("eager", "inductor")


def test_arguments_that_are_no_tensors(net, inputs):
    with pytest.raises(InputError, match=r"hold a float, .* takes tensors only"):
        leaves((*inputs, 1.5))


def test_threads_of_onnx_runtime_have_processors_of_their_own(monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    entries = {}

    class Options(onnxruntime.SessionOptions):
        def add_session_config_entry(self, key, value):
            entries[key] = value
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    monkeypatch.setattr("aiq.machine.processors", lambda: [0, 1])
    before = torch.get_num_threads()
    try:
        for threads, expected in ((2, "2"), (1, None)):
            entries.clear()
            torch.set_num_threads(threads)
            model, x = nn.Linear(4, 4).eval(), torch.rand(2, 4)
            program = runtimes.get("onnxruntime").compile(model, (x,), {}, [])
            assert entries.get("session.intra_op_thread_affinities") == expected
            torch.testing.assert_close(program(x), model(x).detach())
    finally:
        torch.set_num_threads(before)
