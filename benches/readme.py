"""Run the lines of README.md, and draw what they print as `docs/first_plan.svg`.

python benches/readme.py
"""

import contextlib
import io
import re
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

ROOT = Path(__file__).parent.parent
ROWS = 4  # layers of the table that are shown
# Without the fonts that rich would load from the network.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def lines() -> str:
    """Return the lines of the README."""
    found = re.search(r"(?ms)^```python\n(.*?)^```$", (ROOT / "README.md").read_text())
    assert found is not None
    return found[1]


def run() -> list[str]:
    """Return what the lines of the README print."""
    printed = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(printed),
    ):
        exec(compile(lines(), "README.md", "exec"), {})  # noqa: S102
    return printed.getvalue().rstrip().splitlines()


def draw(printed: list[str]) -> str:
    """Return printed lines as a picture; of a long table, the first rows."""
    heading = next(i for i, line in enumerate(printed) if line.startswith("layer "))
    shown, rest = printed[: heading + 1 + ROWS], printed[heading + 1 + ROWS :]
    shown += [*(["..."] if len(rest) > 1 else []), *rest[-1:]]
    console = Console(record=True, width=max(map(len, shown)), file=io.StringIO())
    console.print("\n".join(shown), markup=False)
    return console.export_svg(
        title="the README's lines",
        theme=DEFAULT_TERMINAL_THEME,
        code_format=FORMAT,
        unique_id="first-plan",
    )


if __name__ == "__main__":
    (ROOT / "docs" / "first_plan.svg").write_text(draw(run()), encoding="utf-8")
