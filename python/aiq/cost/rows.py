"""Named tuples in which layers, formats and machines are passed to the Rust core."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from aiq.formats import DType, Format
from aiq.graph import Layer, Op
from aiq.hardware import Hardware
from aiq.hardware import runtime_profile as profile
from aiq.typed import Count


class Work(NamedTuple):
    """The work of one layer, the same in every format: FLOPs, and numbers of elements."""

    flops: Count = 0
    weights: Count = 0
    scales: Count = 0
    inputs: Count = 0
    fused: Count = 0
    outputs: Count = 0
    is_output: bool = False


class Storage(NamedTuple):
    """How a layer is stored, and the position of the dtype in which it computes."""

    weight_bits: Count
    activation_bits: Count
    output_bits: Count
    scaled: bool
    compute: Count


class KernelRow(NamedTuple):
    """A kernel: seconds to start, shares of peak and bandwidth, seconds per output element."""

    start: float
    compute: float
    memory: float
    output: float


class LevelRow(NamedTuple):
    """A memory level: its size in bytes, and its read bandwidth in bytes per second."""

    size: float
    bandwidth: float


class Machine(NamedTuple):
    """A machine: FLOPs per second by dtype, and the memory levels, nearest first."""

    peaks: list[float]
    levels: list[LevelRow]


class LayerRow(NamedTuple):
    """A piece of work, its storage, its kernel, and the bytes that stay in memory meanwhile."""

    work: Work
    storage: Storage
    kernel: KernelRow
    resident: float


def work(layer: Layer) -> Work:
    """Return the work of a layer."""
    return Work(
        flops=layer.flops,
        weights=_read_weights(layer),
        scales=layer.output_channels,
        inputs=layer.input_elements,
        fused=layer.fused_elements,
        outputs=layer.output_elements,
        is_output=layer.is_output,
    )


def _read_weights(layer: Layer) -> int:
    """Return the number of weights that a layer reads: of an embedding, only the rows it looks up.

    It looks up one row for each number that it reads.
    """
    if layer.op is not Op.EMBEDDING or layer.weight_shape is None:
        return layer.weight_elements
    return min(layer.weight_elements, layer.input_elements * math.prod(layer.weight_shape[1:]))


def stored_work(layer: Layer, format_: Format) -> Work:
    """Return the work of a layer whose weights are stored in `format_`, with scales of groups.

    The core counts 32 bits for a scale; zero points and scales of groups are given as such.
    """
    plain, group = work(layer), format_.weight_granularity.group
    if group is None or layer.weight_shape is None:
        return plain
    extra = math.prod(layer.weight_shape) * (format_.stored_bits - format_.weight.bits)
    return plain._replace(scales=math.ceil(extra / 32))


def storage(format_: Format, compute: int) -> Storage:
    """Return how a layer in `format_` is stored; `compute` is the position of its dtype."""
    bits = format_.activation.bits
    return Storage(format_.weight.bits, bits, bits, format_.quantizes_weights, compute)


def kernel(found: profile.KernelProfile, *, starts: bool = True, factor: float = 1.0) -> KernelRow:
    """Return a kernel of a profile with all its times multiplied by `factor`."""
    return KernelRow(
        start=found.start_us * 1e-6 * factor if starts else 0.0,
        compute=found.compute / factor,
        memory=found.memory / factor,
        output=found.output_ns * 1e-9 * factor,
    )


def machine(hardware: Hardware, dtypes: Sequence[DType]) -> Machine:
    """Return the peaks of `dtypes` and the memory of a profile, in bytes and seconds.

    Raises
    ------
    HardwareError
        If the profile lacks a dtype.
    """
    return Machine(
        [hardware.peak(dtype) * 1e9 for dtype in dtypes],
        [LevelRow(m.size_kib * 1024, m.read_gbps * 1e9) for m in hardware.memory],
    )


def largest_activations(layers: Sequence[Layer], bits: int) -> float:
    """Return the bytes of the activations that the widest layer reads and writes."""
    widest = max(x.input_elements + x.fused_elements + x.output_elements for x in layers)
    return math.ceil(widest * bits / 8)
