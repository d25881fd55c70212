"""JSON whose values are checked against declared types when it is read and written.

Types are dataclasses, or other types of ``msgspec``, with bounds such as
``Annotated[float, Meta(ge=0)]``. Wrong types and missing keys are refused, as are unknown and
repeated keys, NaN and infinities, numbers with too many digits, nesting that is too deep, and text
that is not UTF-8.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import msgspec
from msgspec import Meta

from aiq import files
from aiq.errors import InputError, printable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
Older = Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]

# Characters that are invisible, or that change the cursor or the reading direction.
_UNSEEN = r"\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
Text = Annotated[str, Meta(max_length=4000, pattern=rf"^[^{_UNSEEN}]*\Z")]
"""Text on one line."""
Name = Annotated[str, Meta(min_length=1, max_length=4000, pattern=rf"^[^{_UNSEEN}]*\Z")]
"""Text on one line, not empty."""
Count = Annotated[int, Meta(ge=0, le=2**62)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]

LIMIT = 64 * 2**20
"""Default of the largest size of a document in bytes."""
_NUMBERS = re.compile(r"\[\n[\s\d.,eE+-]*\]")
"""A list of numbers with one on each line, which is written on a single line instead."""
MAX_DEPTH = 64
"""Largest depth of nesting."""
MAX_DIGITS = 100
"""Largest number of digits of an integer; declared types have smaller limits."""


def read_json(
    path: str | Path,
    kind: type[T],
    *,
    what: str,
    advice: str,
    schema: str | None = None,
    older: Older | None = None,
    limit: int = LIMIT,
) -> T:
    """Return the value in a JSON file.

    Parameters
    ----------
    path
        Path of the file.
    kind
        Type of the value.
    what, advice
        Words of the error message that say what the file should be and what to do, such as
        ``"a plan"`` and ``"give a file that Plan.save wrote"``.
    schema
        Value of the document's key ``schema``, which is not a field of `kind`; ``None`` if there is
        no such key.
    older
        Older schema -> function that converts a document of that schema to one of `schema`.
    limit
        Largest size of the file in bytes.

    Raises
    ------
    InputError
        If the file cannot be read or does not contain such a value. The message names the place in
        the document.
    """
    text = files.read_text(path, limit, advice)
    return parse_json(
        text, kind, file=str(path), what=what, advice=advice, schema=schema, older=older
    )


def parse_json(
    text: str | bytes,
    kind: type[T],
    *,
    file: str,
    what: str,
    advice: str,
    schema: str | None = None,
    older: Older | None = None,
) -> T:
    """Return the value in a JSON text.

    `file` is its name in the error message. The other parameters are those of `read_json`.

    Raises
    ------
    InputError
        If the text does not contain such a value.
    """
    try:
        raw = text.encode() if isinstance(text, str) else text
        found = None if schema is None else _schema(raw, schema, older or {})
        upgrade = (older or {}).get(found or "")
        if upgrade is None:
            value = msgspec.json.decode(raw, type=kind)
        document = json.loads(raw, object_pairs_hook=_unique, parse_int=_short, parse_float=_finite)
        if schema is not None:
            del document["schema"]
        if upgrade is not None:
            document = upgrade(document)
            value = msgspec.json.decode(json.dumps(document), type=kind)
        _compare(document, msgspec.to_builtins(value, str_keys=True))
    except RecursionError:
        problem = "it is nested too deeply"
    except (ValueError, msgspec.MsgspecError) as error:
        problem = _located(error)
    else:
        return value
    raise InputError(f"{printable(file, 200)} is not {what} ({printable(problem, 200)}); {advice}.")


def renamed(document: Any, names: Mapping[str, str]) -> Any:  # noqa: ANN401
    """Return a JSON object with keys renamed, or as it is if it has one of the new names."""
    if not isinstance(document, dict) or not document.keys().isdisjoint(names.values()):
        return document
    return {names.get(key, key): value for key, value in document.items()}


def dump_json(
    value: "DataclassInstance", what: str, schema: str | None = None, indent: int | None = 1
) -> str:
    """Return a dataclass as JSON text, from which `parse_json` makes an equal one.

    Fields that are declared as floats are written as floats even if they contain integers, so that
    reading and writing does not change the text. `what` is the value's name in an error message.

    Raises
    ------
    InputError
        If the value does not have its declared type, for instance because a number is NaN.
    """
    head = {} if schema is None else {"schema": schema}
    try:
        raw = json.dumps(asdict(value), allow_nan=False)
        json.loads(raw, parse_int=_short)
        checked = msgspec.json.decode(raw, type=type(value))
        text = json.dumps(head | asdict(checked), indent=indent, allow_nan=False) + "\n"
        return _NUMBERS.sub(lambda found: "[" + " ".join(found[0][1:-1].split()) + "]", text)
    except RecursionError:
        problem = "it is nested too deeply"
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        problem = _located(error)
    raise InputError(
        f"The value to be written is not {what} ({printable(problem, 200)}); correct that value."
    )


def _schema(raw: bytes, schema: str, older: Older) -> str:
    """Return the schema of a document, which must be `schema` or one of `older`."""
    found = msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).get("schema")
    name = None if found is None else msgspec.json.decode(found)
    if not isinstance(name, str) or name not in {schema, *older}:
        raise ValueError(f"its key schema is not {schema}")
    return name


def _located(error: Exception) -> str:
    """Return the message of an error, with a readable place in the document."""
    text = re.sub(r"[.]? - at `\$[.]?", " at `", str(error))
    return text.removesuffix(".")


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it repeats the key {key!a}")
        found[key] = value
    return found


def _short(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"it has a number of more than {MAX_DIGITS} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value in {float("inf"), float("-inf")}:
        raise ValueError(f"the number {text} is too large")
    return value


def _compare(document: object, value: object, path: str = "", depth: int = 0) -> None:
    """Refuse keys of `document` that are not in `value`, and nesting that is too deep."""
    if depth > MAX_DEPTH:
        _refuse(f"it is nested more than {MAX_DEPTH} deep", path)
    match document, value:
        case dict(), dict():
            for key, item in document.items():
                if key not in value:
                    _refuse(f"the key {key!a} is unknown", path)
                _compare(item, value[key], f"{path}.{key}", depth + 1)
        case list(), list() | tuple():
            for index, (item, part) in enumerate(zip(document, value, strict=True)):
                _compare(item, part, f"{path}[{index}]", depth + 1)


def _refuse(problem: str, path: str) -> NoReturn:
    raise ValueError(f"{problem} at `{path.removeprefix('.')}`" if path else problem)
