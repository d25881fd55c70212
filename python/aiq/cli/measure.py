"""``aiq compare``: predictions beside the stopwatch."""

from pathlib import Path
from typing import Annotated

import typer

from aiq.cli.common import (
    HardwareOption,
    InputOption,
    JsonOption,
    ModelArgument,
    out,
    print_json,
    progress_bars,
)
from aiq.deploy import compare as run_comparison
from aiq.plan import Plan
from aiq.report import tables
from aiq.spec import load_model


def compare(
    plan: Annotated[Path, typer.Argument(help="A plan that `aiq search -o` wrote.")],
    model: ModelArgument,
    hw: HardwareOption = "xeon_2vcpu",
    shape: InputOption = None,
    runtime: Annotated[str, typer.Option(help="What executes the plan.")] = "inductor",
    seconds: Annotated[float, typer.Option(help="Length of the timing.")] = 5.0,
    json_: JsonOption = False,
) -> None:
    """Time a plan against float32 on this machine, and set the prediction beside."""
    loaded = load_model(model, shape)
    with progress_bars() as progress:
        result = run_comparison(
            Plan.load(plan),
            loaded.module,
            hw,
            example_inputs=loaded.example_inputs,
            calibration=[loaded.example_inputs],
            runtime=runtime,
            min_seconds=seconds,
            progress=progress,
        )
    if json_:
        print_json(result.to_dict())
    else:
        out.print(tables.throughput(result))
