"""Whole convolutions against convolutions split by output channels, by the stopwatch.

Every convolution of ResNet-20 becomes two of half the channels each, whose outputs are joined. The
runtime is OpenVINO, which has kernels for convolutions in float32 and int8 but none for fewer bits.
A split pays if the network with half of all channels in int8 is faster than float32, and if the
split itself costs less than that gains. CPU time of one thread, candidates in turns.
"""

import copy
import itertools
import time
from dataclasses import asdict
from typing import Any

import torch
from common import console
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aiq import data, models, runtimes
from aiq import measure as stopwatch
from aiq.formats import Format, parse

BATCHES = (1, 16)
SECONDS = 3.0
INT8 = parse("w8a8")


class Split(nn.Module):
    """A convolution as two, of the first and of the second half of its output channels."""

    def __init__(self, whole: nn.Conv2d) -> None:
        super().__init__()
        half = whole.out_channels // 2
        self.first, self.second = copy.deepcopy(whole), copy.deepcopy(whole)
        for part, chosen in ((self.first, slice(0, half)), (self.second, slice(half, None))):
            part.weight = nn.Parameter(whole.weight[chosen].detach().clone())
            assert whole.bias is not None, "the batch norm is folded"
            part.bias = nn.Parameter(whole.bias[chosen].detach().clone())
            part.out_channels = len(part.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map the input of the whole convolution to its output."""
        return torch.cat([self.first(x), self.second(x)], 1)


def folded(model: nn.Module) -> nn.Module:
    """Return ResNet-20 with its batch norms folded."""
    model = copy.deepcopy(model)
    for owner in model.modules():
        names = list(owner._modules)
        for one, other in itertools.pairwise(names):
            conv, norm = owner._modules[one], owner._modules[other]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                owner._modules[one] = fuse_conv_bn_eval(conv, norm)
                owner._modules[other] = nn.Identity()
    return model


def split(model: nn.Module) -> nn.Module:
    """Return a folded network with all convolutions split."""
    model = copy.deepcopy(model)
    for owner in list(model.modules()):
        for name, module in list(owner._modules.items()):
            if isinstance(module, nn.Conv2d):
                owner._modules[name] = Split(module)
    return model


def measure() -> dict[str, Any]:
    """Return seconds of each candidate, and its speed-up over float32, at each batch."""
    whole = folded(models.load("resnet20"))
    parts = split(whole)
    (images, _), *_ = data.batches(data.sample("train"), 512)
    torch.testing.assert_close(whole(images[:8]), parts(images[:8]), rtol=1e-4, atol=1e-4)
    convs = [name for name, module in whole.named_modules() if isinstance(module, nn.Conv2d)]
    halves = [f"{name}.{half}" for name in convs for half in ("first", "second")]
    candidates: dict[str, tuple[nn.Module, dict[str, Format]]] = {
        "whole, fp32": (whole, {}),
        "whole, w8a8": (whole, dict.fromkeys(convs, INT8)),
        "split, fp32": (parts, {}),
        "split, half w8a8": (parts, {h: INT8 for h in halves if h.endswith("second")}),
        "split, w8a8": (parts, dict.fromkeys(halves, INT8)),
    }
    found = {}
    for batch in BATCHES:
        calls = {}
        for name, (network, formats) in candidates.items():
            program = runtimes.get("openvino").compile(network, images[:batch], formats, [images])
            calls[name] = lambda program=program, x=images[:batch]: program(x)
        timing = stopwatch.compare_timing(
            calls,
            batch=batch,
            baseline="whole, fp32",
            threads=1,
            min_seconds=SECONDS * len(calls),
            clock=time.process_time,
        )
        found[str(batch)] = {
            "noise": timing.noise,
            "candidates": {
                name: {
                    "seconds": asdict(timing[name].seconds),
                    "speedup": asdict(timing.speedup(name, "whole, fp32")),
                }
                for name in calls
            },
        }
        for name in calls:
            console.print(f"batch {batch}, {name}: {timing.speedup(name, 'whole, fp32')}")
    return found
