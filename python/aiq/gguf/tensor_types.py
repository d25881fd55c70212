"""A plan as a list of types for ``llama-quantize``, which makes the file from one in float16."""

from collections.abc import Mapping
from pathlib import Path

import torch

from aiq import files
from aiq.formats import Format
from aiq.gguf import header
from aiq.gguf.tensors import kinds
from aiq.graph import Trace


def write_types(
    model: torch.nn.Module, path: Path, formats: Mapping[str, Format], traced: Trace, *_: object
) -> None:
    """Write the types of all layers, one ``name=type`` a line.

    What else `aiq.gguf.write.write_gguf` takes is not needed.

    ``llama-quantize --tensor-type-file PATH model-f16.gguf model.gguf Q8_0`` reads them. A type may
    be changed by hand to one that aiq does not write, such as ``q4_k``.

    Parameters
    ----------
    model, traced
        The decoder, and its trace.
    path
        The file.
    formats
        Layer name -> format, one of `aiq.gguf.blocks.TYPES`.

    Raises
    ------
    GraphError
        If the model is not a decoder that GGUF files can hold.
    InputError
        If a format has no type in GGUF files.
    """
    found = kinds(model, header.architecture(model), traced, formats)
    lines = [f"{name}={kind.lower()}\n" for name, kind in found.items()]
    files.write_atomic(path, "".join(lines))
