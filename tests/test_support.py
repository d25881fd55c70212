"""What runtimes support: formats, times of layers, threads; and what one says that is missing."""

import pytest
import torch
from torch import nn

from aiq import runtimes
from aiq.errors import RuntimeUnavailableError
from aiq.formats import parse
from aiq.graph import Op
from aiq.runtimes import Support


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
        for threads, current, expected in ((2, 0, "2"), (2, 1, "1"), (1, 0, None)):
            entries.clear()
            monkeypatch.setattr("aiq.machine._processor", lambda current=current: current)
            torch.set_num_threads(threads)
            model, x = nn.Linear(4, 4).eval(), torch.rand(2, 4)
            program = runtimes.get("onnxruntime").compile(model, (x,), {}, [])
            assert entries.get("session.intra_op_thread_affinities") == expected
            torch.testing.assert_close(program(x), model(x).detach())
    finally:
        torch.set_num_threads(before)
