"""What a search is given: checked, and read as often as it is needed."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, TypeVar

import torch

from aiq.errors import DataError, InputError
from aiq.evaluate.evaluator import CALIBRATION_SAMPLES
from aiq.graph.export import Inputs

_Choice = TypeVar("_Choice", bound=StrEnum)


def one_of(kind: type[_Choice], argument: str, value: str) -> _Choice:
    """Return the member of `kind` that `value` names; `argument` is what an error calls it."""
    try:
        return kind(value)
    except ValueError:
        raise InputError(f"{argument} is {value!r}; use one of {', '.join(kind)}.") from None


def check_fraction(argument: str, value: float) -> None:
    """Raise `InputError` if `value` is no fraction."""
    if not 0 <= value <= 1:
        raise InputError(f"{argument} is {value!r}; give a fraction from 0 to 1 (0.01 = 1 pp).")


def reiterable(data: Iterable[Any]) -> Iterable[Any]:
    """Keep what can be iterated once only: it is needed for every evaluation."""
    try:
        iterator = iter(data)
    except TypeError:
        raise DataError(
            f"data is a {type(data).__name__}, which cannot be iterated; give an iterable of "
            "(inputs, targets) batches."
        ) from None
    return list(iterator) if iterator is data else data


def example_inputs(data: Iterable[Any] | None) -> Inputs:
    """Return the inputs of the first batch of `data`."""
    if data is None:
        raise InputError(
            "Neither data nor example_inputs were given; give one batch of inputs as "
            "example_inputs, and data to measure accuracy."
        )
    batch = next(iter(data), None)
    if batch is None:
        raise DataError("data has no batches; give at least one (inputs, targets).")
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(
            f"data yields a {type(batch).__name__} where a pair (inputs, targets) is expected."
        )
    inputs: Inputs = batch[0]
    return inputs


def observed(
    data: Iterable[Any] | None, calibration: Iterable[Any] | None, examples: Inputs
) -> list[Inputs]:
    """Return the inputs on which programs observe their activations."""
    seen = data if calibration is None else calibration
    if seen is None:
        return [examples]
    found: list[Inputs] = []
    samples = 0
    for batch in seen:
        inputs = batch[0] if isinstance(batch, tuple | list) else batch
        found.append(inputs)
        samples += len(inputs) if isinstance(inputs, torch.Tensor) else 1
        if calibration is None and samples >= CALIBRATION_SAMPLES:
            break
    return found
