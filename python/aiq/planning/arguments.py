"""What a search is given: checked, and read as often as it is needed."""

import math
import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from enum import StrEnum
from numbers import Integral, Real
from typing import Any, TypeVar

from torch.utils import _pytree as pytree

from aiq.data.reading import arranged, inputs_of, read
from aiq.drops import DropTable
from aiq.errors import DataError, InputError
from aiq.evaluate import metrics
from aiq.evaluate.evaluator import CALIBRATION_SAMPLES
from aiq.graph.batch import BatchDim, batch_dims, batch_size
from aiq.graph.export import Inputs, call_arguments
from aiq.sensitivity import METHODS

_Choice = TypeVar("_Choice", bound=StrEnum)


def one_of(kind: type[_Choice], argument: str, value: object) -> _Choice:
    """Return the member of `kind` that `value` names; `argument` is what an error calls it."""
    check_name(argument, value, list(kind))
    return kind(str(value))


def check_name(argument: str, value: object, known: Iterable[str]) -> None:
    """Raise `InputError` unless `value` is one of the names `known`."""
    names = list(dict.fromkeys(map(str, known)))
    if isinstance(value, str) and value in names:
        return
    close = get_close_matches(value.lower(), names, n=1) if isinstance(value, str) else []
    hint = f"did you mean {close[0]!r}? There are" if close else "use one of"
    raise InputError(f"{argument} is {value!r}; {hint} {', '.join(names)}.")


def check(
    *,
    max_drop: object,
    lam: object,
    confidence: object,
    time_limit: object,
    seed: object,
    measure_top: object,
    max_size: object,
    cache_dir: object,
    sensitivity: object,
    metric: object,
) -> None:
    """Raise `InputError` unless these arguments of a search are what they should be."""
    check_max_drop(max_drop)
    check_fraction("lam", lam)
    check_confidence(confidence)
    check_time_limit(time_limit)
    check_count("seed", seed, "a seed")
    check_count("measure_top", measure_top, "how many plans to time")
    if max_size is not None:
        check_count("max_size", max_size, "bytes")
    check_folder("cache_dir", cache_dir)
    if not (callable(sensitivity) or isinstance(sensitivity, DropTable)):
        check_name("sensitivity", sensitivity, METHODS)
    if not callable(metric):
        check_name("metric", metric, metrics.NAMES)


def check_max_drop(value: object) -> None:
    """Raise `InputError` unless `value` is a fraction.

    The integer 1 is refused: who writes it may mean one percentage point, and 1.0 is all of them.
    """
    written = value.strip() if isinstance(value, str) else None
    if written is not None:
        number = _number(written.removesuffix("%").removesuffix("pp"))
        scale = 100 if written.endswith(("%", "pp")) else 1
        hint = "" if number is None else f", here {number / scale:g}"
        raise InputError(
            f"max_drop is {value!r}, a text; give a number, as a fraction{hint} "
            "(0.01 is one percentage point)."
        )
    drop = _real("max_drop", value, "a fraction (0.01 is one percentage point)")
    if drop > 1 or (drop == 1 and isinstance(value, Integral)):
        raise InputError(
            f"max_drop is {value!r}, and 1 means 100 percentage points; write {drop / 100:g} for "
            f"{drop:g} percentage point{'' if drop == 1 else 's'}, or 1.0 to allow any drop."
        )
    if drop < 0:
        raise InputError(
            f"max_drop is {value!r}; give a fraction of 0 or more (0.01 is one percentage point)."
        )


def check_fraction(argument: str, value: object) -> None:
    """Raise `InputError` if `value` is no fraction."""
    if not 0 <= _real(argument, value, "a fraction from 0 to 1") <= 1:
        raise InputError(f"{argument} is {value!r}; give a fraction from 0 to 1.")


def check_confidence(value: object) -> None:
    """Raise `InputError` unless a plan can be measured with this confidence."""
    if not 0.5 <= _real("confidence", value, "0.5 to just under 1, as 0.95") < 1:
        raise InputError(f"confidence is {value!r}; give 0.5 to just under 1, as 0.95.")


def check_time_limit(value: object) -> None:
    """Raise `InputError` unless `value` is ``None`` or a number of seconds."""
    if value is not None and _real("time_limit", value, "seconds, or None") < 0:
        raise InputError(f"time_limit is {value!r}; give seconds, 0 or more, or None for no limit.")


def check_count(argument: str, value: object, what: str) -> None:
    """Raise `InputError` unless `value` is an integer of 0 or more, which counts `what`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 0:
        raise InputError(f"{argument} is {value!r}; give {what}, an integer of 0 or more.")


def _real(argument: str, value: object, what: str) -> float:
    """Return `value` as a float if it is a number, not NaN."""
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        if not math.isnan(number):
            return number
    raise InputError(f"{argument} is {value!r}; give a number: {what}.")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def runtime_name(runtime: object) -> str | None:
    """Return the name of a runtime that is given by its name, as an object, or not at all."""
    name = runtime if runtime is None or isinstance(runtime, str) else getattr(runtime, "name", 0)
    if name is None or isinstance(name, str):
        return name
    raise InputError(
        f"runtime is {runtime!r}; give a name, an object like those of aiq.runtimes, or None."
    )


def check_folder(argument: str, value: object) -> None:
    """Raise `InputError` unless `value` is ``None`` or a path."""
    if value is not None and not isinstance(value, str | os.PathLike):
        raise InputError(f"{argument} is {value!r}; give the path of a folder, or None.")


def pins(value: object) -> dict[str, str]:
    """Return the formats of pinned layers, by pattern."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(
        isinstance(item, str) for pair in value.items() for item in pair
    ):
        raise InputError(
            f"pin is {value!r}; give a dict of layer patterns and format names, such as "
            "{'fc': 'fp32'}."
        )
    return dict(value)


def reiterable(data: Iterable[Any], what: str = "data") -> Iterable[Any]:
    """Keep what can be iterated once only: it is needed for every evaluation."""
    try:
        once = iter(data) is data
    except TypeError:
        raise DataError(
            f"{what} is a {type(data).__name__}, which cannot be iterated; give an iterable of "
            "(inputs, targets) batches."
        ) from None
    except Exception:  # noqa: BLE001  (whatever a loader raises is explained when it is read)
        return data
    return list(read(data, what)) if once else data


def example_inputs(data: Iterable[Any] | None) -> Inputs:
    """Return the inputs of the first batch of `data`."""
    if data is None:
        raise InputError(
            "Neither data nor example_inputs were given; give one batch of inputs as "
            "example_inputs, and data to measure accuracy."
        )
    batch = next(read(data), None)
    if batch is None:
        raise DataError("data has no batches; give at least one (inputs, targets).")
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(
            f"data yields a {type(batch).__name__} where a pair (inputs, targets) is expected."
        )
    inputs: Inputs = arranged(batch[0])
    return inputs


def observed(
    data: Iterable[Any] | None,
    calibration: Iterable[Any] | None,
    examples: Inputs,
    batch_dim: BatchDim = 0,
) -> list[Inputs]:
    """Return the inputs on which programs observe their activations."""
    seen = data if calibration is None else calibration
    if seen is None:
        return [examples]
    args, keywords = call_arguments(examples)
    reads = len(pytree.tree_leaves((args, keywords)))
    found: list[Inputs] = []
    samples = 0
    for batch in read(seen, "data" if calibration is None else "calibration data"):
        inputs = inputs_of(batch, None if calibration is None else reads)
        found.append(inputs)
        leaves = pytree.tree_leaves(inputs)
        samples += batch_size(batch_dims(batch_dim, inputs), leaves)
        if calibration is None and samples >= CALIBRATION_SAMPLES:
            break
    return found
