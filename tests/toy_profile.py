"""A calibrated profile with round numbers, and networks to price with it."""

import torch
from torch import nn

from aiq import graph, hardware
from aiq.cost import calibrated_table
from aiq.formats import parse, parse_all

PROFILE = """
schema: aiq/hw-profile/v1
name: toy
description: A machine with round numbers.
provenance: {method: spec, date: "2026-01-01", sources: [none]}
threads: 1
compute:
  fp32: {peak_gflops: 1}
  bf16: {peak_gflops: 2}
  int8: {peak_gflops: 4}
memory:
  - {level: L2, size_kib: 64, read_gbps: 10}
  - {level: DRAM, size_kib: 1000000, read_gbps: 1}
runtimes:
  inductor:
    version: "1"
    run_overhead_us: 7
    formats:
      fp32: {support: native, runs_as: fp32}
      bf16: {support: native, runs_as: bf16}
      w8a8: {support: native, runs_as: w8a8}
      wNaM: {support: emulated, runs_as: w8a8}
      wN: {support: dequant, runs_as: fp32}
    kernels:
      conv:
        fp32: {start_us: 2, compute: 0.5, memory: 0.5, output_ns: 1}
        bf16: {start_us: 3, compute: 1.0, memory: 1.0, output_ns: 0}
        int8: {start_us: 4, compute: 0.25, memory: 1.0, output_ns: 0}
      layout: {fp32: {start_us: 1, memory: 1, output_ns: 0}}
      add: {fp32: {start_us: 5, memory: 1, output_ns: 0}}
      pool: {fp32: {start_us: 11, memory: 1, output_ns: 0}}
      residual:
        fp32: {start_us: 0.5, memory: 1, output_ns: 0}
        bf16: {start_us: 0.5, memory: 1, output_ns: 0}
        int8: {start_us: 0.5, memory: 1, output_ns: 0}
      gelu:
        fp32: {start_us: 6, memory: 1, output_ns: 0}
        int8: {start_us: 8, memory: 1, output_ns: 0}
    boundaries:
      fp32_to_int8: {start_us: 10, memory: 1, output_ns: 0}
      int8_to_fp32: {start_us: 20, memory: 1, output_ns: 0}
      fp32_to_bf16: {start_us: 30, memory: 1, output_ns: 0}
      bf16_to_fp32: {start_us: 40, memory: 1, output_ns: 0}
      bf16_to_int8: {start_us: 50, memory: 1, output_ns: 0}
      int8_to_bf16: {start_us: 60, memory: 1, output_ns: 0}
    fuses: [pool, layout]
    fit: {samples: 10, noise: 0.01, mape: 0.05, low: 0.9, high: 1.2}
"""
TOY = hardware.parse_profile(PROFILE, "toy.yaml")
FORMATS = parse_all("fp32,bf16,w8a8")


def conv(inputs, outputs):
    """Return a convolution that keeps the size of images."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


class Residual(nn.Module):
    """Four convolutions, a residual addition and a pooling."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = conv(3, 8), conv(8, 8), conv(8, 8)
        self.pool, self.head = nn.MaxPool2d(2), conv(8, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.second(torch.relu(self.first(x))))
        return self.head(self.pool(x))


IMAGE = torch.zeros(1, 3, 16, 16)


def table(module, formats=FORMATS, profile=TOY):
    """Return the calibrated cost table of a module on an image."""
    return calibrated_table(graph.extract(module, IMAGE), formats, profile, "inductor")


def plan(found, *names):
    """Return layer -> format from the names of formats in the order of layers."""
    return dict(zip(found.layers, map(parse, names), strict=True))
