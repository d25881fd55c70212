"""The command line: ``aiq ...``. Data goes to stdout, messages and progress to stderr."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from aiq import calibrate, graph, hardware, sensitivity
from aiq import demo as story
from aiq.deploy import compare
from aiq.errors import AiqError
from aiq.evaluate import Evaluator
from aiq.plan import Plan
from aiq.report import tables
from aiq.search import search as run_search
from aiq.spec import load_data, load_model, parse_pins

app = typer.Typer(
    name="aiq",
    help="Which layers to quantise, to what, on this machine, and what it buys.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console()
err = Console(stderr=True)

ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A built-in name (resnet20), torchvision:NAME, or package.module:callable.",
    ),
]
InputOption = Annotated[
    str | None,
    typer.Option(
        "--input", help="Shape of the example input, e.g. 1x3x224x224; default: by model."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
HardwareOption = Annotated[
    str, typer.Option("--hw", help="A profile's name (see `aiq profiles`) or a .yaml file.")
]


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each stage that reports, with the time left; on stderr, gone when done."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


def print_json(document: Any) -> None:  # noqa: ANN401 - whatever json takes
    """Write `document` to stdout as JSON, without colours or wrapping."""
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


@app.command()
def demo(json_: JsonOption = False) -> None:
    """Run the main job on a trained ResNet-20: search, plan, prediction beside measurement."""
    with progress_bars() as progress:
        result = story.run(progress)
    if json_:
        print_json(result.to_dict())
    else:
        out.print(story.render(result))


@app.command()
def profiles(
    name: Annotated[str | None, typer.Argument(help="Show this one (name or file).")] = None,
    json_: JsonOption = False,
) -> None:
    """List the hardware profiles, or show and validate one."""
    found = [hardware.Hardware.load(n) for n in ([name] if name else hardware.available())]
    if json_:
        print_json([hardware.to_dict(profile) for profile in found])
    else:
        out.print(tables.profile(found[0]) if name else tables.profiles(found))


@app.command("graph")
def graph_(model: ModelArgument, shape: InputOption = None, json_: JsonOption = False) -> None:
    """Show the layers of a model: work, sizes, what fuses into what."""
    loaded = load_model(model, shape)
    result = graph.extract(loaded.module, loaded.example_inputs)
    if json_:
        print_json(asdict(result))
    else:
        out.print(tables.layers(result))


@app.command()
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
    max_drop: Annotated[float, typer.Option(help="Largest accuracy loss, 0.01 = 1 pp.")] = 0.01,
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
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Save the plan as JSON here.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Choose a format for every layer of a model."""
    loaded = load_model(model, shape)
    with progress_bars() as progress:
        plan = run_search(
            loaded.module,
            hw,
            None if data is None else load_data(data),
            example_inputs=loaded.example_inputs,
            objective=objective,
            max_drop=max_drop,
            confidence=confidence,
            lam=lam,
            formats=formats,
            runtime=runtime,
            method=method,
            pin=parse_pins(pin or []),
            max_size=max_size,
            progress=progress,
        )
    if output is not None:
        plan.save(output)
        err.print(f"saved {output}")
    if json_:
        sys.stdout.write(plan.to_json())
    else:
        out.print(tables.plan(plan))


@app.command("calibrate")
def calibrate_(
    output: Annotated[Path, typer.Option("--output", "-o", help="The profile to write.")],
    runtime: Annotated[str, typer.Option(help="The runtime to measure.")] = "inductor",
    quick: Annotated[bool, typer.Option(help="Only the roofs, in a few seconds.")] = False,
) -> None:
    """Measure this machine and a runtime, and write a hardware profile; can be resumed."""
    with progress_bars() as progress:
        if quick:
            profile = calibrate.quick(progress=progress)
        else:
            profile = calibrate.calibrate(runtime, name=output.stem, progress=progress)
    profile.save(output)
    err.print(f"saved {output}")
    out.print(tables.profile(profile))


@app.command("sensitivity")
def sensitivity_(
    model: ModelArgument,
    data: Annotated[str, typer.Option(help="As for `aiq search`.")] = "sample",
    shape: InputOption = None,
    formats: Annotated[str, typer.Option(help="Formats to measure.")] = "w8,w4,w8a8,w4a4",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Save the loss table as JSON here.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Measure how much accuracy each layer loses, alone, in each format."""
    loaded = load_model(model, shape)
    with progress_bars() as progress:
        evaluator = Evaluator(loaded.module, load_data(data), progress=progress)
        losses = sensitivity.measure(evaluator, formats, progress=progress)
    if output is not None:
        losses.save(output)
        err.print(f"saved {output}")
    if json_:
        sys.stdout.write(losses.to_json())
    else:
        out.print(tables.losses(losses))


@app.command("compare")
def compare_(
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
        result = compare(
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


def main() -> NoReturn:
    """Run the command line; a caller's mistake is one line on stderr and exit status 2."""
    try:
        app()
    except AiqError as error:
        err.print(f"[bold red]error:[/] {error}", highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)
    sys.exit(0)
