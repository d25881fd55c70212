"""Signs of life on stderr: bars in a terminal or a notebook, elsewhere a line every ten seconds."""

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, ParamSpec, TypeVar

from rich.console import Console
from rich.errors import LiveError
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
from aiq.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

Shown = stages.Progress | Literal["bar"] | None
"""What a call reports its progress to: a function, ``"bar"`` for signs of life here, or nothing."""

EVERY = 10.0
"""Seconds between two lines where there is no terminal."""


def shows_progress(call: Callable[P, R]) -> Callable[P, R]:
    """Make the argument ``progress`` of `call` a function, by default one that shows a bar."""

    @functools.wraps(call)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        wanted = kwargs.get("progress", "bar")
        if wanted != "bar":
            if wanted is not None and not callable(wanted):
                raise InputError(f"progress is {wanted!r:.50}; give a function, 'bar', or None.")
            return call(*args, **kwargs)
        with shown(Console(stderr=True)) as report:
            kwargs["progress"] = report
            return call(*args, **kwargs)

    return wrapper


@dataclass(slots=True)
class Clock:
    """What lines without a terminal go by; several parts of one command share a clock.

    Attributes
    ----------
    started, written
        When the work began, and when the last line was due, by ``time.monotonic``.
    """

    started: float = field(default_factory=time.monotonic)
    written: float = field(default_factory=time.monotonic)


@contextmanager
def shown(console: Console, clock: Clock | None = None) -> Iterator[stages.Progress]:
    """Yield a function that shows what is going on, as `aiq.progress.Progress` describes it."""
    live = console.is_terminal or console.is_jupyter
    with _bars(console) if live else _lines(console, clock or Clock()) as report:
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
    bars, tasks = Progress(*columns, console=console, transient=True), dict[str, TaskID]()

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    try:
        bars.start()
    except LiveError:  # the caller shows bars of its own
        yield stages.silent
        return
    try:
        yield report
    finally:
        bars.stop()


@contextmanager
def _lines(console: Console, clock: Clock) -> Iterator[stages.Progress]:
    """Write the stage that reported last, again and again, from a thread of its own."""
    ended = threading.Event()
    since: dict[str, float] = {}
    now: list[tuple[str, int, int, float]] = []

    def report(stage: str, done: int, total: int) -> None:
        since.setdefault(stage, time.monotonic())
        now[:] = [(stage, done, total, time.monotonic())]

    def write() -> None:
        while not ended.wait(max(0.0, clock.written + EVERY - time.monotonic())):
            clock.written = time.monotonic()
            for stage, done, total, at in [*now]:
                took = time.monotonic() - since[stage]
                line = f"{time.monotonic() - clock.started:.0f} s: {stage}"
                line += f", {done} of {total}" if total > 1 else f", for {took:.0f} s"
                # A step that takes longer than those before it says nothing of what is left.
                left = (
                    (at - since[stage]) * (total / done - 1) - (time.monotonic() - at)
                    if done
                    else 0
                )
                if left > 0:
                    line += f", about {left:.0f} s left"
                console.print(line, markup=False, highlight=False, soft_wrap=True)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        yield report
    finally:
        ended.set()
        writer.join()
