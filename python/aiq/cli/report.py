"""``aiq show``, ``aiq frontier`` and ``aiq report``: show a saved plan."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from aiq import files
from aiq.cli.common import JsonOption, out, print_json, saving
from aiq.plan import Plan
from aiq.plan import show as as_text
from aiq.report import MeasuredTimes, document

PlanArgument = Annotated[Path, typer.Argument(help="A plan that `aiq search -o` wrote.")]


def show(
    plan: PlanArgument,
    check: Annotated[
        bool, typer.Option("--check", help="Verify the solver's certificate instead.")
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="A row for every layer.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show a saved plan: what it buys, and every layer's format."""
    found = Plan.load(plan)
    if check:
        _check(found, json_)
    elif json_:
        sys.stdout.write(found.to_json())
    else:
        out.print(as_text.plan_table(found, every=layers))


def _check(plan: Plan, json_: bool) -> None:
    """Print what the independent checker says of a plan; exit with 1 if it is not proved."""
    found = plan.check()
    if json_:
        print_json({"ok": found.ok, "failures": list(found.failures)})
    else:
        words = f"the certificate proves it {plan.proof.status}" if found.ok else "not proved"
        out.print(f"{plan.model} on {plan.hardware}: {words}", markup=False, highlight=False)
        for failure in found.failures:
            out.print(failure, markup=False, highlight=False)
    if not found.ok:
        raise typer.Exit(1)


def frontier(plan: PlanArgument, json_: JsonOption = False) -> None:
    """Show the plans at other budgets that a search kept: time, accuracy drop, formats."""
    found = Plan.load(plan).frontier()
    if json_:
        print_json(found.to_dict())
    else:
        out.print(found.table())


def report(
    plan: PlanArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path(
        "report.html"
    ),
    comparison: Annotated[
        Path | None,
        typer.Option(help="What `aiq compare --json` wrote: measured times beside predicted ones."),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print what the page would show as JSON; write nothing.")
    ] = False,
) -> None:
    """Write a plan as one HTML page with its frontier, layers, roofline and network."""
    if json_:
        print_json(document(Plan.load(plan), MeasuredTimes.read(comparison)))
        return
    files.check_target(output)
    with saving(output):
        Plan.load(plan).report(output, comparison)
