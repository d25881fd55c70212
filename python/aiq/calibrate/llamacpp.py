"""What calibrates llama.cpp: decoders of random weights as files, each in one format."""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from aiq.calibrate.decoders import CONTEXT, DecoderRuntime
from aiq.formats import parse
from aiq.gguf import stand_in
from aiq.gguf.llamacpp import LlamaCpp
from aiq.gguf.write import write_gguf
from aiq.graph import Trace
from aiq.runtimes import placement

FORMATS = ("fp32", "w4g32", "w4g32z", "w5g32", "w5g32z", "w8g32")


def llama_cpp() -> DecoderRuntime:
    """Return llama.cpp as a runtime of decoders."""
    version = f"xllamacpp {metadata.version('xllamacpp')}"
    return DecoderRuntime(placement.GGUF, version, _open)


def _open(model: Any, traced: Trace, folder: Path, threads: int) -> Mapping[str, LlamaCpp]:  # noqa: ANN401
    """Write a file in each format, and open it."""
    found = {}
    for name in FORMATS:
        path = folder / f"{name}.gguf"
        formats = {layer.name: parse(name) for layer in traced.graph.quantizable}
        write_gguf(model, path, formats, traced, [], stand_in.tokenizer())
        found[name] = LlamaCpp(path, CONTEXT, threads)
    return found
