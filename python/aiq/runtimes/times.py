"""Times of layers inside a network, by a runtime's own profiler."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from aiq.graph import LayerGraph
from aiq.runtimes.kernels import RealisedKernel

KernelTimes = tuple[Mapping[str, RealisedKernel], Mapping[str, Sequence[float]]]
"""The kernel of each layer, and by the name of a kernel's node the seconds of each run."""


class LayerTimes(NamedTuple):
    """Times of a network by the runtime's profiler.

    Attributes
    ----------
    layers
        Median seconds of each layer that has its own kernel, with the operators fused into it.
    total
        Sum of the median seconds of all nodes.
    """

    layers: Mapping[str, float]
    total: float


class Part(NamedTuple):
    """One of several small models that were compiled together.

    Attributes
    ----------
    run
        Function that runs the model once on its input.
    graph
        Layer graph of the model.
    profile
        Function from a number of runs to `LayerTimes`; ``None`` if the runtime has no profiler.
    """

    run: Callable[[], Any]
    graph: LayerGraph
    profile: Callable[[int], LayerTimes] | None = None


def layer_times(profile: KernelTimes) -> LayerTimes:
    """Return the times of layers from those of kernels."""
    kernels, seconds = profile
    timed = {name: seconds.get(kernel.node) for name, kernel in kernels.items()}
    return LayerTimes(
        {name: median(values) for name, values in timed.items() if values},
        sum(map(median, seconds.values())),
    )
