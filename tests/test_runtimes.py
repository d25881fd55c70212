"""Runtimes: what was asked for is what runs, and it returns what float32 returns, nearly."""


import pytest
import torch
from torch import nn

from aiq.errors import InputError, RuntimeUnavailableError
from aiq.formats import parse
from aiq.graph import Op, trace
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import observe
from aiq.runtimes import base, census
from aiq.runtimes.base import Support

FORMATS = {name: parse(name) for name in ("fp32", "bf16", "w8a8", "w8", "w4a4")}


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
    return base.get(runtime).compile(net, inputs, formats, batches, **options)


def relative_error(compiled, net, inputs):
    with torch.no_grad():
        expected = net(*inputs)
    return ((compiled(*inputs) - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("runtime", "names", "tolerance"),
    [
        ("eager", "fp32", 0),
        ("eager", "bf16", 0.02),
        ("inductor", "fp32", 1e-6),
        ("inductor", "bf16", 0.02),
        ("inductor", "w8a8", 0.03),
        ("inductor", MIXED, 0.03),
    ],
)
def test_what_was_asked_for_runs(runtime, names, tolerance, net, inputs, batches):
    compiled = compile_as(runtime, net, inputs, batches, names)
    assert set(compiled.asked) == set(LAYERS)
    assert dict(compiled.realised) == dict(compiled.asked)
    assert compiled.mismatches == ()
    error = relative_error(compiled, net, inputs)
    assert error <= tolerance
    if names != "fp32":
        assert error > 1e-6  # it is really rounded
    assert compiled(*inputs).dtype is torch.float32


def test_emulation_has_to_be_allowed_and_is_reported(net, inputs, batches):
    with pytest.raises(RuntimeUnavailableError, match=r"no w4a4 kernel .* allow emulation"):
        compile_as("inductor", net, inputs, batches, "w4a4")
    names = {"stem": "w4a4", "fc": "w8a8"}
    compiled = compile_as("inductor", net, inputs, batches, names, emulate=True)
    assert compiled.mismatches == (("stem", "w4a4", "w8a8"),)
    assert compiled.realised["fc"] == "w8a8"
    assert compiled.realised["block.conv1"] == "fp32"  # layers not named


@pytest.mark.parametrize(
    "names",
    [
        dict.fromkeys(LAYERS, "w8a8"),
        dict.fromkeys(LAYERS, "w4a4"),
        dict(zip(LAYERS, ("w8a8", "w4a6", "w4", "w3a8", "w8"), strict=True)),
        dict(zip(LAYERS, ("fp32", "w8a8", "fp32", "w8a8", "fp32"), strict=True)),
        dict(zip(LAYERS, ("w8a8", "bf16", "w8a8", "bf16", "w8a8"), strict=True)),
    ],
    ids=lambda names: "-".join(names.values()),
)
def test_the_program_computes_what_was_simulated(names, net, inputs, batches):
    formats = {layer: parse(name) for layer, name in names.items()}
    folded = fold(trace(net, inputs))
    with torch.no_grad():
        expected = Simulator(folded, observe(folded, batches)).run(inputs, formats)
        exact = net(*inputs)
    compiled = compile_as("inductor", net, inputs, batches, names, emulate=True)
    quantisation = (expected - exact).norm()
    # Integers round alike; how often a sum in bfloat16 is rounded is the kernel's choice.
    tolerance = 0.5 if "bf16" in names.values() else 0.1
    assert (compiled(*inputs) - expected).norm() <= tolerance * quantisation


def test_the_model_is_left_as_it_was(net, inputs, batches):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for runtime, names in (("eager", "bf16"), ("inductor", MIXED)):
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
    compiled = base.get("inductor").compile(Twice().eval(), inputs, formats, [inputs])
    assert dict(compiled.realised) == {"conv": "w8a8", "conv#2": "fp32"}


def test_kernels_are_matched_to_layers_by_elimination():
    one, two, three = (
        census.Kernel(f"kernel {labels}", "fp32", labels)
        for labels in (("a",), ("c", "b", "a"), ("c",))
    )
    # The addition went to b's kernel, and left it c's label too.
    assert census.assign([one, two, three]) == {"a": one, "b": two, "c": three}
    assert census.assign([one, one]) == {"a": one}


@pytest.mark.parametrize(
    ("runtime", "op", "name", "support"),
    [
        ("eager", Op.CONV, "fp32", Support.NATIVE),
        ("eager", Op.LINEAR, "w8a8", Support.NONE),
        ("inductor", Op.DEPTHWISE, "w8a8", Support.NATIVE),
        ("inductor", Op.LINEAR, "w4a4", Support.EMULATED),
        ("inductor", Op.CONV, "w8", Support.EMULATED),
        ("inductor", Op.SOFTMAX, "w8a8", Support.NONE),
    ],
)
def test_support(runtime, op, name, support):
    assert base.get(runtime).support(op, parse(name)) is support


def test_bad_input(net, inputs, batches):
    with pytest.raises(RuntimeUnavailableError, match="choose one of eager, inductor"):
        base.get("tensorrt")
    with pytest.raises(RuntimeUnavailableError, match="eager cannot run conv layer 'stem' in w8a8"):
        compile_as("eager", net, inputs, batches, {"stem": "w8a8"})
    with pytest.raises(InputError, match=r"no quantizable layer 'block.conv3'; did you mean"):
        compile_as("eager", net, inputs, batches, {"block.conv3": "bf16"})
    with pytest.raises(InputError, match="need calibration data"):
        compile_as("inductor", net, inputs, [], "w8a8")
    compiled = compile_as("eager", net, inputs, batches, "fp32")
    with pytest.raises(InputError, match="compiled for inputs of shape 4x3x8x8 and was given 2x3"):
        compiled(torch.randn(2, 3, 8, 8))


def test_inductor_without_a_compiler(monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    with pytest.raises(RuntimeUnavailableError, match=r"needs a C\+\+ compiler, .* `apt install g"):
        base.get("inductor")
