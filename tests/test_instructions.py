"""Instruction sets: integer kernels get the bits that they can add up."""

import json
import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from aiq import runtimes
from aiq.formats import parse
from aiq.graph import trace
from aiq.runtimes import instructions
from aiq.runtimes.rewrite import Target, rewrite


@pytest.fixture
def x86(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("limit", "bits", "has_bfloat16"),
    [("", 8, True), ("AVX2", 7, False), ("AVX512_CORE_VNNI", 8, False), ("avx512_core", 7, False)],
)
@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_the_environment_can_take_instructions_away(x86, variable, limit, bits, has_bfloat16):
    x86.setenv(variable, limit)
    assert instructions.may_multiply_bfloat16() == has_bfloat16
    for name in ("inductor", "onnxruntime", "openvino"):
        assert runtimes.get(name).target.weight_bits == bits


def test_a_processor_without_vnni_gets_seven_bits_and_another_kind_eight(x86):
    for name in ("_is_vnni_supported", "_is_amx_tile_supported"):
        x86.setattr(torch.cpu, name, lambda: False)
    x86.setattr("aiq.machine.isa", lambda: ["avx2"])
    assert instructions.weight_bits() == 7
    x86.setattr("aiq.machine.isa", lambda: ["avx2", "avx_vnni"])
    assert instructions.weight_bits() == 8
    x86.setattr("aiq.machine.isa", list)
    x86.setattr(platform, "machine", lambda: "arm64")
    assert instructions.weight_bits() == 8


@pytest.mark.parametrize(
    ("fmt", "bits", "largest"), [("w8a8", 8, 128), ("w8a8", 7, 64), ("w4a8", 7, 8), ("w8", 7, 128)]
)
def test_only_weights_that_meet_integer_activations_lose_a_bit(fmt, bits, largest):
    net, x = nn.Sequential(nn.Linear(64, 8)), torch.rand(4, 64)
    packed = Target(weight_bits=bits, packed={"w8"})
    module = rewrite(trace(net, x), x, {"0": parse(fmt)}, [x], packed).module
    (codes,) = (b for b in module.buffers() if b.dtype == torch.int8)
    assert largest / 2 < codes.int().abs().amax() <= largest


LARGE = """
import json
import torch
from torch import nn
from aiq import runtimes
from aiq.formats import parse

model = nn.Sequential(nn.Conv2d(32, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
model.append(nn.Linear(32, 4)).eval()
for parameter in model.parameters():
    nn.init.constant_(parameter, 1 / 32 if parameter.dim() > 1 else 0.0)
x = torch.ones(1, 32, 8, 8)
formats = {"0": parse("w8a8"), "4": parse("fp32")}
program = runtimes.get("RUNTIME").compile(model, x, formats, [x])
print(json.dumps([dict(program.realised), program(x)[0].tolist(), model(x)[0].tolist()]))
"""


@pytest.mark.parametrize("name", ["inductor", "openvino"])
def test_large_products_do_not_overflow_without_vnni(name):
    # Weights and activations that are all the largest of their codes: x86 kernels from before VNNI
    # add pairs of their products in sixteen bits. ONNX Runtime cannot be held to them.
    done = subprocess.run(
        [sys.executable, "-c", LARGE.replace("RUNTIME", name)],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        check=True,
        capture_output=True,
        text=True,
    )
    realised, result, expected = json.loads(done.stdout.splitlines()[-1])
    assert realised["0"] == "w8a8"
    assert result == pytest.approx(expected, rel=0.02)
