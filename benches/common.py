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
    files.write_atomic(path, json.dumps(document, indent=1) + "\n")
    print(f"\nwrote benches/results/{path.name}")
