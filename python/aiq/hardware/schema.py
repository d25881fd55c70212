"""The rules for profiles: a JSON Schema, and the rules that JSON Schema cannot express."""

import datetime
import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match

from aiq.errors import HardwareError
from aiq.formats import parse as parse_format
from aiq.hardware import library, plausible
from aiq.hardware.sections import prices_tokens
from aiq.hardware.strictyaml import quoted

Document = Mapping[str, Any]

_ABOVE_SPEC = 1.05
"""Largest ratio of a measured number to its specification; above it, one of them is wrong."""
_FORMULA = 0.01
"""Largest relative error of a formula, because data sheets round."""


def check_document(document: Any, file: str) -> None:  # noqa: ANN401 - whatever the file holds
    """Check that `document` is a profile; errors call it `file`.

    Raises
    ------
    HardwareError
        If it is not; one sentence names the file, the key, what was found and what is expected.
    """
    failure = best_match(_validator().iter_errors(document), key=lambda e: -len(e.absolute_path))
    problem = next(_problems(document), None) if failure is None else _explain(failure)
    if problem is not None:
        raise HardwareError(f"{file}: {problem}")


def product(formula: str) -> float:
    """Return the product of the numbers in a formula like ``96 cores x 2.4 GHz x 32 FLOP/cycle``.

    The units are for the reader and are not interpreted.
    """
    return math.prod(map(float, re.findall(r"(?:^| x )([0-9.]+)", formula)))


def _problems(document: Document) -> Iterator[str]:
    yield from _dates(document)
    yield from _hierarchy(document["memory"])
    for dtype, peak in document["compute"].items():
        yield from _specification(f"compute.{dtype}", peak, "gflops", "peak_gflops")
    for index, level in enumerate(document["memory"]):
        yield from _specification(f"memory.{index}", level, "gbps", "read_gbps")
    for name, runtime in document.get("runtimes", {}).items():
        yield from _dtypes(f"runtimes.{name}", runtime, document["compute"])
        yield from _spans(f"runtimes.{name}", runtime)
        yield from _products(f"runtimes.{name}", runtime, prices_tokens(name))
    yield from plausible.problems(document)


def _dates(document: Document) -> Iterator[str]:
    date = document["provenance"]["date"]
    try:
        datetime.date.fromisoformat(date)
    except ValueError:
        yield f"provenance.date is {quoted(date)}, expected a day of the calendar like 2026-11-21."


def _hierarchy(memory: list[Document]) -> Iterator[str]:
    """Yield what is wrong with levels that do not get larger and slower from near to far."""
    names = [level["level"] for level in memory]
    for index, (near, far) in enumerate(pairwise(memory)):
        if near["level"] in names[index + 1 :]:
            yield f"memory.{index}.level {quoted(near['level'])} occurs twice, expected it once."
        if near["size_kib"] >= far["size_kib"]:
            yield (
                f"memory.{index}.size_kib is {near['size_kib']:g} ({near['level']}), expected less "
                f"than the {far['size_kib']:g} of the level after it ({far['level']})."
            )
        if near["read_gbps"] < far["read_gbps"]:
            yield (
                f"memory.{index}.read_gbps is {near['read_gbps']:g} ({near['level']}), expected at "
                f"least the {far['read_gbps']:g} of the level after it ({far['level']})."
            )


def _specification(key: str, entry: Document, unit: str, measured: str) -> Iterator[str]:
    """Yield numbers above their specification, and formulas that do not give their number."""
    spec = entry.get(f"spec_{unit}", math.inf)
    if entry[measured] > _ABOVE_SPEC * spec:
        yield (
            f"{key}.{measured} is {entry[measured]:g}, expected at most the {spec:g} of "
            f"spec_{unit} (and 5 % of noise)."
        )
    if "formula" in entry:
        name = f"spec_{unit}" if f"spec_{unit}" in entry else measured
        value = product(entry["formula"])
        if not math.isclose(value, entry[name], rel_tol=_FORMULA):
            yield (
                f"{key}.formula {quoted(entry['formula'])} comes to {value:g}, expected the "
                f"{entry[name]:g} of {name}."
            )


def _dtypes(key: str, runtime: Document, compute: Document) -> Iterator[str]:
    """Yield dtypes in which a kernel computes but that have no peak."""
    used = {f"kernels.{op}.{d}": d for op, kernels in runtime["kernels"].items() for d in kernels}
    for name, entry in runtime["formats"].items():
        if entry["support"] != "none":
            used[f"formats.{name}"] = parse_format(entry["runs_as"]).compute.name
    for where, dtype in used.items():
        if dtype not in compute:
            yield (
                f"{key}.{where} computes in {dtype}, expected a peak for it; add "
                f"compute.{dtype}.peak_gflops."
            )


def _spans(key: str, runtime: Document) -> Iterator[str]:
    for op, kernels in runtime["kernels"].items():
        for dtype, kernel in kernels.items():
            for name, (low, high) in kernel.get("correction", {}).get("range", {}).items():
                if low > high:
                    yield (
                        f"{key}.kernels.{op}.{dtype}.correction.range.{name} is [{low:g}, "
                        f"{high:g}], expected the lower value first."
                    )


def _products(key: str, runtime: Document, is_for_decoders: bool) -> Iterator[str]:
    """Yield what is wrong with measured products and attention.

    Decoders have no other times, so that a format or attention without them would take none.
    """
    measured = {f"products.{name}": found for name, found in runtime.get("products", {}).items()}
    if "attention" in runtime:
        measured["attention"] = runtime["attention"]
    for name in ("products.fp32", "attention") if is_for_decoders else ():
        if name not in measured:
            yield f"key {key}.{name} is missing; add it, or calibrate again."
    for name, found in measured.items():
        rows = [entry["rows"] for entry in found]
        if len({*rows}) < len(rows) or (is_for_decoders and 1 not in rows):
            once = "1 and other numbers, each once" if is_for_decoders else "each number once"
            yield f"{key}.{name} has the rows {', '.join(map(str, rows))}, expected {once}."
        for index, entry in enumerate(found):
            sizes = [rate["elements"] for rate in entry["rates"]]
            if len({*sizes}) < len(sizes):
                yield f"{key}.{name}.{index}.rates has elements twice, expected each number once."


@cache
def _validator() -> Draft202012Validator:
    text = (library.builtin_folder() / "schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))


def _explain(failure: ValidationError) -> str:
    """Return one sentence for a broken rule: the key, what was found and what is expected."""
    path = [_word(part) for part in failure.absolute_path]
    rule: Any = failure.validator_value
    schema: Any = failure.schema
    instance: Any = failure.instance
    match failure.validator:
        case "required":
            missing = next(key for key in rule if key not in instance)
            return f"key {'.'.join([*path, missing])} is missing; add it."
        case "additionalProperties":
            known = schema["properties"]
            extra = next(key for key in instance if key not in known)
            names = ", ".join(known)
            return f"key {'.'.join([*path, _word(extra)])} is unknown, expected one of {names}."
    expected = {
        "type": _TYPES.get(str(rule), f"of type {rule}"),
        "const": f"{rule!r}",
        "enum": f"one of {rule}",
        "exclusiveMinimum": f"greater than {rule}",
        "minimum": f"at least {rule}",
        "maximum": f"at most {rule}",
        "pattern": schema.get("description", f"text that matches {rule!a}"),
        "minItems": f"at least {rule} entries",
        "maxItems": f"at most {rule} entries",
        "minProperties": f"at least {rule} keys",
        "maxProperties": f"at most {rule} keys",
        "minLength": f"at least {rule} characters",
        "maxLength": f"at most {rule} characters",
    }.get(str(failure.validator), f"what {failure.validator} {rule} asks")
    return f"{'.'.join(path) or 'the document'} is {_found(instance)}, expected {expected}."


_TYPES = {
    "number": "a number, without a unit",
    "integer": "a whole number",
    "string": "text (in quotes, if it has a colon)",
    "array": "a list",
    "object": "keys with values",
}


def _found(instance: Any) -> str:  # noqa: ANN401
    text = json.dumps(instance)
    return text if len(text) <= 60 else text[:57] + "..."


def _word(key: object) -> str:
    """Return a key as it is if it is a plain word, else quoted and cut."""
    text = str(key)
    return text if re.fullmatch(r"[\w.-]{1,60}", text) else quoted(text)
