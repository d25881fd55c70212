"""The formats that each layer may have."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial

from torch import nn

from aiq.errors import InputError, RuntimeUnavailableError
from aiq.formats import REFERENCE, Format
from aiq.formats import parse as parse_format
from aiq.graph import Layer, LayerGraph
from aiq.graph.operators import CONVOLUTIONS
from aiq.planning import weights
from aiq.runtimes import Runtime, Support, placement


def check_pins(model: nn.Module, pin: Mapping[str, str]) -> None:
    """Raise an error for a pattern that can match no layer of a model, before it is exported.

    Layers have the names of modules, those of weights that a function reads, and those of
    operators in a module; the second call of a layer ends in ``#2``.

    Raises
    ------
    InputError
        If there is such a pattern.
    """
    if not isinstance(model, nn.Module):
        return  # the export says so
    modules = [name for name, _ in model.named_modules()]
    weights = [name.removesuffix("weight").rstrip("._") for name, _ in model.named_parameters()]
    names = dict.fromkeys([*weights, *modules])
    operators = [f"{name}.{op}".lstrip(".") for name in modules for op in _OPERATORS]
    for pattern in pin:
        plain = pattern.partition("#")[0]
        if not any(map(partial(fnmatchcase, pat=plain), [*names, *operators])) and not re.fullmatch(
            rf".*\b({'|'.join(_OPERATORS)})_[\d*?]+", plain
        ):
            close = get_close_matches(pattern, names, n=1)
            meant = f" (did you mean {close[0]!r}?)" if close else ""
            raise InputError(
                f"Pin {pattern!r} matches no layer; see `aiq graph` for their names{meant}."
            )


_OPERATORS = sorted(CONVOLUTIONS | {"linear"})
"""Names of the operators whose layers may have names of their own."""


def allowed_formats(
    graph: LayerGraph,
    columns: Sequence[Format],
    choices: Sequence[Format],
    pin: Mapping[str, str],
    runtime: str | None = None,
) -> tuple[tuple[int, ...], ...]:
    """Return, for each quantizable layer, the columns of the formats that it may have.

    A layer stays in float32 if the runtime has no kernel for any of the formats in its place.

    Parameters
    ----------
    graph
        The layers.
    columns
        Formats of the tables.
    choices
        Formats that a layer may have if it is not pinned.
    pin
        Pattern, as in ``fnmatch``, -> format name. The last match wins, and applies to all layers
        that share a weight with a layer that matches.
    runtime
        Name of the runtime that will execute the plan. A layer may not have a format that the
        runtime would execute in another one, unless it is pinned to it. ``None`` for no such rule.

    Raises
    ------
    InputError
        If a pattern matches no layer.
    """
    sharing: dict[str | None, list[Layer]] = {}
    for layer in graph.quantizable:
        sharing.setdefault(layer.weight, []).append(layer)
    allowed = {}
    for layer in graph.quantizable:
        places = sharing[layer.weight]
        runs = [f for f in choices if all(placement.runs_as(runtime, x, f) == f for x in places)]
        allowed[layer.name] = tuple(columns.index(f) for f in runs or (REFERENCE,))
    for pattern, name in pin.items():
        matches = [layer for layer in allowed if fnmatchcase(layer, pattern)]
        if not matches:
            raise InputError(
                f"Pin {pattern!r} matches no layer; see `aiq graph` for their names "
                f"(the first is {next(iter(allowed))!r})."
            )
        column = columns.index(parse_format(name))
        pinned = {layer.weight for layer in graph.quantizable if layer.name in matches}
        allowed |= {x.name: (column,) for x in graph.quantizable if x.weight in pinned}
    return tuple(allowed.values())


def with_kernels(
    graph: LayerGraph,
    columns: Sequence[Format],
    allowed: Sequence[tuple[int, ...]],
    runtime: Runtime,
) -> tuple[tuple[int, ...], ...]:
    """Return the allowed columns without formats that `runtime` cannot run or only emulates.

    Raises
    ------
    RuntimeUnavailableError
        If no format is left for a layer.
    """
    able = {Support.NATIVE, Support.DEQUANT}
    rest = []
    for layer, given in zip(graph.quantizable, allowed, strict=True):
        rest.append(tuple(k for k in given if runtime.support(layer, columns[k]) in able))
        if not rest[-1]:
            names = ", ".join(columns[k].name for k in given)
            raise RuntimeUnavailableError(
                f"Runtime {runtime.name} has no kernel for {layer.op} layer {layer.name!r} in "
                f"{names}; allow it another format, or choose another runtime."
            )
    return weights.common(graph, rest)
