"""Files: a plan that is exported runs the same in a fresh process, with aiq and without."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from processor import able

import aiq
from aiq import data, models, runtimes
from aiq.errors import InputError, RuntimeUnavailableError
from aiq.formats import WeightRounding, parse

BATCH = 100
ALONE = {
    ".onnx": """
import onnxruntime
options = {"disabled_optimizers": ["WeightBiasQuantization"]}
session = onnxruntime.InferenceSession(path, **options)
name = session.get_inputs()[0].name
run = lambda x: session.run(None, {name: x})[0]
""",
    ".xml": """
import openvino
program = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
run = lambda x: program([x])[0].copy()
""",
    ".pt2": """
import torch
torch.set_num_threads(1)
program = torch._inductor.aoti_load_package(path)
run = lambda x: program(torch.from_numpy(x))[0].numpy()
""",
}
RELOAD = """
import json, sys
import numpy as np
path, inputs, outputs = sys.argv[1:]
images = np.load(inputs)
{alone}
alone = np.concatenate([run(x) for x in images])
assert "aiq" not in sys.modules
import aiq, torch
torch.set_num_threads(1)
program = aiq.load(path)
again = torch.cat([program(torch.from_numpy(x)) for x in images]).numpy()
np.savez(outputs, alone=alone, again=again)
print(json.dumps([program.realised, program.mismatches]))
"""


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Chosen:
    """What `export` reads of a plan."""

    batch_dim = 0
    rounding = WeightRounding.NEAREST
    workload = None
    learned = None

    def __init__(self, formats):
        self.formats = {layer: parse(name) for layer, name in formats.items()}


@pytest.mark.parametrize(
    ("suffix", "names", "different"),
    [
        (".onnx", ("w8a8", "fp32", "w8a8"), []),
        # OpenVINO keeps a layer in float32 if the value it quantises is also read as float32
        (".xml", ("w8a8", "bf16", "fp32", "w8a8"), ["layer3.0.shortcut.0"]),
        (".pt2", ("w8a8", "bf16", "fp32", "w8a8"), []),
    ],
)
def test_an_exported_plan_runs_the_same_in_a_fresh_process(suffix, names, different, tmp_path):
    model, path = models.load("resnet20"), tmp_path / f"model{suffix}"
    images, labels = next(iter(data.batches(data.sample("test"), 3 * BATCH)))
    batches = images.split(BATCH)
    calibration = [x for x, _ in data.batches(data.sample("train"), BATCH)][:3]
    layers = [layer.name for layer in aiq.extract(model, batches[0]).quantizable]
    engine = runtimes.for_file(path)
    plan = Chosen({n: able(engine, names[i % len(names)]) for i, n in enumerate(layers)})
    aiq.export(plan, model, path, example_inputs=batches[0], calibration=calibration)
    compiled = engine.compile(model, batches[0], plan.formats, calibration)
    expected = torch.cat([compiled(x) for x in batches])

    np.save(tmp_path / "inputs.npy", torch.stack(batches).numpy())
    files = [str(tmp_path / name) for name in ("inputs.npy", "outputs.npz")]
    script = RELOAD.format(alone=ALONE[suffix])
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), *files],
        check=True,
        capture_output=True,
        text=True,
    )
    realised, mismatches = json.loads(done.stdout.splitlines()[-1])
    assert realised == dict(compiled.realised)
    assert mismatches == [list(mismatch) for mismatch in compiled.mismatches]
    assert [mismatch.layer for mismatch in compiled.mismatches] == different
    step = (expected.amax() - expected.amin()) / 255
    right = (expected.argmax(1) == labels).sum()
    for result in map(torch.from_numpy, np.load(files[1]).values()):
        assert (result - expected).abs().max() <= step
        assert (result.argmax(1) == labels).sum() == right


def test_a_transformer_returns_its_structure(tmp_path):
    class Pair(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = torch.nn.Linear(64, 96), torch.nn.Linear(96, 64)

        def forward(self, x, shift):
            y = self.down(torch.relu(self.up(x)))
            return {"state": y + shift, "mean": y.mean(0)}

    torch.manual_seed(0)
    model, path = Pair().eval(), tmp_path / "pair.onnx"
    inputs = {"x": torch.randn(4, 64), "shift": torch.randn(64)}
    aiq.export(Chosen({"up": "w4g32"}), model, path, example_inputs=inputs)
    program = aiq.load(path)
    assert program.realised == {"up": "w4g32", "down": "fp32"}
    result = program(**inputs)
    with torch.no_grad():
        for key, value in model(**inputs).items():
            assert (result[key] - value).norm() <= 0.2 * value.norm()


def test_a_suffix_names_the_runtime(monkeypatch, tmp_path):
    with pytest.raises(InputError, match=r"'model.pth'; end the name in .pt2, .onnx or .xml"):
        runtimes.for_file(tmp_path / "model.pth")
    monkeypatch.setattr("aiq.runtimes.registry.find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailableError, match=r"pip install 'aiq\[onnx\]'"):
        aiq.load(tmp_path / "model.onnx")


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_files_that_aiq_did_not_write(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    with pytest.raises(InputError, match="There is no file"):
        aiq.load(path)
    path.write_bytes(b"\x80nonsense")
    with pytest.raises(InputError, match="aiq"):
        aiq.load(path)


def test_onnx_files_of_others(tmp_path):
    path = tmp_path / "model.onnx"
    torch.onnx.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),), path, dynamo=True, verbose=False)
    with pytest.raises(InputError, match="was not written by aiq"):
        aiq.load(path)
