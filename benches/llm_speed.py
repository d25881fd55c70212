"""Decode speed at equal divergence, and predicted against measured times of a decoder."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import common
import llm_rule
import llm_times
import numpy as np
from llm_setup import FOLDER, LENGTH, MENU, Setup
from rich.table import Table

from aiq import cost
from aiq.cost import CostTable
from aiq.formats import REFERENCE
from aiq.gguf.llamacpp import LlamaCpp
from aiq.graph import Decode
from aiq.runtimes import placement

WITHIN = 0.05
ATTEMPTS = 6
CONTEXT = 64


def costs(setup: Setup, decode: Decode) -> CostTable:
    """Return the predicted time of a token, by layer and format."""
    graph = decode.writing(setup.traced.graph, LENGTH)
    return cost.time_table(graph, (REFERENCE, *MENU), setup.calibrated(), placement.GGUF)


def write_equal(setup: Setup) -> None:
    """Write the plan of least time that diverges like the rule's file, and files beside it.

    The plan is judged on other samples than those by which drops are estimated and weights rounded:
    weights rounded by data fit those samples better than any others. The files' divergence and
    predicted times are kept in a file of their own, and files of one format are written once: all
    this takes minutes of work on any machine, and the timings then take minutes on a quiet one.
    """
    table = costs(setup, Decode())
    seconds = table.cost[:, 1:] / table.per_unit
    rule = FOLDER / "Q4_K_M.gguf"
    llm_rule.write(setup.model, setup.traced, setup.decoder.tokenizer, rule)
    judges = setup.samples("judged")
    target = setup.quality({"rule": rule}, judges)["rule"]["kl"]
    limit, low, high = target, 0.0, np.inf
    for _ in range(ATTEMPTS):
        formats = setup.within_drop(seconds, limit)
        predicted_drop = setup.drops.predict(formats)
        file = setup.write("plan of least time", formats)
        ratio = setup.quality({"plan": file}, judges)["plan"]["kl"] / target
        print(f"predicted drop {predicted_drop:.4f}: divergence {ratio:.3f} of that of Q4_K_M")
        if 1 - WITHIN <= ratio <= 1:
            break
        low, high = (limit, high) if ratio < 1 else (low, predicted_drop)
        limit = predicted_drop / ratio
        if not low < limit < high:
            limit = (low + high) / 2 if np.isfinite(high) else 2 * low
    files = {"Q4_K_M": rule, "plan": file}
    predicted = {"plan": table.total(formats)}
    for fmt in MENU:
        files[fmt.name] = setup.path(fmt.name)
        if not files[fmt.name].exists():
            setup.write(fmt.name, setup.uniform(fmt))
        predicted[fmt.name] = table.total(setup.uniform(fmt))
    quality = setup.quality(files, setup.samples("held out"))
    rows = {
        name: quality[name] | {"file": str(path), "predicted_seconds": predicted.get(name)}
        for name, path in files.items()
    }
    _kept(setup).write_text(json.dumps(rows, indent=1))


def _kept(setup: Setup) -> Path:
    return FOLDER / f"equal-{setup.rounding}.json"


def speed(setup: Setup, tokens: int, rounds: int) -> dict[str, Any]:
    """Return speed and quality of the plan of least time that diverges like the rule's file."""
    if not _kept(setup).exists():
        write_equal(setup)
    rows = json.loads(_kept(setup).read_text())
    files = {name: Path(row.pop("file")) for name, row in rows.items()}
    times = timed(files, setup.threads, (16, 512), tokens, rounds)
    show = Table("file", "KL", "perplexity ratio", "predicted ms", "ms after 16", "ms after 512")
    for name, row in rows.items():
        row["token_seconds"] = times[name]
        guess = "" if row["predicted_seconds"] is None else f"{1e3 * row['predicted_seconds']:.3g}"
        measured = (f"{1e3 * s:.4g}" for s in row["token_seconds"].values())
        show.add_row(name, f"{row['kl']:.4f}", f"{row['perplexity_ratio']:.3f}", guess, *measured)
    common.console.print(show)
    faster = {
        name: {n: times[name][n] / times["plan"][n] for n in times[name]}
        for name in files
        if name != "plan"
    }
    return {
        "files": rows,
        "kl_over_Q4_K_M": rows["plan"]["kl"] / rows["Q4_K_M"]["kl"],
        "speedup_of_the_plan_over": faster,
    }


def timed(
    files: Mapping[str, Path],
    threads: int,
    contexts: tuple[int, ...],
    tokens: int,
    rounds: int,
) -> dict[str, dict[int, float]]:
    """Return the least seconds of a token of each file after each context; files take turns."""
    found: dict[str, dict[int, float]] = {name: {} for name in files}
    with ExitStack() as stack:
        size = max(contexts) + tokens + 1
        opened = {
            name: stack.enter_context(LlamaCpp(path, size, threads)) for name, path in files.items()
        }
        for turn in range(rounds):
            print(f"round {turn + 1} of {rounds}", flush=True)
            for name, program in opened.items():
                for length in contexts:
                    run = program.run([1 + i % 64 for i in range(length)], tokens)
                    found[name][length] = min(found[name].get(length, np.inf), run.token)
    return found


def prediction(setup: Setup, tokens: int, rounds: int) -> dict[str, Any]:
    """Return errors of predicted decode times: all uniform files, and random mixes."""
    table = costs(setup, Decode(prompt=CONTEXT, tokens=tokens))
    plans = llm_times.plans(setup.elements, MENU)
    files = {name: setup.write(name, formats, named=False) for name, formats in plans.items()}
    times = timed(files, setup.threads, (CONTEXT,), tokens, rounds)
    result = llm_times.compared(
        "llama.cpp",
        plans,
        [table.total(formats) for formats in plans.values()],
        [times[name][CONTEXT] for name in plans],
        [setup.bytes(formats) for formats in plans.values()],
        1e9 * setup.calibrated().memory[-1].read_gbps,
    )
    for path in files.values():
        path.unlink()
    return result
