"""Statistics of activations, observed once and kept beside the evaluations that rest on them.

A file holds tensors and nothing else (safetensors), under a hash of all that determines them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils import _pytree as pytree

from aiq import cache
from aiq.errors import InputError
from aiq.evaluate.samples import Samples
from aiq.files import write_atomic
from aiq.fingerprint import Fingerprint
from aiq.graph import Trace
from aiq.graph.export import Inputs
from aiq.progress import Progress
from aiq.quantize.moments import second_moments
from aiq.quantize.operands import has_bias
from aiq.quantize.points import Absorbs, absorbs_all, rounding_points
from aiq.quantize.program import Program
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import BINS, Statistics, observe

VERSION = 1
"""Version of the statistics; increase it when the same inputs come to give others."""

MOST_BYTES = 2**26
"""Statistics of more bytes are not kept: the means of very large activations."""

_STAGE = "observe activations"
_PARTS = ("extremes", "limit", "counts", "total", "batch")
_CHECK = "check"


def kept_statistics(
    trace: Trace,
    chunks: Sequence[Samples],
    batch: int | None,
    folder: Path | None,
    progress: Progress,
    absorbs: Absorbs = absorbs_all,
) -> dict[str, Statistics]:
    """Return the statistics of `aiq.quantize.statistics.observe`, kept ones if there are any.

    Parameters
    ----------
    trace
        Folded trace of the network.
    chunks
        The samples on which activations are observed.
    batch
        Number of samples that the network takes at a time; ``None`` for any number.
    folder
        Folder of the kept statistics; ``None`` if none are kept.
    progress
        Called with the name of the stage, the steps done, and the number of steps.
    absorbs
        Whether an integer kernel absorbs an operator, see `aiq.quantize.points`.
    """
    points = rounding_points(trace, absorbs)
    inputs = [chunk.filled(batch) for chunk in chunks]
    path = (
        None
        if folder is None
        else folder / f"statistics-{_hash(trace, inputs, points)}.safetensors"
    )
    known = None if path is None else _read(path)
    if known is not None:
        return known

    def reported() -> Iterator[Inputs]:
        for done, one in enumerate(inputs):
            progress(_STAGE, done, len(inputs))
            yield one
        progress(_STAGE, len(inputs), len(inputs))

    found = observe(trace, reported(), absorbs)
    if path is not None:
        _write(path, found)
    return found


def calibrated(
    trace: Trace,
    chunks: Sequence[Samples],
    batch: int | None,
    folder: Path | None,
    progress: Progress,
    observer: str,
    absorbs: Absorbs,
    *,
    gguf: bool = False,
) -> Simulator:
    """Return the simulator of a network that was calibrated on samples.

    Parameters
    ----------
    trace, chunks, batch, folder, progress, absorbs
        These are the parameters of `kept_statistics`.
    observer
        Name of the observer that chooses the ranges of activations.
    gguf
        Whether to compute as llama.cpp does. Activations have no ranges then, and statistics of
        them are needed only for biases.
    """
    needed = has_bias(trace) or not gguf
    with torch.inference_mode():
        statistics = (
            kept_statistics(trace, chunks, batch, folder, progress, absorbs) if needed else {}
        )
        moments = second_moments(trace, (chunk.filled(batch) for chunk in chunks))
    return Simulator(trace, statistics, observer, absorbs=absorbs, moments=moments, gguf=gguf)


def _hash(trace: Trace, inputs: Sequence[Inputs], points: Mapping[str, tuple[str, ...]]) -> str:
    """Return a hash of everything that determines the statistics."""
    hashed = Fingerprint()
    hashed.add("statistics", (VERSION, BINS))
    hashed.add("torch", (torch.__version__, torch.backends.cpu.get_cpu_capability()))
    Program(trace).fingerprint(hashed)
    layers = trace.graph.quantizable
    hashed.add("layers", [(x.nodes, x.weight_shape, points[x.name]) for x in layers])
    for index, one in enumerate(inputs):
        for leaf in pytree.tree_leaves(one):
            hashed.add(f"chunk {index}", leaf)
    return hashed.hexdigest()[:24]


def _write(path: Path, statistics: Mapping[str, Statistics]) -> None:
    """Keep statistics, unless they are very large or cannot be written."""
    tensors: dict[str, Tensor] = {}
    for index, (name, one) in enumerate(statistics.items()):
        values = (one.extremes, one.limit, one.counts, one.total, one.batch)
        for part, value in zip(_PARTS, values, strict=True):
            dtype = None if isinstance(value, Tensor | int) else torch.float64
            tensors[f"{index:06d}/{part}/{name}"] = torch.as_tensor(value, dtype=dtype).contiguous()
    if sum(tensor.nbytes for tensor in tensors.values()) <= MOST_BYTES:
        with suppress(InputError):  # a full disk ends no search
            write_atomic(path, save(tensors, {_CHECK: _check(tensors)}))


def _read(path: Path) -> dict[str, Statistics] | None:
    """Return kept statistics; ``None`` if there are none, or they are damaged."""
    if not path.is_file():
        return None
    cache.touch(path)
    try:
        with safe_open(path, framework="pt") as kept:
            tensors = {name: kept.get_tensor(name) for name in sorted(kept.keys())}
            check = (kept.metadata() or {}).get(_CHECK)
    except (OSError, SafetensorError):
        return None
    return _statistics(tensors) if check == _check(tensors) else None


def _statistics(tensors: Mapping[str, Tensor]) -> dict[str, Statistics]:
    found: dict[str, Statistics] = {}
    parts = {key: key.split("/", 2) for key in tensors}
    for index, name in dict.fromkeys((index, name) for index, _, name in parts.values()):
        extremes, limit, counts, total, batch = (
            tensors[f"{index}/{part}/{name}"] for part in _PARTS
        )
        found[name] = Statistics(
            [(low, high) for low, high in extremes.tolist()],
            limit.item(),
            counts,
            total,
            int(batch),
        )
    return found


def _check(tensors: Mapping[str, Tensor]) -> str:
    """Return a check sum of tensors in the order of their names."""
    hashed = Fingerprint()
    for name, tensor in sorted(tensors.items()):
        hashed.add(name, tensor)
    return hashed.hexdigest()
