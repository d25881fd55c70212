"""The table of `benches/encoder.py`."""

import json
from collections.abc import Iterator
from pathlib import Path

HEADER = ("batch", "program", "ms", "time / plan's", "drop of the rank correlation")
PLAN = "plan"


def encoder(results: Path) -> Iterator[list[str]]:
    """Yield for each batch size and program its time and its drop."""
    batches = json.loads((results / "encoder.json").read_text())["batches"]
    for batch, row in sorted(batches.items(), key=lambda item: int(item[0])):
        formats = ", ".join(f"{count} {name}" for name, count in sorted(row["formats"].items()))
        for name, found in row["candidates"].items():
            against = found["time_over_plan"]
            interval = f" ({against['low']:.3f} - {against['high']:.3f})" if name != PLAN else ""
            yield [
                batch,
                f"**plan of aiq**: {formats}" if name == PLAN else name,
                f"{1e3 * found['seconds']['value']:.2f}",
                f"{against['value']:.3f}{interval}",
                f"{found['drop']:.4f} ± {found['drop_error']:.4f}",
            ]
