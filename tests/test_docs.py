"""The documentation names only what exists: modules, functions, files, commands, options."""

import importlib
import json
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
import qat_report
from report import BEYOND, MACHINES, beyond, filled, machines, page
from typer.main import get_command

from aiq.cli import app
from aiq.cli.commands import COMMANDS, load

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += [ROOT / name / "README.md" for name in ("benches", "hw_profiles")]
SOURCES = [
    path
    for folder in ("python/aiq", "rust", "tests", "benches", "examples")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".pyi", ".rs"}
]


def exists(name):
    """Whether a dotted name is a module, or can be got from one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        try:
            for part in parts[length:]:
                found = getattr(found, part)
        except AttributeError:
            return False
        return True
    return False


def test_names_in_documentation_exist():
    named = {
        (name, path.name)
        for path in [*PAGES, *SOURCES]
        for name in re.findall(r"`(aiq(?:\.[A-Za-z_]\w*)+)(?:\(.*?\))?`", path.read_text())
    }
    assert len(named) > 10
    assert [pair for pair in sorted(named) if not exists(pair[0])] == []


def test_files_in_documentation_exist():
    folders = "benches|docs|examples|hw_profiles|python|rust|tests"
    named = {
        (name, path.name)
        for path in [*PAGES, *SOURCES]
        for name in re.findall(rf"`((?:{folders})/[\w./-]+)`", path.read_text())
    }
    assert len(named) > 5
    assert [pair for pair in sorted(named) if not (ROOT / pair[0]).exists()] == []


def lines(text):
    """Yield the ``aiq ...`` command lines in a page: in backticks, and in blocks of code."""
    blocks = "".join(re.findall(r"(?ms)^ *```\w*$(.*?)^ *```$", text))
    for line in [*re.findall(r"`(aiq [^`\n]*)`", text), *re.findall(r"(?m)^ *(aiq .*)$", blocks)]:
        yield line.partition(" #")[0].replace("\\|", "|")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_documentation_exist(page):
    for line in lines(page.read_text()):
        command = None
        for word in shlex.split(line)[1:]:
            if command is None and word in COMMANDS:
                command = load(word)
            elif word in getattr(command, "commands", {}):
                command = command.commands[word]
            elif word.startswith("-"):
                command = command or get_command(app)
                known = {option for parameter in command.params for option in parameter.opts}
                assert word.partition("=")[0] in known, f"{line}: {command.name} has no {word}"
            else:
                assert command is not None, f"{line}: there is no command {word}"


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    for path in sorted((ROOT / "docs").rglob("*.md")):
        assert (
            f": {path.relative_to(ROOT / 'docs').as_posix()}\n" in menu or path.name == "results.md"
        )


def test_pages_hold_the_examples_word_for_word():
    # Written out, since pages are read as plain files on git hosts, too.
    shown = set()
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = path.read_text()
        assert "--8<--" not in text
        for name, code in re.findall(r"(?ms)^<!-- (examples/\S+) -->\n\n```py\n(.*?)^```$", text):
            assert code.rstrip() == (ROOT / name).read_text().rstrip(), f"{path.name}: {name}"
            shown.add(name)
    assert len(shown) == 4


def test_pictures_are_small_and_load_nothing():
    pictures = sorted((ROOT / "docs").glob("*.svg"))
    assert len(pictures) >= 4
    for path in pictures:
        assert path.stat().st_size < 150_000
        text = path.read_text()
        ElementTree.fromstring(text)
        assert "<script" not in text
        assert re.findall(r'(?:href|src)="(?!#)', text) == []
        assert "@import" not in text
        assert "url(http" not in text


def test_the_page_of_measurements_is_that_of_the_results():
    benches = ROOT / "benches"
    assert (benches / "README.md").read_text() == page(benches / "results")
    text = (ROOT / "docs" / "results.md").read_text()
    assert text.count("benches/report.py -->") == 10
    assert text == filled(text, benches / "results")
    assert MACHINES.read_text() == machines(MACHINES.read_text(), benches / "results")
    assert BEYOND.read_text() == beyond(BEYOND.read_text(), benches / "results")
    assert BEYOND.read_text().count("benches/report.py -->") == 3


TRAINING = ROOT / "benches" / "results" / "qat.json"


def test_the_numbers_of_training_are_those_of_the_results():
    text = (ROOT / "docs" / "training.md").read_text()
    assert qat_report.BEGIN in text
    assert text == qat_report.filled(text, json.loads(TRAINING.read_text()))
