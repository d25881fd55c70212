"""What stands at the end of a report: budget, solve, provenance, commands to repeat."""

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiq.text import count, duration, points

if TYPE_CHECKING:  # a plan shows itself through this room
    from aiq.plan import Plan


def facts(plan: "Plan") -> list[tuple[str, str]]:
    """Return labels and values."""
    known, proof = plan.provenance, plan.proof
    rows = [
        ("Objective", f"{plan.objective}, method {plan.method}"),
        ("Budget", _budget(known)),
        ("Solve", _solve(plan)),
        ("Search", f"{plan.evaluations} evaluations, {duration(plan.seconds)}"),
        ("Formats", _words(known.get("formats"))),
        ("Sensitivity", _words(known.get("sensitivity"))),
        ("Runtime", _words(known.get("runtime"))),
        ("Batch", _words(known.get("batch"))),
        ("Cost model", plan.predicted.level),
        ("Hardware profile", plan.hardware),
        ("Machine", _machine(known.get("machine"))),
        ("Versions", _versions(known.get("machine"))),
        ("Seed", _words(known.get("seed"))),
    ]
    if proof.drop_budget is not None:
        words = f"{points(proof.drop_budget)} as the sum of single layers' drops"
        rows.insert(3, ("Drop allowed in the solve", words))
    return [(label, value) for label, value in rows if value]


def _budget(known: Mapping[str, Any]) -> str:
    parts = []
    if isinstance(known.get("max_drop"), int | float) and known.get("lam") is None:
        parts.append(f"accuracy drop at most {points(known['max_drop'])}")
        if isinstance(known.get("confidence"), int | float):
            parts.append(f"with {100 * known['confidence']:g} % confidence where it is measured")
    if isinstance(known.get("lam"), int | float):
        parts.append(f"none; lambda {known['lam']:g} weighs intensity against accuracy")
    if isinstance(known.get("max_size"), int | float):
        parts.append(f"weights at most {count(known['max_size'])}B")
    return ", ".join(parts)


def _solve(plan: "Plan") -> str:
    proof = plan.proof
    if proof.bound is None or proof.gap is None:
        return f"{proof.status}, without a bound"
    gap = f"gap {100 * proof.gap:.3g} %"
    return f"{proof.status}, {gap}, {proof.nodes} nodes, {duration(proof.seconds)}"


def _machine(found: object) -> str:
    if not isinstance(found, Mapping):
        return ""
    cores, isa = found.get("cores"), found.get("isa")
    words = [str(found.get("cpu", "")), f"{cores} cores" if cores else ""]
    words.append(_words(isa))
    return ", ".join(word for word in words if word)


def _versions(found: object) -> str:
    packages = found.get("packages") if isinstance(found, Mapping) else None
    if not isinstance(packages, Mapping):
        return ""
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _words(value: object) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def commands(plan: "Plan") -> list[str]:
    """Return what to type to search, compare and report again; MODEL and DATA are the user's."""
    known = plan.provenance
    options: list[tuple[str, object]] = [
        ("--hw", plan.hardware),
        ("--data", "DATA" if plan.accuracy is not None else None),
        ("--objective", plan.objective),
        ("--max-drop", known.get("max_drop")),
        ("--confidence", known.get("confidence")),
        ("--lam", known.get("lam")),
        ("--formats", ",".join(map(str, known.get("formats") or ()))),
        ("--runtime", known.get("runtime")),
        ("--method", plan.method.split(",")[0]),
        ("--max-size", known.get("max_size")),
        ("--measure-top", known.get("measure_top") or None),
    ]
    pins = known.get("pin")
    if isinstance(pins, Mapping):
        options += [("--pin", f"{pattern}={name}") for pattern, name in pins.items()]
    given = [f"{key} {shlex.quote(str(v))}" for key, v in options if v not in {None, ""}]
    runtime = known.get("runtime")
    runs = f" --runtime {shlex.quote(str(runtime))}" if runtime else ""
    hw = shlex.quote(plan.hardware)
    return [
        " ".join(["aiq search MODEL", *given, "-o plan.json"]),
        f"aiq compare plan.json MODEL --hw {hw}{runs} --layers --json > comparison.json",
        "aiq report plan.json --comparison comparison.json -o report.html",
    ]
