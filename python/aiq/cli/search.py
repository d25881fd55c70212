"""``aiq search``: a format for every layer."""

import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from aiq.cli.common import (
    BatchDimOption,
    CacheOption,
    HardwareOption,
    InputOption,
    JsonOption,
    ModelArgument,
    deliver,
    evaluations,
    out,
    progress_bars,
)
from aiq.cli.spec import load_data, load_model, parse_pins
from aiq.errors import Interrupted
from aiq.files import check_target
from aiq.plan import Plan, show
from aiq.planning.search import search as run_search


def _number(text: Any) -> Any:  # noqa: ANN401
    """Return a number as it is written: 1 is no 1.0; the search says what is wrong with others."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text) if isinstance(text, str) else text
    return text


def search(
    model: ModelArgument,
    hw: HardwareOption = "xeon_2vcpu",
    data: Annotated[
        str | None,
        typer.Option(
            help="package.module:callable that returns batches of (inputs, targets), or 'sample' "
            "for the shipped Fashion-MNIST images.",
        ),
    ] = None,
    shape: InputOption = None,
    objective: Annotated[
        str, typer.Option(help="throughput, intensity, or weighted (the paper's).")
    ] = "throughput",
    batch_dim: BatchDimOption = 0,
    max_drop: Annotated[
        float,
        typer.Option(parser=_number, metavar="FLOAT", help="Largest accuracy drop: 0.01 is 1 pp."),
    ] = 0.01,
    confidence: Annotated[
        float, typer.Option(help="With which the plan must keep to --max-drop.")
    ] = 0.95,
    lam: Annotated[float, typer.Option(help="Weight of the intensity in `weighted`.")] = 0.9,
    formats: Annotated[
        str | None, typer.Option(help="Formats to choose from, e.g. fp32,bf16,w8a8.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="What will execute the plan.")] = "inductor",
    method: Annotated[
        str, typer.Option(help="exact, greedy, coordinate, or exhaustive.")
    ] = "exact",
    pin: Annotated[
        list[str] | None, typer.Option(help="PATTERN=FORMAT for layers that are no decision.")
    ] = None,
    max_size: Annotated[int | None, typer.Option(help="Most bytes of all weights.")] = None,
    measure_top: Annotated[
        int,
        typer.Option(help="Plans to time beside the uniform ones; the fastest is returned."),
    ] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Save the plan as JSON here.")
    ] = None,
    cache: CacheOption = None,
    json_: JsonOption = False,
) -> None:
    """Choose a format for every layer of a model."""
    if output is not None:
        check_target(output)
    loaded = load_model(model, shape)
    try:
        with progress_bars() as progress:
            plan = run_search(
                loaded.module,
                hw,
                None if data is None else load_data(data),
                example_inputs=loaded.example_inputs,
                batch_dim=batch_dim,
                objective=objective,
                max_drop=max_drop,
                confidence=confidence,
                lam=lam,
                formats=formats,
                runtime=runtime,
                method=method,
                pin=parse_pins(pin or []),
                max_size=max_size,
                measure_top=measure_top,
                cache_dir=None if data is None else evaluations(cache),
                progress=progress,
            )
    except Interrupted as stop:
        if isinstance(stop.plan, Plan):
            _show(stop.plan, json_)
        raise
    deliver(partial(_show, plan, json_), plan.save, output)


def _show(plan: Plan, json_: bool) -> None:
    if json_:
        sys.stdout.write(plan.to_json())
    else:
        out.print(show.plan(plan))
