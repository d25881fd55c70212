"""The layout: data flows one way, and no circle."""

import ast
import subprocess
import sys
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from aiq.cli.commands import COMMANDS, load

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "python" / "aiq"
FLOORS = (
    ("_core", "errors"),
    ("cache", "exporting", "files", "fingerprint", "names", "progress", "text", "userpath"),
    ("bars", "comparison_table", "formats", "gguf_config", "splitting", "typed"),
    ("learned",),
    ("graph", "machine", "saved"),
    ("quiet",),
    ("measure",),
    ("data", "decoders", "drops", "encoders", "hardware", "models", "quantize", "report", "solver"),
    ("evaluate", "plan"),
    ("gguf", "runtimes"),
    ("cost", "generative"),
    ("decoder_programs",),
    ("calibrate", "deployment", "sensitivity"),
    ("decoding",),
    ("comparison", "planning"),
    ("training",),
    ("cli",),
)
"""Rooms of the package, the ground floor first: a room imports only from floors below its own."""


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def module(path):
    parts = path.relative_to(ROOT / "python").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports():
    """Return module -> modules of the package that it imports, whatever the place in the file."""
    known = {module(path): path for path in sources("python/aiq")}
    found = {}
    for name, path in known.items():
        found[name] = set()
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []  # names for annotations: nothing is loaded
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [n if n in known else node.module for n in whole]
            found[name] |= {n for n in names if n in known and n != name}
    return found


def room(name):
    return name.split(".")[1] if "." in name else ""


def test_rooms_import_only_from_floors_below():
    floor = {name: i for i, rooms in enumerate(FLOORS) for name in rooms}
    arrows = {
        (room(source), room(target))
        for source, targets in imports().items()
        for target in targets
        if room(source) not in {room(target), "", "__main__"} and room(target)
    }
    assert len(arrows) > 50
    assert {r for pair in arrows for r in pair} <= floor.keys()
    assert [(a, b) for a, b in sorted(arrows) if floor[a] <= floor[b]] == []


def test_no_modules_import_each_other_in_a_circle():
    # A package's face hands names on; that it imports its own modules is no circle.
    graph = {
        name: {t for t in targets if not name.startswith(f"{t}.")}
        for name, targets in imports().items()
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_public_name_hides_a_module():
    import aiq  # noqa: PLC0415

    modules = {room(name) for name in imports()}
    assert modules & set(aiq.__all__) == set()


def test_the_solver_and_the_help_need_no_pytorch():
    code = "import aiq, aiq.solver, aiq.cli, sys; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


SAME_NAME = {
    "load": "Each is read with its module: `models.load`, `data.load`, `decoders.load`.",
    "harm": "The estimates of sensitivity have one interface.",
    "from_document": "The parts of a hardware profile have one interface.",
    "to_document": "The parts of a hardware profile have one interface.",
}
"""Public name -> why several modules may define it."""


def test_one_name_means_one_thing():
    # A command is called what the function is called that it calls, so commands do not count.
    homes = defaultdict(set)
    for path in sources("python/aiq"):
        for node in ast.parse(path.read_text()).body:
            named = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if named and not node.name.startswith("_") and room(module(path)) != "cli":
                homes[node.name].add(module(path))
    assert len(homes) > 500
    repeated = {name for name, modules in homes.items() if len(modules) > 1}
    assert repeated == SAME_NAME.keys()


def test_help_says_of_a_command_what_the_command_says_of_itself():
    for name, (_, words) in COMMANDS.items():
        assert load(name).help.splitlines()[0] == words


LONGEST_FUNCTION = 80
"""Lines of code from ``def`` to the end, without the docstring: documentation may be long."""

LONGEST_FILE = 400


def lines_of_code(function):
    """Return the number of lines of a function, without its docstring."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    docstring = first.end_lineno - first.lineno + 1 if has_docstring else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_functions_and_files_are_short():
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    long = set()
    for path in sources("python/aiq", "benches", "examples", "tests"):
        name, text = path.relative_to(ROOT).as_posix(), path.read_text()
        if len(text.splitlines()) > LONGEST_FILE:
            long.add(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, functions) and lines_of_code(node) > LONGEST_FUNCTION:
                long.add(f"{name}: {node.name}")
    assert long == set()
