"""What calibrates OpenVINO and ONNX Runtime for decoders: folders of decoders of random weights."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from aiq import runtimes
from aiq.calibrate.decoders import DecoderRuntime
from aiq.formats import parse
from aiq.generative.program import Generator
from aiq.generative.variants import write_variants
from aiq.generative.write import folder_writer
from aiq.graph import Trace
from aiq.hardware.sections import section

FORMATS = ("fp32", "w8", "w4", "w8g32", "w4g32", "w4g64", "w4g32z")


def folder_runtime(runtime: str) -> DecoderRuntime:
    """Return the folders of a runtime as a runtime of decoders.

    Raises
    ------
    RuntimeUnavailableError
        If the runtime or transformers is not installed.
    """
    folder_writer(runtime)
    name, version = section(runtime, decodes=True), runtimes.get(runtime).version
    return DecoderRuntime(name, version, partial(_open, runtime))


def _open(
    runtime: str,
    model: Any,  # noqa: ANN401 - a decoder of transformers
    traced: Trace,
    folder: Path,
    threads: int,
) -> Mapping[str, Generator]:
    """Write a folder in each format, and open it."""
    layers = [layer.name for layer in traced.graph.quantizable]
    plans = {name: dict.fromkeys(layers, parse(name)) for name in FORMATS}
    written = write_variants(model, folder, plans, traced, runtime=runtime)
    return {name: Generator(path, threads) for name, path in written.items()}
