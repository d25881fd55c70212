"""The problem of a search: layers, choices and edges as fixed-point integers."""

import math
import numbers
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aiq import _core
from aiq.errors import InputError, type_of

Table = Sequence[npt.ArrayLike] | npt.NDArray[Any]
Number = int | float

_SCALED_BITS = 40
"""Bits of the largest possible sum of scaled floats, which is about 12 decimal digits."""


class Problem:
    """A cost and a drop for each choice of every layer, and edges between layers.

    Integers are kept exactly. Floats are multiplied by their measure's scale and rounded to the
    nearest integer, so plans are distinguished down to ``1 / scale``. By default the scale is the
    power of two at which the measure's largest possible sum has 40 bits.

    Parameters
    ----------
    cost, drop, size
        A 1-D array for each layer (lengths may differ), or one 2-D array of shape
        ``(layers, choices)``. `size` is optional. Negative values are allowed.
    edges
        ``(u, v, cost_uv)`` or ``(u, v, cost_uv, drop_uv)``: matrices of shape
        ``(choices of u, choices of v)``, added when both layers make their choices. Several edges
        between the same two layers add up.
    cost_scale, drop_scale, size_scale
        Fixed-point scales for float input.

    Raises
    ------
    InputError
        For ragged, empty, non-numeric, non-finite or too large input, and for edges that name a
        missing layer, join a layer to itself, or have the wrong shape.

    Examples
    --------
    >>> from aiq.solver import solve
    >>> problem = Problem(cost=[[4, 2, 1], [4, 2, 1]], drop=[[0, 1, 5], [0, 3, 9]])
    >>> solve(problem, max_drop=4).choices
    (1, 1)
    """

    __slots__ = ("_handle", "_scales")

    _handle: _core.Problem
    _scales: tuple[float | None, float | None, float | None]

    def __init__(
        self,
        cost: Table,
        drop: Table,
        size: Table | None = None,
        edges: Iterable[tuple[Any, ...]] = (),
        *,
        cost_scale: float | None = None,
        drop_scale: float | None = None,
        size_scale: float | None = None,
    ) -> None:
        if not isinstance(edges, Iterable):
            raise InputError(f"edges is {type_of(edges)}; give a list of (u, v, cost) tuples")
        edges = edges if isinstance(edges, list | tuple) else list(edges)
        flat_cost, lengths = _flatten("cost", cost)
        flat_drop, drop_lengths = _flatten("drop", drop)
        _same_lengths("drop", drop_lengths, lengths)
        flat_size = None
        if size is not None:
            flat_size, size_lengths = _flatten("size", size)
            _same_lengths("size", size_lengths, lengths)
        flats = [flat_cost, flat_drop, flat_size]
        stated = [cost_scale, drop_scale, size_scale]
        integral = all(f is None or f.dtype == np.int64 for f in flats)
        scales: list[float | None] = [None, None, None]
        core = None
        if integral and stated == [None, None, None]:
            core = _build(lengths, flat_cost, flat_drop, flat_size, edges)
        if core is None:  # floats, or edges that are not int64 arrays yet
            converted = _edge_arrays(edges)
            matrices_of: tuple[list[npt.NDArray[Any]], ...] = (
                [cost for _, _, cost, _ in converted],
                [drop for _, _, _, drop in converted if drop is not None],
                [],
            )
            for m, name in enumerate(("cost", "drop", "size")):
                scales[m] = _scale(name, flats[m], lengths, matrices_of[m], stated[m])
            ints = [
                None if f is None else _fixed(n, f, s)
                for n, f, s in zip(("cost", "drop", "size"), flats, scales, strict=True)
            ]
            matrices = [
                (
                    u,
                    v,
                    _fixed("cost", c, scales[0]),
                    None if x is None else _fixed("drop", x, scales[1]),
                )
                for u, v, c, x in converted
            ]
            core = _build(lengths, ints[0], ints[1], ints[2], matrices)
            if core is None:
                raise InputError("edges must be (u, v, cost) or (u, v, cost, drop) tuples")
        object.__setattr__(self, "_handle", core)
        object.__setattr__(self, "_scales", tuple(scales))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Problem cannot be changed; build a new one to change {name}")

    def __repr__(self) -> str:
        sizes = ", sizes" if self.has_sizes else ""
        return f"Problem({self.n_layers} layers, {self.n_edges} edges{sizes})"

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self._handle.n_layers

    @property
    def n_choices(self) -> list[int]:
        """Number of choices of every layer."""
        return self._handle.n_choices

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return self._handle.n_edges

    @property
    def has_sizes(self) -> bool:
        """Whether sizes were given."""
        return self._handle.has_sizes

    @property
    def scales(self) -> dict[str, float | None]:
        """For each measure, fixed-point units per unit of input; None if the input was integer."""
        return dict(zip(("cost", "drop", "size"), self._scales, strict=True))

    @property
    def core(self) -> _core.Problem:
        """The compiled problem, in fixed-point integers."""
        return self._handle

    def to_fixed(self, measure: str, value: Number, terms: int = 0) -> int:
        """Convert a budget to fixed-point units.

        Parameters
        ----------
        measure
            ``cost``, ``drop`` or ``size``.
        value
            The budget in the units of the input.
        terms
            Number of rounded terms in the sum that is compared with the budget. Half a unit is
            added for each, so that rounding excludes no plan that the floats allow.
        """
        scale = self.scales[measure]
        if scale is None:
            return math.floor(value)
        return math.floor(value * scale + terms / 2)

    def from_fixed(self, measure: str, value: int) -> Number:
        """Convert a fixed-point value to the units of the input."""
        scale = self.scales[measure]
        return value if scale is None else value / scale


def _flatten(name: str, table: Table) -> tuple[npt.NDArray[Any], list[int]]:
    """Return one flat array of int64 or float64, and the number of choices of each layer."""
    if isinstance(table, np.ndarray) and table.dtype != object:
        if table.ndim != 2:
            raise InputError(f"{name} is a {table.ndim}-D array; give (layers, choices) or a list")
        if not table.size:
            raise InputError(
                f"{name} has the shape {table.shape}; give 1 layer and 1 choice or more"
            )
        return _numeric(name, table.reshape(-1)), [table.shape[1]] * table.shape[0]
    try:
        rows = [np.asarray(row) for row in table]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must hold one 1-D array per layer: {error}") from None
    if not rows:
        raise InputError("the problem has no layers; give one cost array per layer")
    for layer, row in enumerate(rows):
        if row.ndim != 1:
            raise InputError(f"{name} of layer {layer} is {row.ndim}-D; give a 1-D array per layer")
        if row.size == 0:
            raise InputError(f"layer {layer} has no choices; give every layer at least one {name}")
    return _numeric(name, np.concatenate(rows)), [len(row) for row in rows]


def _numeric(name: str, flat: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if flat.dtype == np.int64:
        return np.ascontiguousarray(flat)
    if flat.dtype.kind in "iu":
        if flat.size and int(flat.max()) > np.iinfo(np.int64).max:
            raise InputError(f"{name} has a value above 2^63; use a coarser unit")
        return flat.astype(np.int64)
    if flat.dtype.kind == "f":
        if not np.isfinite(flat).all():
            at = int(np.flatnonzero(~np.isfinite(flat))[0])
            raise InputError(f"{name} has the value {flat[at]}; all values must be finite")
        return flat.astype(np.float64)
    raise InputError(f"{name} must hold integers or floats, not {flat.dtype}")


def _same_lengths(name: str, found: list[int], expected: list[int]) -> None:
    if found == expected:
        return
    if len(found) != len(expected):
        raise InputError(f"{name} has {len(found)} layers but cost has {len(expected)}")
    layer = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
    raise InputError(
        f"layer {layer} has {expected[layer]} costs but {found[layer]} {name} values; "
        "give one of each per choice"
    )


def _build(
    lengths: list[int],
    cost: npt.NDArray[Any] | None,
    drop: npt.NDArray[Any] | None,
    size: npt.NDArray[Any] | None,
    edges: Iterable[tuple[Any, ...]],
) -> _core.Problem | None:
    """Compile the problem; return None if an edge is not a tuple with int64 matrices."""
    assert cost is not None
    assert drop is not None
    try:
        return _core.Problem(lengths, cost, drop, size, edges)
    except TypeError:
        return None


_EdgeArrays = tuple[int, int, npt.NDArray[Any], npt.NDArray[Any] | None]


def _edge_arrays(edges: Iterable[Any]) -> list[_EdgeArrays]:
    converted = []
    for at, edge in enumerate(edges):
        try:
            u, v, cost, *rest = edge
            drop = rest[0] if rest else None
            if len(rest) > 1:
                raise ValueError
        except (TypeError, ValueError):
            raise InputError(f"edge {at} is not (u, v, cost) or (u, v, cost, drop)") from None
        arrays: list[npt.NDArray[Any] | None] = []
        for name, value in (("cost", cost), ("drop", drop)):
            if value is None:
                arrays.append(None)
                continue
            try:
                array = np.asarray(value)
            except ValueError as error:
                raise InputError(f"the {name} matrix of edge {at} is ragged: {error}") from None
            if array.ndim != 2:
                raise InputError(f"the {name} matrix of edge {at} is {array.ndim}-D; give a matrix")
            arrays.append(
                _numeric(f"the {name} of edge {at}", array.reshape(-1)).reshape(array.shape)
            )
        matrix = arrays[0]
        if matrix is None:
            raise InputError(f"edge {at} has no cost matrix; give zeros if it costs nothing")
        converted.append((u, v, matrix, arrays[1]))
    return converted


def _scale(
    name: str,
    flat: npt.NDArray[Any] | None,
    lengths: list[int],
    matrices: list[npt.NDArray[Any]],
    stated: float | None,
) -> float | None:
    """Return the fixed-point units per unit of input; None for integers."""
    arrays = matrices if flat is None else [flat, *matrices]
    if stated is not None:
        if not is_finite(stated) or stated <= 0:
            raise InputError(f"{name}_scale is {stated}; it must be a positive finite number")
        return float(stated)
    if all(a.dtype == np.int64 for a in arrays):
        return None
    starts = np.cumsum([0, *lengths[:-1]])
    total = 0.0 if flat is None else float(np.maximum.reduceat(np.abs(flat), starts).sum())
    total += sum(float(np.abs(m).max(initial=0)) for m in matrices)
    if not math.isfinite(total):
        raise InputError(f"the {name} values add up to infinity; use a coarser unit")
    exponent = min(_SCALED_BITS - math.frexp(total)[1], sys.float_info.max_exp - 1)
    return 1.0 if total == 0 else math.ldexp(1.0, exponent)


def is_finite(value: object) -> bool:
    """Whether a value is a finite number, and neither a boolean nor too large for a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_count(value: object, least: int = 0) -> bool:
    """Whether a value is an integer of 64 bits that is at least `least`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and least <= int(value) < 2**63  # type: ignore[call-overload]


def _fixed(name: str, array: npt.NDArray[Any], scale: float | None) -> npt.NDArray[np.int64]:
    if scale is None:
        return np.ascontiguousarray(array, np.int64)
    scaled = np.rint(array * scale)
    if scaled.size and float(np.abs(scaled).max()) >= 2.0**62:
        raise InputError(
            f"the {name} values times their scale overflow; use a smaller {name}_scale"
        )
    return np.ascontiguousarray(scaled.astype(np.int64))
