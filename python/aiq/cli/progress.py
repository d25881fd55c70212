"""Signs of life on stderr: bars in a terminal, elsewhere a line every ten seconds."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from aiq import progress as stages

EVERY = 10.0
"""Seconds between two lines where there is no terminal."""


@contextmanager
def shown(console: Console) -> Iterator[stages.Progress]:
    """Yield a function that shows what is going on, as `aiq.progress.Progress` describes it."""
    with _bars(console) if console.is_terminal else _lines(console) as report:
        yield report


@contextmanager
def _bars(console: Console) -> Iterator[stages.Progress]:
    """Show a bar for each stage, with the time elapsed and left; all are gone at the end."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


@contextmanager
def _lines(console: Console) -> Iterator[stages.Progress]:
    """Write the stage that reported last, again and again, from a thread of its own."""
    started, ended = time.monotonic(), threading.Event()
    now: list[tuple[str, int, int]] = []

    def report(stage: str, done: int, total: int) -> None:
        now[:] = [(stage, done, total)]

    def write() -> None:
        while not ended.wait(EVERY):
            for stage, done, total in [*now]:
                elapsed = time.monotonic() - started
                line = f"{elapsed:.0f} s: {stage}, {done} of {total}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield report
    finally:
        ended.set()
        writer.join()
