"""How a runtime executes a format, and the check of a plan against that."""

import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from enum import StrEnum

from aiq.errors import InputError, RuntimeUnavailableError
from aiq.formats import REFERENCE, Format, parse
from aiq.graph import Layer, LayerGraph, Op


class Support(StrEnum):
    """How a runtime executes an operator in a format.

    ``native`` computes in the format's own arithmetic. ``dequant`` stores weights in the format and
    computes in a wider one. ``emulated`` gives the format's results at the speed of another format.
    ``none`` cannot run it.
    """

    NATIVE = "native"
    DEQUANT = "dequant"
    EMULATED = "emulated"
    NONE = "none"


def resolve(
    runtime: str,
    support: Callable[[Op, Format], Support],
    graph: LayerGraph,
    formats: Mapping[str, Format],
    *,
    emulate: bool,
) -> dict[str, Format]:
    """Return the format of every quantizable layer of `graph`, after a check.

    Parameters
    ----------
    runtime
        Name of the runtime.
    support
        Function that returns how the runtime executes an operator in a format.
    graph
        The layers.
    formats
        Format by layer name; layers that are not named get float32.
    emulate
        Whether emulated formats are allowed.

    Raises
    ------
    InputError
        If `formats` names a layer that the graph does not have.
    RuntimeUnavailableError
        If the runtime cannot execute a layer in its format.
    """
    layers = {layer.name: layer for layer in graph.quantizable}
    for name in formats:
        if name not in layers:
            close = get_close_matches(name, layers, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see `aiq graph` for its layers."
            raise InputError(f"The model has no quantizable layer {name!r}; {hint}")
    resolved = {
        name: in_channels(formats.get(name, REFERENCE), layer) for name, layer in layers.items()
    }
    for name, fmt in resolved.items():
        op = layers[name].op
        found = support(op, fmt)
        if found is Support.NONE:
            raise RuntimeUnavailableError(
                f"Runtime {runtime} cannot run {op} layer {name!r} in {fmt}; choose another "
                "format for it or another runtime."
            )
        if found is Support.EMULATED and not emulate:
            raise RuntimeUnavailableError(
                f"Runtime {runtime} has no {fmt} kernel for {op} layer {name!r} on this "
                "machine and can only emulate it; choose another format, or allow emulation."
            )
    return resolved


def in_channels(fmt: Format, layer: Layer) -> Format:
    """Return `fmt`, without its groups if a channel of the layer is not longer than a group."""
    group, shape = fmt.weight_granularity.group, layer.weight_shape
    if group is None or shape is None or math.prod(shape[1:]) > group:
        return fmt
    return parse(f"w{fmt.weight.bits}")
