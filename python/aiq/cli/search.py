"""``aiq search``: a format for every layer."""

import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from aiq.calibrate import AUTO
from aiq.cli.common import (
    LOADING,
    BatchDimOption,
    CacheOption,
    HardwareOption,
    InputOption,
    JsonOption,
    ModelArgument,
    NoCacheOption,
    WorkersOption,
    completions,
    deliver,
    evaluations,
    out,
    progress_bars,
)
from aiq.cli.spec import load_metric, load_model, parse_pins
from aiq.errors import Interrupted
from aiq.files import check_target
from aiq.hardware import Hardware
from aiq.plan import Plan, show
from aiq.planning.options import SearchOptions
from aiq.planning.search import search as run_search


def _number(text: Any) -> Any:  # noqa: ANN401
    """Return a number as it is written: 1 is no 1.0; the search says what is wrong with others."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text) if isinstance(text, str) else text
    return text


def _search_options() -> list[inspect.Parameter]:
    """Return an option of the command line for every field of `SearchOptions` with a help text."""
    options = []
    for known in fields(SearchOptions):
        if "help" not in known.metadata:
            continue
        kind = known.metadata["kind"]
        number: dict[str, Any] = {"parser": _number, "metavar": kind.__name__.upper()}
        names = {"autocompletion": completions(known.metadata["names"])}
        option = typer.Option(
            f"--{known.name.replace('_', '-')}",
            help=known.metadata["help"],
            **({} if kind is bool else names if kind is str else number | names),
        )
        options.append(
            inspect.Parameter(
                known.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=known.default,
                annotation=Annotated[kind if known.default is not None else kind | None, option],
            )
        )
    return options


def _with_search_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a search in the place of its ``**options``."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    every = [*own, *_search_options()]
    command.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in every} | {"return": None}
    return command


@_with_search_options
def search(
    model: ModelArgument,
    *,
    hw: HardwareOption = "auto",
    data: Annotated[
        str | None,
        typer.Option(
            help="package.module:callable that returns batches of (inputs, targets), or 'sample' "
            "for the shipped Fashion-MNIST images.",
        ),
    ] = None,
    shape: InputOption = None,
    batch_dim: BatchDimOption = 0,
    pin: Annotated[
        list[str] | None, typer.Option(help="PATTERN=FORMAT for layers that are no decision.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Save the plan as JSON here.")
    ] = None,
    cache: CacheOption = None,
    no_cache: NoCacheOption = False,
    workers: WorkersOption = None,
    json_: JsonOption = False,
    **options: Any,  # noqa: ANN401 - those of SearchOptions
) -> None:
    """Choose a format for every layer of a model."""
    if output is not None:
        check_target(output)
    kept = evaluations(cache, no_cache=no_cache)
    metric = load_metric(options["metric"])
    options |= {"pin": parse_pins(pin or []), "cache": kept, "metric": metric}
    SearchOptions(**options).validate(None if hw == AUTO else Hardware.load(hw))
    try:
        with progress_bars() as progress:
            progress(LOADING, 0, 1)
            loaded = load_model(model, shape, data)
            progress(LOADING, 1, 1)
            plan = run_search(
                loaded.module,
                hw,
                loaded.data,
                example_inputs=loaded.example_inputs,
                batch_dim=batch_dim,
                executor=workers,
                progress=progress,
                **options,
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
        out.print(show.plan_table(plan))
