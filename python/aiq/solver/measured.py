"""Searches that measure every candidate; without tables there is no proof."""

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
        Choice of each layer in the best plan that was measured.
    value
        Objective of that plan.
    evaluations
        Number of evaluations of the objective.
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
    """Make the best change of a single layer in each round, until no change is an improvement.

    Parameters
    ----------
    n_choices
        Number of choices of every layer.
    evaluate
        Function that returns the objective of a plan, which is minimised. It is called once for
        each candidate, and its exceptions are passed on.
    start
        Plan to start from; by default the first choice of every layer.
    """
    counts, first = _measured_input(n_choices, start)
    return _measured(_core.measure_greedy(counts, first, evaluate))


def coordinate_measured(
    n_choices: Sequence[int],
    evaluate: Callable[[list[int]], float],
    start: Sequence[int] | None = None,
) -> Measured:
    """Give each layer in turn its best choice, until a sweep over all layers changes nothing.

    The parameters are those of `greedy_measured`.
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
