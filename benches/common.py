"""What every benchmark shares: where results go, and what they say of machine and versions."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from aiq import files, machine

RESULTS = Path(__file__).parent / "results"
console = Console(width=None if sys.stdout.isatty() else 160)  # files have no width to keep to


def save(name: str, results: dict[str, Any], seeds: list[int]) -> None:
    """Write ``results/<name>.json``: the results, the command, the machine, versions and seeds."""
    document = {
        "command": " ".join(["python", f"benches/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": machine.describe(),
        "seeds": seeds,
        **results,
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    files.write_atomic(path, json.dumps(document, indent=1) + "\n")
    print(f"\nwrote benches/results/{name}.json")


def earlier(name: str) -> dict[str, Any]:
    """Return what an earlier run wrote on this machine with these versions, nothing if none did."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return {}
    document: dict[str, Any] = json.loads(path.read_text())
    here = machine.describe()
    if document["machine"] != here:
        there = document["machine"]
        differ = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        raise SystemExit(
            f"benches/results/{name}.json was measured on another machine or with other versions "
            f"({', '.join(differ)}); move it away to measure anew."
        )
    return document
