"""Checks of the plain values that a search is given."""

import math
import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Real

from aiq import names
from aiq.errors import InputError


def name(argument: str, value: object, known: Iterable[str]) -> None:
    """Raise `InputError` unless `value` is one of the names `known`."""
    choices = list(map(str, known))
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{argument} is {value!r}; {names.advice(value, choices)}.")


def max_drop(value: object) -> None:
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


def perplexity_ratio(value: object) -> float:
    """Return the drop of log-perplexity that a ratio of perplexities allows.

    Raises
    ------
    InputError
        If the ratio is no number from 1 to e, which is as far as a search looks.
    """
    ratio = _real("max_perplexity_ratio", value, "a ratio, as 1.05")
    if not 1 <= ratio <= math.e:
        raise InputError(
            f"max_perplexity_ratio is {value!r}; give a ratio from 1 to 2.71, as 1.05 for a "
            "perplexity 5 % above that of float32."
        )
    return math.log(ratio)


def fraction(argument: str, value: object) -> None:
    """Raise `InputError` if `value` is no fraction."""
    if not 0 <= _real(argument, value, "a fraction from 0 to 1") <= 1:
        raise InputError(f"{argument} is {value!r}; give a fraction from 0 to 1.")


def confidence(value: object) -> None:
    """Raise `InputError` unless a plan can be measured with this confidence."""
    if not 0.5 <= _real("confidence", value, "0.5 to just under 1, as 0.95") < 1:
        raise InputError(f"confidence is {value!r}; give 0.5 to just under 1, as 0.95.")


def time_limit(value: object) -> None:
    """Raise `InputError` unless `value` is ``None`` or a number of seconds."""
    if value is not None and _real("time_limit", value, "seconds, or None") < 0:
        raise InputError(f"time_limit is {value!r}; give seconds, 0 or more, or None for no limit.")


def positive(argument: str, value: object) -> None:
    """Raise `InputError` unless `value` is a finite number above 0."""
    if not 0 < _real(argument, value, "more than 0") < math.inf:
        raise InputError(f"{argument} is {value!r}; give a finite number above 0.")


def not_negative(argument: str, value: object) -> None:
    """Raise `InputError` unless `value` is a finite number of 0 or more."""
    if not 0 <= _real(argument, value, "0 or more") < math.inf:
        raise InputError(f"{argument} is {value!r}; give a finite number of 0 or more.")


def whole_number(argument: str, value: object, what: str) -> None:
    """Raise `InputError` unless `value` is an integer of 0 or more, which counts `what`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 0:
        raise InputError(f"{argument} is {value!r}; give {what}, an integer of 0 or more.")


def seed(value: object) -> None:
    """Raise `InputError` unless `value` is a seed that PyTorch and NumPy take."""
    whole_number("seed", value, "a seed")
    if value >= 2**63:  # type: ignore[operator]
        raise InputError("seed has more than 63 bits; give a smaller one.")


def _real(argument: str, value: object, what: str) -> float:
    """Return `value` as a float if it is a number, not NaN."""
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            raise InputError(f"{argument} has more than 300 digits; give {what}.") from None
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


def cache_folder(argument: str, value: object) -> None:
    """Raise `InputError` unless `value` is a truth value or a path."""
    if not isinstance(value, bool | str | os.PathLike):
        raise InputError(
            f"{argument} is {value!r}; give the path of a folder, True for the user's cache "
            "folder, or False."
        )


def pins(value: object) -> None:
    """Raise `InputError` unless `value` maps patterns of layer names to names of formats."""
    if value is not None and not (
        isinstance(value, Mapping)
        and all(isinstance(item, str) for pair in value.items() for item in pair)
    ):
        raise InputError(
            f"pin is {value!r}; give a dict of layer patterns and format names, such as "
            "{'fc': 'fp32'}."
        )
