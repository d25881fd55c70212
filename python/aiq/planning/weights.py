"""Sizes of weights, each stored once, and layers that share a weight and therefore a format."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aiq.errors import InputError
from aiq.formats import REFERENCE, Format
from aiq.graph import Layer, LayerGraph


def bits(layers: LayerGraph, columns: Sequence[Format]) -> NDArray[np.int64]:
    """Return the bits that the weights of each layer add in each format: int64, (L, K).

    A shared weight counts only for the first layer. A weight that a layer without a format reads
    too, such as an embedding, is stored in float32 in any case; other formats store a second copy.
    """
    kept = {parameter.name for parameter in layers.undecided}

    def stored(layer: Layer, fmt: Format) -> int:
        elements = layer.weight_elements - layer.repeated_elements
        if layer.weight in kept and elements and fmt.weight == REFERENCE.weight:
            elements -= math.prod(layer.weight_shape or ())
        return int(max(0, elements) * fmt.weight.bits)

    return np.array([[stored(x, f) for f in columns] for x in layers.quantizable], dtype=np.int64)


def shared(graph: LayerGraph) -> tuple[int, ...]:
    """Return, for each quantizable layer, the position of the first one with the same weight."""
    first: dict[str | None, int] = {}
    return tuple(first.setdefault(x.weight, i) for i, x in enumerate(graph.quantizable))


def common(graph: LayerGraph, allowed: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Return the allowed columns of each layer that all layers with the same weight allow.

    Raises
    ------
    InputError
        If layers that share a weight have no format in common.
    """
    owners = shared(graph)
    found: dict[int, tuple[int, ...]] = {}
    for columns, owner in zip(allowed, owners, strict=True):
        found[owner] = tuple(k for k in found.get(owner, columns) if k in columns)
        if not found[owner]:
            layer = graph.quantizable[owner]
            raise InputError(
                f"The layers that share the weight {layer.weight!r} have no format in common; "
                "allow more formats."
            )
    return tuple(found[owner] for owner in owners)
