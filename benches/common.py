"""Functions of all benchmarks: results are kept with the machine, the versions and the seeds.

A benchmark writes two files. ``benches/results/<name>.json`` is its summary, with the numbers that
the documentation quotes; git keeps it. ``benches/raw/<name>.json`` holds the rows behind it, from
which a run that was stopped goes on; git ignores it.

A benchmark that can run in part passes its rows through `joined`: rows that it did not measure stay
as they were published, from whichever machine, and each row says when and where it was measured.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from aiq import files, machine
from aiq.errors import AiqError

RESULTS = Path(__file__).parent / "results"
RAW = Path(__file__).parent / "raw"
ABOUT = ("command", "machine", "seeds")
"""What each file says of the run that wrote it."""
NAMES = ("mean", "tool", "plan", "rounding")
"""Fields that name a row in a list of rows."""
STAMP = ("date", "cpu")
"""Fields that say when and where a row was measured."""
console = Console(width=None if sys.stdout.isatty() else 160)  # no width limit in files


def save(
    name: str,
    summary: Mapping[str, Any],
    seeds: Sequence[int],
    rows: Mapping[str, Any] | None = None,
) -> None:
    """Write the summary and, if there are any, the rows behind it.

    Both files begin with the command, the machine, the versions and the seeds.
    """
    about = {
        "command": command(),
        "machine": machine.describe(),
        "seeds": list(seeds),
    }
    _write(RESULTS / f"{name}.json", {**about, **summary})
    if rows is not None:
        _write(RAW / f"{name}.json", {**about, "rows": dict(rows)})
    print(f"\nwrote benches/results/{name}.json")


def command() -> str:
    """Return the command that runs, with ``PATH`` for the places of files on this machine."""
    words = ("PATH" if Path(word).is_absolute() else word for word in sys.argv[1:])
    return " ".join(["python", f"benches/{Path(sys.argv[0]).name}", *words])


def earlier(name: str) -> dict[str, Any]:
    """Return the rows of an earlier run with the same machine and versions, or `{}`."""
    path = RAW / f"{name}.json"
    if not path.exists():
        return {}
    document: dict[str, Any] = json.loads(path.read_text())
    here, there = machine.describe(), document["machine"]
    if there != here:
        differ = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        raise SystemExit(
            f"benches/raw/{name}.json was measured on another machine or with other versions "
            f"({', '.join(differ)}); move it away to measure anew."
        )
    rows: dict[str, Any] = document["rows"]
    return rows


def published(name: str) -> dict[str, Any]:
    """Return the summary of an earlier run, whatever its machine and versions, or `{}`."""
    path = RESULTS / f"{name}.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    return {key: value for key, value in document.items() if key not in ABOUT}


def joined(known: Any, found: Any, depth: int = 1, count: str | None = None) -> Any:
    """Return published rows, with those that were measured in the place of rows of their names.

    Parameters
    ----------
    known
        Published rows: name -> row, or a list of rows with `NAMES`; ``None`` for none.
    found
        Measured rows, of the same kind. A row without a date gets today's and this processor; one
        with the numbers that were published is the published row.
    depth
        How many names lead to a row. With 2, a value of `known` is itself a table of rows.
    count
        Field of a row that counts what it sums up. A row over less than the published one would
        replace what a whole run found by what a part found, and is left out.
    """
    if isinstance(found, list):
        before, now = ({_name(row): row for row in rows} for rows in (known or [], found))
        return list(joined(before, now, depth, count).values())
    if depth:
        known = known or {}
        rows = {key: joined(known.get(key), row, depth - 1, count) for key, row in found.items()}
        return {**known, **rows}
    if not isinstance(found, Mapping) or "date" in found:
        return found
    numbers = {key: value for key, value in (known or {}).items() if key not in STAMP}
    same = numbers == json.loads(json.dumps(found))
    if known and (same or (count and found.get(count, 0) < known.get(count, 0))):
        return known
    host = machine.describe()
    cpu = f"{host['cpu']} {host.get('cpu_id', '')}".strip()
    return {**found, "date": datetime.now(UTC).date().isoformat(), "cpu": cpu}


def said(error: Exception) -> str:
    """Return an error as one line, with its type unless it is an error of aiq."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, AiqError) else f"{type(error).__name__}: {text}"


def _name(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(field) for field in NAMES)


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(path, json.dumps(document, indent=1) + "\n")
