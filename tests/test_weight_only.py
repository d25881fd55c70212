"""Formats of weights alone: programs and files round the weights and nothing else."""

import onnxruntime
import openvino
import pytest
import torch
from torch import nn

from aiq import runtimes
from aiq.formats import parse
from aiq.graph import trace
from aiq.quantize.fold import fold
from aiq.quantize.simulate import Simulator


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
