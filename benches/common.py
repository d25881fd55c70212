"""Functions of all benchmarks: results are kept with the machine, the versions and the seeds.

A benchmark writes two files. ``benches/results/<name>.json`` is its summary, with the numbers that
the documentation quotes; git keeps it. ``benches/raw/<name>.json`` holds the rows behind it, from
which a run that was stopped goes on; git ignores it.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from aiq import files, machine
from aiq.errors import AiqError

RESULTS = Path(__file__).parent / "results"
RAW = Path(__file__).parent / "raw"
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
    return json.loads(path.read_text()) if path.exists() else {}


def said(error: Exception) -> str:
    """Return an error as one line, with its type unless it is an error of aiq."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, AiqError) else f"{type(error).__name__}: {text}"


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(path, json.dumps(document, indent=1) + "\n")
