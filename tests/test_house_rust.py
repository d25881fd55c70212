"""The modules of the Rust core import one another in one direction."""

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

CORE = Path(__file__).parent.parent / "rust" / "core"


def modules():
    """Return module -> path, with ``search::start`` for search/start.rs."""
    found = {}
    for path in sorted(CORE.rglob("*.rs")):
        parts = path.relative_to(CORE).with_suffix("").parts
        found["::".join(part for part in parts if part != "mod")] = path
    del found["lib"]  # the face of the crate: it hands names on
    return found


def imports():
    """Return module -> the modules that its code names, outside of tests and comments."""
    known = modules()
    found = {}
    for name, path in known.items():
        code = re.sub(r"//.*", "", path.read_text().partition("#[cfg(test)]")[0])
        assert "crate::{" not in code, f"{path.name}: give every module its own `use`"
        paths = [used.removeprefix("crate::") for used in re.findall(r"crate(?:::\w+)+", code)]
        if path.name == "mod.rs":  # names its children without `crate`
            paths += [f"{name}::{child}" for child in re.findall(r"\b(\w+)::", code)]
        parts = [used.split("::") for used in paths]
        named = [["::".join(p[:n]) for n in range(len(p), 0, -1)] for p in parts]
        found[name] = {next(n for n in names if n in known) for names in named if names} - {name}
    return found


def test_the_core_imports_in_one_direction():
    graph = imports()
    assert sum(len(targets) for targets in graph.values()) > 80
    assert "search::branch" in graph["search"]
    assert "instance" in graph["search::branch"]
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
