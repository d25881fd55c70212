"""The examples run as they stand."""

import ast
import json
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SAID = {
    "own_model.py": "x faster than float32 (predicted",
    "change_budget.py": "1%: [",
    "ship_onnx.py": "model.onnx answers like float32 on ",
    "own_machine.py": "layers int8 (w8a8)",
}
"""What each example prints, among other things."""
LONG = {"llm.py", "encoder.py"}  # search language models with real weights, which takes minutes


def test_there_is_no_other_example():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SAID, *LONG}


@pytest.mark.parametrize("name", SAID)
def test_the_scripts(name, monkeypatch, tmp_path, capsys):
    if name == "ship_onnx.py":
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert SAID[name] in capsys.readouterr().out


def run(notebook):
    """Run the cells of a notebook, and return what it shows."""
    notebook = json.loads((EXAMPLES / notebook).read_text())
    shown, names = [], {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == []  # what is committed has no outputs
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "notebook", "exec"), names)  # noqa: S102
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), "notebook", "eval"), names))
    return shown


def test_there_is_no_other_notebook():
    names = {path.name for path in EXAMPLES.glob("*.ipynb")}
    assert names == {"first_plan.ipynb", "quantization_lecture.ipynb"}


def test_the_notebook(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    shown = run("first_plan.ipynb")
    assert "<iframe" in shown[0]._repr_html_()
    assert len(capsys.readouterr().out.splitlines()) >= 2  # float32 and the plan
    assert (tmp_path / "plan.html").exists()


def test_the_lecture(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    run("quantization_lecture.ipynb")  # its assertions are the test
    said = capsys.readouterr().out
    assert "1234 x 0.01: 12.3399999933 as in the lecture" in said
    assert "estimated" in said
