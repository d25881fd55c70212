"""The last part of a report: budget, solve, provenance, and commands that repeat the search."""

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiq.formats import WeightRounding
from aiq.report.scores import Words
from aiq.report.sentence import decoding, one_run
from aiq.text import count, duration

if TYPE_CHECKING:  # a plan shows itself through this room
    from aiq.plan import Plan


def workload(plan: "Plan") -> str:
    """Return how the plan is to run, as far as it knows: runtime, inputs, threads."""
    if plan.workload is not None:
        return str(plan.workload)
    known = plan.provenance
    runtime, batch = _words(known.get("runtime")), _words(known.get("batch"))
    return ", ".join(filter(None, [runtime, f"batch {batch}" if batch else ""]))


def fact_rows(plan: "Plan") -> list[tuple[str, str]]:
    """Return labels and values."""
    known, proof = plan.provenance, plan.proof
    found = [
        ("Objective", f"{plan.objective}, method {plan.method}"),
        ("Budget", _budget(plan)),
        ("Solve", _solve(plan)),
        ("Search", f"{plan.evaluations} evaluations, {duration(plan.seconds)}"),
        ("Formats", _words(known.get("formats"))),
        ("Sensitivity", _words(known.get("sensitivity"))),
        ("Workload", workload(plan)),
        ("Decoding, predicted", decoding(plan)),
        ("Model", plan.model),
        ("Structure", "" if plan.workload is None else f"hash {plan.workload.fingerprint}"),
        ("Cost model", plan.predicted.level),
        ("Hardware profile", plan.hardware),
        ("Machine", _machine(known.get("machine"))),
        ("Versions", _versions(known.get("machine"))),
        ("Seed", _words(known.get("seed"))),
    ]
    if proof.drop_budget is not None:
        words = f"{Words.of(known).drop(proof.drop_budget)} as the sum of single layers' drops"
        found.insert(3, ("Drop allowed in the solve", words))
    return [(label, value) for label, value in found if value]


def _budget(plan: "Plan") -> str:
    known, parts = plan.provenance, []
    if isinstance(known.get("max_drop"), int | float) and known.get("lam") is None:
        words = Words.of(known)
        parts.append(f"{words.dropped} at most {words.drop(known['max_drop'])}")
        if isinstance(known.get("confidence"), int | float):
            parts.append(f"with {100 * known['confidence']:g} % confidence where it is measured")
    if isinstance(known.get("lam"), int | float):
        parts.append(f"none; lambda {known['lam']:g} weighs intensity against accuracy")
    if isinstance(known.get("max_size"), int | float):
        parts.append(f"weights at most {count(known['max_size'])}B")
    if isinstance(known.get("max_seconds"), int | float):
        parts.append(f"at most {duration(known['max_seconds'])} {one_run(plan)} by prediction")
    if isinstance(known.get("min_intensity"), int | float):
        parts.append(f"at least {known['min_intensity']:g} FLOPs per byte")
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
        ("--input", _input(plan)),
        ("--batch-dim", _batch_dim(known)),
        ("--objective", plan.objective),
        ("--max-drop", known.get("max_drop")),
        ("--confidence", known.get("confidence")),
        ("--lam", known.get("lam")),
        ("--metric", _metric(known)),
        ("--formats", _words(known.get("formats")).replace(", ", ",")),
        ("--runtime", known.get("runtime")),
        ("--method", plan.method.split(",")[0]),
        ("--sensitivity", known.get("sensitivity")),
        ("--max-size", known.get("max_size")),
        ("--max-seconds", known.get("max_seconds")),
        ("--min-intensity", known.get("min_intensity")),
        ("--rounding", None if plan.rounding is WeightRounding.NEAREST else plan.rounding),
        ("--measure-top", known.get("measure_top") or None),
        ("--workload", _decode(known)),
        ("--seed", known.get("seed") or None),
    ]
    pins = known.get("pin")
    if isinstance(pins, Mapping):
        options += [("--pin", f"{pattern}={name}") for pattern, name in pins.items()]
    given = [f"{key} {shlex.quote(_words(value))}" for key, value in options if _words(value)]
    given += ["--frontier"] if known.get("frontier") is True else []
    compare = "aiq compare plan.json MODEL"
    if plan.workload is None:  # a newer plan knows the profile and the runtime itself
        runtime = known.get("runtime")
        compare += f" --hw {shlex.quote(plan.hardware)}"
        compare += f" --runtime {shlex.quote(str(runtime))}" if runtime else ""
    search = " ".join(["aiq search MODEL", *given, "-o plan.json"])
    if _decode(known):  # tokens are timed, and no layers
        return [search, compare, "aiq report plan.json -o report.html"]
    return [
        search,
        f"{compare} --layers --json > comparison.json",
        "aiq report plan.json --comparison comparison.json -o report.html",
    ]


def _metric(known: Mapping[str, Any]) -> str:
    """Return the metric as the command line takes it; nothing for the default one."""
    metric = Words.of(known).metric
    if metric == "top1":
        return ""
    return metric if metric in {"perplexity", "cosine"} else f"MODULE:{metric}"


def _decode(known: Mapping[str, Any]) -> str:
    """Return what a decoder does as the command line takes it; nothing for other models."""
    found = known.get("decode")
    if not isinstance(found, Mapping) or not {"prompt", "tokens"} <= found.keys():
        return ""
    return f"{found['prompt']}+{found['tokens']}"


def _batch_dim(known: Mapping[str, Any]) -> object:
    """Return the batch dimension as the command line takes it; nothing for the first."""
    found = known.get("batch_dim", 0)
    return "none" if found is None else found or None


def _input(plan: "Plan") -> str:
    """Return the inputs as the command line takes them, where they are one tensor."""
    if plan.workload is None or plan.workload.inputs.kind != "tensor":
        return ""
    inputs = plan.workload.inputs
    shape = "x".join(map(str, inputs.shape))
    return shape if inputs.dtype == "float32" else f"{shape}:{inputs.dtype}"
