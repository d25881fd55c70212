"""``aiq graph`` and ``aiq sensitivity``: what a model is made of, and what its layers bear."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from aiq import graph as graphs
from aiq import sensitivity as sensitivities
from aiq.cli import tables
from aiq.cli.common import (
    LOADING,
    BatchDimOption,
    CacheOption,
    InputOption,
    JsonOption,
    ModelArgument,
    NoCacheOption,
    WorkersOption,
    deliver,
    evaluations,
    out,
    print_json,
    progress_bars,
)
from aiq.cli.spec import load_data, load_model
from aiq.errors import Interrupted
from aiq.evaluate import Evaluator
from aiq.evaluate.executor import opened
from aiq.files import check_target
from aiq.formats import parse_all
from aiq.planning.options import SearchOptions


def graph(
    model: ModelArgument,
    shape: InputOption = None,
    data: Annotated[
        str | None, typer.Option(help="Takes the inputs from its first batch, as `aiq search`.")
    ] = None,
    batch_dim: BatchDimOption = 0,
    json_: JsonOption = False,
) -> None:
    """Show the layers of a model: work, sizes, what fuses into what."""
    with progress_bars() as progress:
        progress(LOADING, 0, 1)
        loaded = load_model(model, shape, data)
        progress(LOADING, 1, 1)
        progress("export the model", 0, 1)
        result = graphs.extract(loaded.module, loaded.inputs, batch_dim)
        progress("export the model", 1, 1)
    if json_:
        print_json(asdict(result))
    else:
        out.print(tables.layers(result))


def sensitivity(
    model: ModelArgument,
    data: Annotated[str, typer.Option(help="As for `aiq search`.")] = "sample",
    batch_dim: BatchDimOption = 0,
    formats: Annotated[str, typer.Option(help="Formats to measure.")] = "w8,w4,w8a8,w4a4",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Save the drop table as JSON here.")
    ] = None,
    cache: CacheOption = None,
    no_cache: NoCacheOption = False,
    workers: WorkersOption = None,
    json_: JsonOption = False,
) -> None:
    """Measure how much accuracy each layer loses, alone, in each format."""
    parse_all(formats)
    if output is not None:
        check_target(output)
    named = evaluations(cache, no_cache=no_cache)
    folder = SearchOptions(cache=named).folder
    try:
        with progress_bars() as progress, opened(workers) as executor:
            progress(LOADING, 0, 1)
            loaded, batches = load_model(model, needs_inputs=False), load_data(data)
            progress(LOADING, 1, 1)
            evaluator = Evaluator(
                loaded.module,
                batches,
                batch_dim=batch_dim,
                cache=folder,
                lenient=named is True,
                executor=executor,
                progress=progress,
            )
            drops = sensitivities.measure(evaluator, formats, progress=progress)
    except KeyboardInterrupt:
        kept = "nothing is" if folder is None else f"in {folder} all that was evaluated is"
        raise Interrupted(f"there is no table yet; {kept} kept.") from None

    def show() -> None:
        if json_:
            sys.stdout.write(drops.to_json())
        else:
            out.print(tables.drops(drops))

    deliver(show, drops.save, output)
