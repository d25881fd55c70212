"""Search for a machine of your own: from its data sheet, without having it.

On the machine itself, `aiq calibrate -o mine.yaml` measures all of this, and how fast a runtime is.
"""

from pathlib import Path

from own_model import loader, network

import aiq
from aiq import hardware

PROFILE = """
schema: aiq/hw-profile/v1
name: my_board
description: My board (four Cortex-A72 cores at 1.5 GHz).
provenance:
  method: spec
  date: 2026-11-21
  sources: ["clock, cores and memory: the data sheet of the board"]
threads: 4
compute:
  fp32: {peak_gflops: 48, formula: 4 cores x 1.5 GHz x 8 FLOP/cycle}
  int8: {peak_gflops: 96, formula: 4 cores x 1.5 GHz x 16 OP/cycle}
memory:
  - {level: DRAM, size_kib: 4194304, read_gbps: 12.8, formula: 3.2 GT/s x 4 byte}
"""


def main() -> None:
    """Write a profile, check it, and search for it; predicted times are then lower bounds."""
    path = Path("my_board.yaml")
    path.write_text(PROFILE, encoding="utf-8")
    board = hardware.validate(path)
    model = network()
    plan = aiq.search(model, board, loader(), formats="fp32,w8a8", max_drop=0.05)
    print(plan)


if __name__ == "__main__":
    main()
