"""Models and data that the command line names: the user's code may do anything."""

import sys

import pytest

from aiq import userpath
from aiq.cli.spec import load_data, load_metric, load_model
from aiq.errors import DataError, InputError

MODULE = """
import sys, torch
def net(): print("noise"); return torch.nn.Linear(3, 2)
def raises(): raise RuntimeError("boom\\nmore")
def exits(): sys.exit(7)
def wants(x): return x
def midway():
    print("noise")
    yield 1
    raise ValueError("broken file")
number = 5
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    files = {"speclike": MODULE, "specsyntax": "def f(:", "specexit": "import sys; sys.exit(7)"}
    files |= {"specmissing": "import nonexistent_zz", "code": "net = 1", "yaml": "1 / 0"}
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), "", *sys.path])
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # set below; put back when the test is over
    userpath.leave_out_current_folder()
    yield tmp_path
    for name in files:
        if name not in ("code", "yaml"):
            sys.modules.pop(name, None)


def test_the_current_folder_is_last_and_only_for_the_users_modules(here, capsys):
    assert str(here) not in sys.path
    assert "" not in sys.path
    model = load_model("speclike:net", "2x3")
    assert sys.path[-1] == str(here)
    assert sys.path.count(str(here)) == 1
    assert model.example_inputs.shape == (2, 3)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "noise\n")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("speclike:raises", "RuntimeError: boom"),
        ("speclike:exits", "SystemExit: 7"),
        ("speclike:wants", "missing 1 required positional argument"),
        ("speclike:number", "is an int, which cannot be called"),
        ("speclike:nothing", "there is no 'nothing' in"),
        ("specsyntax:f", "SyntaxError"),
        ("specexit:f", "SystemExit: 7"),
        ("specmissing:f", "imports 'nonexistent_zz', which is not installed"),
        ("code:net", "rename code.py, which has the name of an installed module"),
        ("nowhere_zz:f", "check the spelling"),
        ("..:f", "not of the form"),
        ("speclike.py", "run aiq in its folder, and write speclike:callable"),
        ("some/where/speclike.py:net", "run aiq in its folder, and write speclike:net"),
        ("a\0b:f", "not of the form"),
    ],
)
def test_what_names_no_model_is_one_sentence(here, spec, words):
    with pytest.raises(InputError, match=words) as caught:
        load_model(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("load", [load_data, load_metric])
def test_a_file_is_answered_with_its_module(load):
    with pytest.raises(InputError, match="write speclike:net"):
        load("speclike.py:net")
    with pytest.raises(InputError, match="write speclike:callable"):
        load("speclike.py")


@pytest.mark.parametrize("shape", ["1x3x999999x999999", f"1x{'9' * 40}", "1x" * 40 + "1", "0x3"])
def test_shapes_that_cannot_be(shape):
    with pytest.raises(InputError, match="--input"):
        load_model("resnet20", shape)


def test_a_loader_that_raises(here):
    with pytest.raises(DataError, match=r"raised ValueError after 1 batches \(broken file\)"):
        load_data("speclike:midway")
