"""What every command shares: options, consoles, progress bars, JSON."""

import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer
from rich.console import Console

from aiq import progress as stages
from aiq.cli import progress
from aiq.errors import InputError

out = Console()
err = Console(stderr=True)


def completions(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return what the shell calls for the names that go on as typed; of a list, the last item."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + str(name) for name in names() if str(name).startswith(last)]

    return complete


def profile_names() -> list[str]:
    """Return the names of the hardware profiles; what reads them is loaded for that only."""
    return list(import_module("aiq.hardware.library").available())


ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A built-in name (resnet20), torchvision:NAME, or package.module:callable.",
    ),
]
InputOption = Annotated[
    str | None,
    typer.Option(
        "--input",
        help="Shape of the inputs of one call, and their dtype unless it is float32: 1x3x224x224, "
        "1x128:int64. Default: the first batch of --data.",
    ),
]


def _batch_dim(text: object) -> int | None:
    """Return the dimension that `text` names."""
    if text is None or isinstance(text, int):
        return text
    if str(text).strip().lower() == "none":
        return None
    if not str(text).isdecimal():
        raise InputError(f"--batch-dim is {text!r}; give the number of a dimension, or none.")
    return int(str(text))


BatchDimOption = Annotated[
    int,
    typer.Option(
        "--batch-dim",
        parser=_batch_dim,
        metavar="DIM",
        help="The dimension of the inputs that counts samples: 1 for sequence-first models; none "
        "where one batch is one sample.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
HardwareOption = Annotated[
    str,
    typer.Option(
        "--hw",
        help="A profile's name (see `aiq profiles`) or a .yaml file.",
        autocompletion=completions(profile_names),
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Folder that keeps all evaluations, so that interrupted work goes on where it was; "
        "default: one in the user's cache folder.",
    ),
]


def evaluations(folder: Path | None) -> Path | None:
    """Return where evaluations are kept: `folder`, or one in the user's cache folder.

    ``None``, and a line on stderr, if the user has none that can be written.
    """
    if folder is not None:
        return folder
    try:
        folder = platformdirs.user_cache_path("aiq") / "evaluations"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError) as error:
        err.print(
            f"No evaluations are kept: the cache folder cannot be written ({error}); "
            "name another with --cache.",
            markup=False,
        )
        return None


def progress_bars() -> AbstractContextManager[stages.Progress]:
    """Show on stderr what is going on: bars in a terminal, elsewhere a line every ten seconds."""
    return progress.shown(err)


def print_json(document: Any) -> None:  # noqa: ANN401 - whatever json takes
    """Write `document` to stdout as JSON, without colours or wrapping."""
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def deliver(show: Callable[[], None], save: Callable[[Path], None], output: Path | None) -> None:
    """Show a result and save it to `output`, if that is given; if one fails, still do the other.

    `output` should have passed `aiq.files.check_target` before the result was computed.
    """
    try:
        show()
    finally:
        if output is not None:
            save(output)
            err.print(f"saved {output}", markup=False, highlight=False)
