"""Signs of life on stderr, with a terminal and without one."""

import io
import time

import pytest
from rich.console import Console
from rich.errors import LiveError
from torch import nn

import aiq
from aiq import bars
from aiq.errors import InputError


def lines(monkeypatch, seconds, *reports):
    monkeypatch.setattr(bars, "EVERY", 0.02)
    console = Console(file=io.StringIO(), force_terminal=False, width=40)
    with bars.shown(console) as report:
        for arguments in reports:
            report(*arguments)
        time.sleep(seconds)
    return console.file.getvalue().splitlines()


def test_without_a_terminal_the_last_stage_is_written_again_and_again(monkeypatch):
    found = lines(monkeypatch, 0.3, ("export", 1, 1), ("measure [the] plan", 3, 66))
    assert len(found) >= 2
    said = {line.partition(": ")[2].partition(", about ")[0] for line in found}
    assert said == {"measure [the] plan, 3 of 66"}


def test_what_is_left_follows_from_the_steps_that_are_done(monkeypatch):
    monkeypatch.setattr(bars, "EVERY", 0.2)
    console = Console(file=io.StringIO(), force_terminal=False)
    with bars.shown(console) as report:
        report("compile", 0, 100)
        time.sleep(0.1)
        report("compile", 1, 100)  # about ten seconds for the others
        time.sleep(0.2)
        report("time", 0, 2)
        report("time", 1, 2)  # the first took no time, and the second takes longer
        time.sleep(0.5)
    first, *others = console.file.getvalue().splitlines()
    assert first.startswith("0 s: compile, 1 of 100, about ")
    assert first.endswith(" s left")
    assert others
    assert all(line.endswith("time, 1 of 2") for line in others)


def test_parts_of_one_command_share_a_clock(monkeypatch):
    monkeypatch.setattr(bars, "EVERY", 0.3)
    console = Console(file=io.StringIO(), force_terminal=False)
    clock = bars.Clock()
    for part in range(8):
        with bars.shown(console, clock) as report:
            report(f"part {part}", 0, 1)
            time.sleep(0.1)
    found = console.file.getvalue().splitlines()
    assert 1 <= len(found) <= 3
    assert all("s: part" in line and ", for " in line for line in found)


def test_nothing_is_written_before_a_stage_reports(monkeypatch):
    assert lines(monkeypatch, 0.1) == []


def test_an_exception_ends_the_lines(monkeypatch):
    monkeypatch.setattr(bars, "EVERY", 0.01)
    console = Console(file=io.StringIO(), force_terminal=False)

    def stopped():
        with bars.shown(console) as report:
            report("work", 0, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    written = console.file.getvalue()
    time.sleep(0.05)
    assert console.file.getvalue() == written


def test_a_terminal_has_bars():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with bars.shown(console) as report:
        report("measure", 3, 66)
    assert "measure" in console.file.getvalue()


def test_a_call_shows_bars_unless_it_is_told_otherwise():
    seen = []

    @bars.shows_progress
    def call(*, progress="bar"):
        seen.append(progress)
        if progress is not None:
            progress("work", 0, 1)

    def own(stage, done, total):
        pass

    call()
    call(progress=None)
    call(progress=own)
    assert callable(seen[0])
    assert seen[1:] == [None, own]


def test_bars_within_bars_are_no_error(monkeypatch):
    def busy(self):
        raise LiveError("Only one live display may be active at once")

    monkeypatch.setattr(bars.Progress, "start", busy)
    with bars.shown(Console(file=io.StringIO(), force_terminal=True)) as report:
        report("work", 0, 1)


@pytest.mark.parametrize("wanted", [3, "bars", True])
def test_progress_that_cannot_be_shown_is_refused(wanted):
    with pytest.raises(InputError, match="give a function, 'bar', or None"):
        aiq.search(nn.Linear(2, 2), "xeon_2vcpu_roofs", progress=wanted)
