"""Signs of life on stderr, with a terminal and without one."""

import io
import time

import pytest
from rich.console import Console

from aiq.cli import progress


def lines(monkeypatch, seconds, *reports):
    monkeypatch.setattr(progress, "EVERY", 0.02)
    console = Console(file=io.StringIO(), force_terminal=False, width=40)
    with progress.shown(console) as report:
        for arguments in reports:
            report(*arguments)
        time.sleep(seconds)
    return console.file.getvalue().splitlines()


def test_without_a_terminal_the_last_stage_is_written_again_and_again(monkeypatch):
    found = lines(monkeypatch, 0.3, ("export", 1, 1), ("measure [the] plan", 3, 66))
    assert len(found) >= 2
    assert {line.partition(": ")[2] for line in found} == {"measure [the] plan, 3 of 66"}


def test_nothing_is_written_before_a_stage_reports(monkeypatch):
    assert lines(monkeypatch, 0.1) == []


def test_an_exception_ends_the_lines(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.01)
    console = Console(file=io.StringIO(), force_terminal=False)

    def stopped():
        with progress.shown(console) as report:
            report("work", 0, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    written = console.file.getvalue()
    time.sleep(0.05)
    assert console.file.getvalue() == written


def test_a_terminal_has_bars():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with progress.shown(console) as report:
        report("measure", 3, 66)
    assert "measure" in console.file.getvalue()
