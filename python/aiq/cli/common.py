"""What every command shares: options, consoles, progress bars, JSON."""

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from aiq import bars, cache
from aiq import progress as stages
from aiq.errors import InputError

out = Console()
err = Console(stderr=True)
clock = bars.Clock()


def completions(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return what the shell calls for the names that go on as typed; of a list, the last item."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + str(name) for name in names() if str(name).startswith(last)]

    return complete


def profile_names() -> list[str]:
    """Return the names of the hardware profiles; what reads them is loaded for that only."""
    return ["auto", *import_module("aiq.hardware.library").available()]


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
        help="A profile's name (see `aiq profiles`), a .yaml file, or auto: this machine.",
        autocompletion=completions(profile_names),
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Folder that keeps all evaluations, so that another budget takes seconds and "
        "interrupted work goes on where it was; default: one in the user's cache folder.",
    ),
]
NoCacheOption = Annotated[
    bool, typer.Option("--no-cache", help="Keep no evaluations, and use none that are kept.")
]

WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Processes that evaluate plans, each with as many threads as this one "
        "(OMP_NUM_THREADS); the results are equal. Default: this process.",
    ),
]


def evaluations(folder: Path | None, *, no_cache: bool) -> bool | Path:
    """Return what `aiq.search` takes as its ``cache``."""
    if no_cache and folder is not None:
        raise InputError("Both --cache and --no-cache are given; give one of them.")
    if no_cache or folder is not None:
        return folder or False
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = cache.usable(cache.EVALUATIONS) is not None
    for warning in said:
        err.print(str(warning.message), markup=False, highlight=False)
    return usable


def progress_bars() -> AbstractContextManager[stages.Progress]:
    """Show on stderr what is going on: bars in a terminal, elsewhere a line every ten seconds."""
    return bars.shown(err, clock)


LOADING = "load the model and the data"
"""Stage in which the user's code runs."""


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
            with saving(output):
                save(output)


@contextmanager
def saving(output: Path) -> Iterator[None]:
    """Say on stderr that a file was saved, and that a folder was made for it."""
    made = not output.parent.exists()
    yield
    where = f" (made the folder {output.parent})" if made else ""
    err.print(f"saved {output}{where}", markup=False, highlight=False, soft_wrap=True)
