"""The commands: their names and what help says of them. A command's module is loaded to run it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from aiq.cli import signals
from aiq.cli.common import progress_bars
from aiq.errors import InputError
from aiq.names import advice

COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": (
        "aiq.cli.demo:demo",
        "Run the main job on a trained ResNet-20: search, plan, prediction beside measurement.",
    ),
    "search": ("aiq.cli.search:search", "Choose a format for every layer of a model."),
    "show": ("aiq.cli.report:show", "Show a saved plan: what it buys, and every layer's format."),
    "frontier": (
        "aiq.cli.report:frontier",
        "Show the plans at other budgets that a search kept: time, accuracy drop, formats.",
    ),
    "report": (
        "aiq.cli.report:report",
        "Write a plan as one HTML page with its frontier, layers, roofline and network.",
    ),
    "compare": (
        "aiq.cli.measure:compare",
        "Time a plan against float32 on this machine, and set the prediction beside.",
    ),
    "export": (
        "aiq.cli.export:export",
        "Write a model in the formats of a plan to a file that runs without aiq.",
    ),
    "measure": (
        "aiq.cli.measure:measure",
        "Time a model in several formats and plans, in turns: throughput, latency, memory, noise.",
    ),
    "graph": (
        "aiq.cli.model:graph",
        "Show the layers of a model: work, sizes, what fuses into what.",
    ),
    "sensitivity": (
        "aiq.cli.model:sensitivity",
        "Measure how much accuracy each layer loses, alone, in each format.",
    ),
    "calibrate": (
        "aiq.cli.calibrate:calibrate",
        "Measure this machine and a runtime, and write a hardware profile; can be resumed.",
    ),
    "cache": (
        "aiq.cli.cache:app",
        "Show what is kept in the user's cache folder, or empty it.",
    ),
    "profiles": (
        "aiq.cli.profiles:app",
        "List hardware profiles, or show, validate and compare them.",
    ),
}


def load(name: str) -> Any:  # noqa: ANN401 - a command or a group of them
    """Return the command called `name`, with its options."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    with _signs_of_life(name):
        found = getattr(import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        command, found = found, typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        found.command(name)(signals.guarded(command))
    loaded = typer.main.get_command(found)
    loaded.name = name
    return loaded


@contextmanager
def _signs_of_life(name: str) -> Iterator[None]:
    """Say on stderr that a command is being loaded, if it needs PyTorch; the shell's Tab is silent.

    On a busy machine that takes more than ten seconds.
    """
    if name in _WITHOUT_PYTORCH or "_AIQ_COMPLETE" in os.environ:
        yield
        return
    with progress_bars() as progress:
        progress("load PyTorch", 0, 1)
        yield


_WITHOUT_PYTORCH = {"show", "frontier", "report", "cache", "profiles"}


class Commands(TyperGroup):
    """The group of all commands."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - Typer brings its own click
        """Return their names."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        """Return what help shows of a command, without its options."""
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401
        """Return the command that is to run."""
        if args and args[0] in COMMANDS:
            return args[0], load(args[0]), args[1:]
        if args and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise InputError(f"There is no command {args[0]!r}; {advice(args[0], COMMANDS)}.")
        return super().resolve_command(ctx, args)
