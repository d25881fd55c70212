"""Benches take hours, so tests do not run them; but the parts of aiq that they name must exist."""

import ast
import inspect
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted([*(ROOT / "benches").glob("*.py"), *(ROOT / "examples").glob("*.py")])


def imported(tree):
    """Yield names in a script and what of aiq they stand for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "aiq":
                    module = import_module(alias.name)
                    yield alias.asname or "aiq", module if alias.asname else import_module("aiq")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "aiq":
            module = import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    import_module(f"{node.module}.{alias.name}")
                yield alias.asname or alias.name, getattr(module, alias.name)


def missing(text):
    """Return the attributes of modules of aiq that a script reads and that do not exist."""
    tree = ast.parse(text)
    known = {name: value for name, value in imported(tree) if isinstance(value, ModuleType)}
    return [
        f"line {node.lineno}: {node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in known
        and not hasattr(known[node.value.id], node.attr)
    ]


def misfits(text):
    """Return the calls of functions of aiq whose arguments do not fit."""
    tree = ast.parse(text)
    known, found = dict(imported(tree)), []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            function = getattr(known.get(called.value.id), called.attr, None)
            function = function if isinstance(known.get(called.value.id), ModuleType) else None
        else:
            function = known.get(called.id) if isinstance(called, ast.Name) else None
        starred = any(isinstance(x, ast.Starred) for x in node.args)
        if starred or not inspect.isroutine(function) or None in {k.arg for k in node.keywords}:
            continue
        try:
            inspect.signature(function).bind(*node.args, **{k.arg: 0 for k in node.keywords})
        except TypeError as error:
            found.append(f"line {node.lineno}: {function.__name__}: {error}")
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_name_what_exists_and_call_it_as_it_is(script):
    assert missing(script.read_text()) == []
    assert misfits(script.read_text()) == []


def test_a_call_that_does_not_fit_is_found():
    text = (
        "from aiq.planning import stages\nstages.trace_model(1, 2)\nstages.trace_model(1, 2, 3, 4)"
    )
    assert misfits(text) == ["line 2: trace_model: missing a required argument: 'rounding'"]


def test_a_name_that_is_gone_is_found():
    gone = "import aiq\nfrom aiq import cost\ncost.time_table\ncost.hours\naiq.search\naiq.find"
    assert missing(gone) == ["line 4: cost.hours", "line 6: aiq.find"]
    with pytest.raises(ModuleNotFoundError):
        missing("from aiq.cost import hours")
