"""The tables that `benches/throughput.py` prints and keeps."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from aiq import measure

PLAN, EAGER = "plan", "eager fp32"


def brief(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a row that the tables show."""
    candidates, accuracy = row["candidates"], row["candidates"][PLAN]["accuracy"]
    kinds = list(row["formats"].values())
    eager = row["eager"]
    return {
        "speedup": {name: found["speedup"] for name, found in candidates.items() if name != "fp32"},
        "predicted_speedup": candidates["fp32"]["predicted_seconds"]
        / candidates[PLAN]["predicted_seconds"],
        "plan_against_best": row["plan_against_best"],
        "verdict_against_best": row["verdict_against_best"],
        "plan_against_eager": None if eager is None else eager["plan_speedup"],
        "noise": row["noise"],
        "layers": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "mismatches": len(candidates[PLAN]["mismatches"]),
        "accuracy": accuracy,
    }


def report(done: Mapping[str, Any]) -> Table:
    """Return the rows as a table."""
    columns = "row,candidate,/s,x fp32,predicted,x best uniform,drop (95 %),layers,not as planned"
    table = Table(*columns.split(","))
    for key, result in done.items():
        base = result["candidates"]["fp32"]["predicted_seconds"]
        for name, found in result["candidates"].items():
            against, accuracy = result["plan_against_best"], found["accuracy"]
            kinds = list(result["formats"].values())
            table.add_row(
                key if name == "fp32" else "",
                name,
                f"{found['images_per_second']:.1f}",
                span(found["speedup"]),
                f"{base / found['predicted_seconds']:.2f}",
                f"{span(against)} {result['verdict_against_best']}" if name == PLAN else "",
                "" if accuracy is None else drop(accuracy),
                ", ".join(f"{kinds.count(k)} {k}" for k in sorted(set(kinds)))
                if name == PLAN
                else "",
                str(len(found["mismatches"]) or ""),
            )
    return table


def summary(done: Mapping[str, Any]) -> str:
    """Return how often the plan is faster, slower or neither, and its speed-up in MobileNetV2."""
    verdicts = [result["verdict_against_best"] for result in done.values()]
    lines = [f"{len(done)} rows; against the best uniform precision the plan is:"]
    lines += [f"  {word}: {verdicts.count(word)}" for word in measure.Verdict]
    for key, result in done.items():
        if key.startswith("mobilenet_v2/128/"):
            own, eager = result["candidates"][PLAN]["speedup"], result["eager"]["plan_speedup"]
            lines.append(f"  {key}: {span(own)}x its float32, {span(eager)}x eager float32")
    return "\n".join(lines)


def drop(accuracy: Mapping[str, float]) -> str:
    """Return an accuracy drop and its upper limit in percentage points, for reading."""
    return f"{100 * accuracy['drop']:.2f} (<= {100 * accuracy['drop_limit']:.2f}) pp"


def span(interval: Mapping[str, float]) -> str:
    """Return an interval for reading."""
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
