"""Decode times of folders in OpenVINO and ONNX Runtime, measured beside predicted."""

import gc
from pathlib import Path
from typing import Any

import llm_times
from llm_setup import FOLDER, LENGTH, Setup

from aiq import cost
from aiq.formats import REFERENCE, parse_all
from aiq.generative.program import Generator
from aiq.generative.variants import write_variants
from aiq.graph import Decode
from aiq.hardware.sections import section

MENU = parse_all("w4,w4g32,w4g64,w4g32z,w8,w8g32")
CONTEXTS = (64, 512)


def write(setup: Setup, runtime: str) -> None:
    """Write a folder of each plan for a runtime."""
    plans = llm_times.plans(setup.elements, MENU, also=(REFERENCE,))
    write_variants(setup.model, _place(runtime), plans, setup.traced, runtime=runtime)
    print(f"{len(plans)} folders are in {_place(runtime)}", flush=True)


def _place(runtime: str) -> Path:
    return FOLDER / "folders" / runtime


def prediction(setup: Setup, runtime: str, tokens: int, rounds: int) -> dict[str, Any]:
    """Return errors of predicted decode times in a runtime, by tokens in the cache."""
    plans = llm_times.plans(setup.elements, MENU, also=(REFERENCE,))
    hardware, priced = setup.calibrated(), section(runtime, decodes=True)
    times = _timed(runtime, plans, setup.threads, tokens, rounds)
    found = {}
    for context in CONTEXTS:
        graph = Decode(context, tokens).writing(setup.traced.graph, LENGTH)
        table = cost.time_table(graph, (REFERENCE, *MENU), hardware, priced)
        found[f"after {context}"] = llm_times.compared(
            f"{runtime}, after {context} tokens",
            plans,
            [table.total(formats) for formats in plans.values()],
            [times[name][context] for name in plans],
            [setup.bytes(formats, priced) for formats in plans.values()],
            1e9 * hardware.memory[-1].read_gbps,
        )
    return found


def _timed(
    runtime: str, plans: llm_times.Plans, threads: int, tokens: int, rounds: int
) -> dict[str, dict[int, float]]:
    """Return the least seconds of a token of each plan after each context; plans take turns.

    A program is opened anew in each round, because all of them would not fit into memory.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in plans}
    for turn in range(rounds):
        print(f"{runtime}: round {turn + 1} of {rounds}", flush=True)
        for name, least in found.items():
            program = Generator(_place(runtime) / name, threads)
            program.run([1], 2)  # memory is allocated in the first runs
            # A long context takes seconds to read.
            for length in CONTEXTS if turn % 2 == 0 else CONTEXTS[:1]:
                run = program.run([1 + i % 64 for i in range(length)], tokens)
                least[length] = min(least.get(length, run.token), run.token)
            del program
            gc.collect()
    return found
