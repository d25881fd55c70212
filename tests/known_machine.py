"""A machine whose kernels are known, and the times that random programs take on it."""

import numpy as np

from aiq import _core
from aiq.calibrate.samples import Sample
from aiq.cost import rows, shape
from aiq.cost.pieces import Piece
from aiq.formats import KERNEL_DTYPES
from aiq.hardware import Hardware, MemoryLevel
from aiq.hardware.runtime_profile import Correction, KernelProfile

TOY = Hardware(
    name="toy",
    description="known",
    threads=1,
    peak_gflops={"fp32": 100.0, "bf16": 200.0, "int8": 400.0},
    memory=(MemoryLevel("L2", 1024, 100), MemoryLevel("DRAM", 1e7, 20)),
    provenance={"method": "spec", "date": "2026-01-01", "sources": ["none"]},
)
KERNELS = {
    "conv.fp32": KernelProfile(12, 0.7, 0.1, compute=0.8),
    "conv.int8": KernelProfile(14, 0.9, 0.2, compute=0.6),
    "linear.fp32": KernelProfile(5, 0.5, 0.05, compute=0.9),
    "add.fp32": KernelProfile(2, 0.8, 0.02),
    "fp32_to_int8": KernelProfile(3, 0.9, 0.03),
}
RUN = 6e-6
"""Seconds that each program takes beside its kernels."""

RANGE = dict.fromkeys(shape.FEATURES, (0.0, 20.0))
SHAPES = {"conv.fp32": Correction({"rows": 0.2, "taps": -0.15}, RANGE)}


def random_samples():
    """Return random programs of known kernels, with the times that these would take."""
    rng = np.random.default_rng(0)
    return [sample(str(index), rng) for index in range(150)]


def sample(name, rng):
    """Return one random program and its time."""
    found, seconds = [], RUN
    machine = rows.machine(TOY, tuple(KERNEL_DTYPES.values()))
    for key in rng.choice(list(KERNELS), size=rng.integers(1, 8)):
        dtype = ["fp32", "bf16", "int8"].index(key.partition(".")[2] or "fp32")
        inputs, outputs = (int(10 ** rng.uniform(3, 6)) for _ in range(2))
        weights = int(10 ** rng.uniform(2, 6)) if dtype or key[0] in "cl" else 0
        flops = 20 * weights * int(rng.integers(1, 200))
        work = rows.Work(flops, weights, inputs=inputs, outputs=outputs)
        bits = 8 if dtype else 32
        form = tuple(rng.uniform(0, 8, len(shape.FEATURES))) if weights else ()
        storage = rows.Storage(bits, bits, bits, False, dtype)
        piece = Piece(key, work, storage, 5e6 * rng.random(), (), (), shape=form)
        (picoseconds,) = _core.calibrated_times(
            [rows.LayerRow(work, piece.storage, rows.kernel(KERNELS[key]), piece.resident)], machine
        )
        found.append(piece)
        seconds += picoseconds / 1e12 * shape.factor(SHAPES.get(key), form)
    return Sample(name, seconds, tuple(found))
