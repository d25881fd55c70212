"""What a search of a decoder takes: CPU seconds, memory, and both for shapes of seven billion."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from llm_setup import LENGTH, MENU, Setup
from transformers import LlamaConfig, LlamaForCausalLM

import aiq
from aiq import cost, solver
from aiq.formats import REFERENCE
from aiq.graph import Decode
from aiq.runtimes import placement

SEVEN_BILLION = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "use_cache": False,
}


def run(setup: Setup, ratio: float) -> dict[str, Any]:
    """Return the costs of two searches, each in a process of its own."""
    arguments = [
        str(setup.text),
        str(setup.searched),
        str(setup.threads),
        setup.hardware,
        str(ratio),
    ]
    found = {}
    for name in ("small", "large"):
        done = subprocess.run(
            [sys.executable, Path(__file__), name, *arguments],
            stdout=subprocess.PIPE,
            env=os.environ,
            text=True,
            check=True,
        )
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, found[name], flush=True)
    return {"smollm2_135m": found["small"], "shapes_of_7b": found["large"]}


def small(setup: Setup, ratio: float) -> dict[str, Any]:
    """Search SmolLM2-135M end to end."""
    model, batches = setup.model, setup.samples("searched")
    size = sum(p.nbytes for p in model.parameters())
    before, started, cpu = _peak(), time.perf_counter(), time.process_time()
    plan = aiq.search(
        model,
        setup.calibrated(),
        batches,
        runtime="llamacpp",
        sensitivity="fisher",
        max_perplexity_ratio=ratio,
        confidence=0.5,
        workload=aiq.Decode(),
        cache=False,
        progress=None,
    )
    return {
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - started,
        "model_bytes": size,
        "peak_bytes": _peak(),
        "peak_bytes_before": before,
        "peak_over_model": _peak() / size,
        "evaluations": plan.evaluations,
        "measured_perplexity_ratio": 2.718281828459045**plan.accuracy.drop,
    }


def large(setup: Setup) -> dict[str, Any]:
    """Make graph, cost table and plan for shapes of seven billion parameters without values."""
    stages, cpu = {}, time.process_time()

    def done(stage: str) -> None:
        nonlocal cpu
        stages[stage], cpu = time.process_time() - cpu, time.process_time()

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**SEVEN_BILLION)).eval()
        graph = aiq.extract(model, torch.ones(1, LENGTH, dtype=torch.int64))
    done("graph_seconds")
    columns = (REFERENCE, *MENU)
    writing = Decode().writing(graph, LENGTH)
    table = cost.time_table(writing, columns, setup.calibrated(), placement.GGUF)
    done("cost_seconds")
    noise = [[0.0 if f == REFERENCE else 4.0**-f.weight.bits for f in columns]] * len(table.layers)
    found = solver.solve(solver.Problem(table.cost, noise), max_drop=0.2)
    done("solve_seconds")
    return {**stages, "layers": len(graph.quantizable), "status": found.status}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(kind: str, text: str, searched: str, threads: str, hardware: str, ratio: str) -> None:
    """Run one search, and print what it took."""
    torch.set_num_threads(int(threads))
    setup = Setup(Path(text), int(searched), 1, int(threads), hardware)
    found = small(setup, float(ratio)) if kind == "small" else large(setup)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
