"""Benches take hours, so tests do not run them; but the parts of aiq that they name must exist."""

import ast
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


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_name_what_exists(script):
    assert missing(script.read_text()) == []


def test_a_name_that_is_gone_is_found():
    gone = "import aiq\nfrom aiq import cost\ncost.time_table\ncost.hours\naiq.search\naiq.find"
    assert missing(gone) == ["line 4: cost.hours", "line 6: aiq.find"]
    with pytest.raises(ModuleNotFoundError):
        missing("from aiq.cost import hours")
