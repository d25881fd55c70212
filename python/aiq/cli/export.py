"""``aiq export``: the model in the formats of a plan, as a file that runs without aiq."""

from pathlib import Path
from typing import Annotated

import typer

from aiq.cli.common import (
    LOADING,
    InputOption,
    JsonOption,
    ModelArgument,
    print_json,
    progress_bars,
    saving,
)
from aiq.cli.report import PlanArgument
from aiq.cli.spec import load_model
from aiq.deployment import FOLDER, check_file, runtime_of
from aiq.deployment import export as write
from aiq.plan import Plan


def export(
    plan: PlanArgument,
    model: ModelArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The file to write; its ending names the runtime: .onnx, .xml (OpenVINO) or .pt2; "
            "for a decoder .gguf, or a name without ending, which is a folder.",
        ),
    ],
    runtime: Annotated[
        str | None,
        typer.Option(help="openvino or onnxruntime, for a folder. Default: that of the plan."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Observe activations on this, as for `aiq search`.")
    ] = None,
    shape: InputOption = None,
    emulate: Annotated[
        bool, typer.Option("--emulate", help="Allow formats that the runtime can only emulate.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Write a model in the formats of a plan to a file that runs without aiq."""
    if output.suffix != FOLDER:
        check_file(output)
    found = Plan.load(plan)
    check_file(output, runtime_of(found, runtime))
    with saving(output), progress_bars() as progress:
        progress(LOADING, 0, 1)
        loaded = load_model(model, shape, data, needs_inputs=found.workload is None)
        progress(LOADING, 1, 1)
        write(
            found,
            loaded.module,
            output,
            data=loaded.data,
            example_inputs=loaded.example_inputs,
            emulate=emulate,
            runtime=runtime,
            progress=progress,
        )
    if json_:
        parts = [output, output.with_suffix(".bin")] if output.suffix == ".xml" else [output]
        parts = sorted(output.iterdir()) if output.is_dir() else parts
        print_json(
            {"files": [str(x) for x in parts], "bytes": sum(x.stat().st_size for x in parts)}
        )
