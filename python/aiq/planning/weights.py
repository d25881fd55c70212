"""Sizes of weights, each stored once, and layers that share a weight and therefore a format."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aiq.errors import InputError
from aiq.formats import REFERENCE, Format
from aiq.graph import Layer, LayerGraph, Op
from aiq.graph.layers import Undecided
from aiq.hardware.sections import prices_tokens
from aiq.runtimes import placement


def size_table(
    layers: LayerGraph, columns: Sequence[Format], section: str | None = None
) -> NDArray[np.int64]:
    """Return the bits that the weights of each layer add in each format: int64, (L, K).

    Scales and zero points of groups are counted as the files of a runtime store them, which
    `section` names (`aiq.hardware.sections`). A shared weight counts only for the first layer.

    A weight that a layer without a format reads too, such as an embedding, is stored as a
    floating-point number in any case, and formats other than float32 store a second copy. A GGUF
    file stores it once. A folder has a float16 table for the embedding and a matrix for the layer.
    """
    kept = set() if prices_tokens(section) else {parameter.name for parameter in layers.undecided}

    def stored(layer: Layer, fmt: Format) -> int:
        elements = layer.weight_elements - layer.repeated_elements
        if layer.weight in kept and elements and fmt.weight == REFERENCE.weight:
            elements -= math.prod(layer.weight_shape or ())
        matrix = min(elements, math.prod(layer.weight_shape or ()))
        bias = max(0, elements - matrix)
        width = REFERENCE.weight.bits if prices_tokens(section) else fmt.weight.bits
        return math.ceil(max(0, matrix) * placement.stored_bits(section, fmt)) + bias * width

    return np.array([[stored(x, f) for f in columns] for x in layers.quantizable], dtype=np.int64)


def fixed_bytes(layers: LayerGraph, section: str | None = None) -> int:
    """Return the bytes of the parameters that no decision changes."""
    return sum(parameter.bytes for parameter in fixed(layers, section))


def fixed(layers: LayerGraph, section: str | None = None) -> tuple[Undecided, ...]:
    """Return the parameters that no decision changes, as files of a runtime store them.

    GGUF files and folders have the tables of embeddings in float16 (`aiq.gguf.tensors`,
    `aiq.generative.matrices`). A GGUF file has no second copy of one that the output layer shares.
    """
    if not prices_tokens(section):
        return layers.undecided
    decided = {x.weight for x in layers.quantizable} if section == placement.GGUF else set()
    return tuple(
        replace(p, bytes=p.bytes // 2, dtype="float16") if p.op is Op.EMBEDDING else p
        for p in layers.undecided
        if p.name not in decided
    )


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
