"""Names that a caller chooses among, and what is said of a name that is not one of them."""

from collections.abc import Iterable
from difflib import get_close_matches

MEANT = {
    "onnx": "onnxruntime",
    "ort": "onnxruntime",
    "ov": "openvino",
    "pytorch": "inductor",
    "torch": "inductor",
    "accuracy": "top1",
    "ppl": "perplexity",
    "latency": "throughput",
    "speed": "throughput",
    "time": "throughput",
}
"""Usual words for our names that are spelled quite differently."""


def advice(value: object, known: Iterable[str]) -> str:
    """Return what to do about a name that is not one of `known`: the nearest one, and all.

    >>> advice("openvin", ["inductor", "openvino"])
    "did you mean 'openvino'? There are inductor, openvino"
    """
    names = list(dict.fromkeys(map(str, known)))
    text = str(value).strip().lower()
    close = [MEANT[text]] if MEANT.get(text) in names else get_close_matches(text, names, n=1)
    meant = f"did you mean {close[0]!r}? There are" if close else "use one of"
    return f"{meant} {', '.join(names)}"
