"""Searches that measure every candidate: no tables, so no proof."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiq import _core
from aiq.errors import InputError


@dataclass(frozen=True, slots=True)
class Measured:
    """The outcome of a search that measures every candidate.

    Attributes
    ----------
    choices
        The best plan met.
    value
        Its objective.
    evaluations
        How often the objective was asked for.
    trace
        ``(evaluations so far, layer, choice, value)`` of every accepted change.
    """

    choices: tuple[int, ...]
    value: float
    evaluations: int
    trace: tuple[tuple[int, int, int, float], ...]


def greedy_measured(
    n_choices: Sequence[int],
    evaluate: Callable[[list[int]], float],
    start: Sequence[int] | None = None,
) -> Measured:
    """Take the best single-layer change each round, until none improves.

    Parameters
    ----------
    n_choices
        Number of choices of every layer.
    evaluate
        The objective of a plan, to be minimised; called once per candidate. What it raises comes
        out unchanged.
    start
        The plan to start from; default the first choice of every layer.
    """
    counts, first = _measured_input(n_choices, start)
    return _measured(_core.measure_greedy(counts, first, evaluate))


def coordinate_measured(
    n_choices: Sequence[int],
    evaluate: Callable[[list[int]], float],
    start: Sequence[int] | None = None,
) -> Measured:
    """Sweep the layers in order, each to its best choice, until a sweep changes nothing.

    Parameters as of `greedy_measured`.
    """
    counts, first = _measured_input(n_choices, start)
    return _measured(_core.measure_coordinate(counts, first, evaluate))


def _measured_input(
    n_choices: Sequence[int], start: Sequence[int] | None
) -> tuple[list[int], list[int]]:
    counts = [int(n) for n in n_choices]
    if not counts:
        raise InputError("n_choices is empty; give the number of choices of every layer")
    for layer, count in enumerate(counts):
        if not 1 <= count < 2**16:
            raise InputError(f"layer {layer} has {count} choices; give 1 to 65535")
    first = [0] * len(counts) if start is None else [int(c) for c in start]
    if len(first) != len(counts):
        raise InputError(f"start has {len(first)} choices for {len(counts)} layers; give one each")
    for layer, (choice, count) in enumerate(zip(first, counts, strict=True)):
        if not 0 <= choice < count:
            raise InputError(f"start has choice {choice} at layer {layer}; it has 0 to {count - 1}")
    return counts, first


def _measured(
    found: tuple[list[int], float, int, list[tuple[int, int, int, float]]],
) -> Measured:
    choices, value, evaluations, trace = found
    return Measured(tuple(choices), value, evaluations, tuple(trace))
