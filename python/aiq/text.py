"""Numbers with their units, and plain tables, for people to read."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text


def points(fraction: float) -> str:
    """Return a fraction in percentage points, ``0.0123`` -> ``1.23 pp``."""
    return f"{100 * fraction:.2f} pp"


def fine_points(fraction: float) -> str:
    """Return a fraction in percentage points, small ones too, ``0.0000123`` -> ``0.00123 pp``."""
    if 0 < abs(fraction) < 1e-6:
        return "under 0.0001 pp"
    return f"{100 * fraction:.3g} pp"


def count(number: float) -> str:
    """Return a number with a decimal prefix, ``81626368`` -> ``81.6 M``."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return f"{number / factor:.3g} {prefix}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Return a time with a suitable unit, ``0.00123`` -> ``1.23 ms``."""
    return _small(seconds, "s")


def joules(energy: float) -> str:
    """Return an energy with a suitable unit, ``0.00123`` -> ``1.23 mJ``."""
    return _small(energy, "J")


def _small(number: float, unit: str) -> str:
    for factor, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "u")):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}{unit}"
    return f"{number / 1e-9:.3g} n{unit}"


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Return a plain table; columns whose heading starts with ``<`` are aligned left.

    In a narrow terminal, words that do not fit go on in the next line; none is cut.
    """
    result = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for heading in columns:
        left = heading.startswith("<")
        justify: JustifyMethod = "left" if left else "right"
        result.add_column(heading.removeprefix("<"), justify=justify, overflow="fold")
    for row in rows:
        result.add_row(*map(Text, row))  # names are text, not markup
    return result


_LINE = 28
"""Width of a last column that is broken into lines."""

_WORD = 10
"""Least width of it."""

_BETWEEN = 2
"""Blanks between two columns."""


@dataclass(frozen=True, slots=True)
class FittedTable:
    """A table that leaves out columns where it is wider than the terminal; names are never cut.

    Attributes
    ----------
    title, columns, rows
        These are the parameters of `table`. Only the last column may be broken into lines.
    spare
        Headings of the columns that may be left out, the least important first.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    spare: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Yield the table with as many columns as fit."""
        left_out: set[str] = set()
        for heading in self.spare:
            if self._width(left_out) <= options.max_width:
                break
            left_out.add(heading)
        kept = [i for i, heading in enumerate(self.columns) if heading not in left_out]
        rows = ([row[i] for i in kept] for row in self.rows)
        result = table(self.title, [self.columns[i] for i in kept], rows)
        for column in result.columns[:-1]:  # unbroken as long as there is room
            column.no_wrap = self._width(left_out, _WORD) <= options.max_width
        yield result

    def _width(self, left_out: set[str], last_width: int = _LINE) -> int:
        """Return the columns of a terminal that the table needs without some of its own.

        The last column takes `last_width` at most.
        """
        width = 0
        for i, heading in enumerate(self.columns):
            cells = [heading.removeprefix("<"), *(row[i] for row in self.rows)]
            widest = max(map(cell_len, cells))
            last = i == len(self.columns) - 1
            if heading not in left_out:
                width += min(widest, last_width) if last else widest + _BETWEEN
        return width


def plain(shown: RenderableType) -> str:
    """Return the text that a terminal of 120 columns shows, without colours."""
    stream = io.StringIO()
    Console(file=stream, width=120, color_system=None).print(shown)
    return stream.getvalue().rstrip()
