"""Write a decoder to a GGUF file by a plan, and read it back."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import torch

from aiq import files
from aiq.errors import VerificationError
from aiq.formats import Format
from aiq.gguf import header
from aiq.gguf.tensors import Stored, tensors
from aiq.graph import Trace
from aiq.graph.export import Inputs
from aiq.quantize.weights import weight_only

_TOLERANCE = 2.0**-8
"""Largest error of a weight in units of the largest one of its row.

Float16 numbers are wrong by 2^-11 of themselves, and blocks with zero points by 2^-12 of a range.
"""


def write_gguf(
    model: torch.nn.Module,
    path: Path,
    formats: Mapping[str, Format],
    traced: Trace,
    calibration: Sequence[Inputs],
    tokenizer: Any = None,  # noqa: ANN401
) -> None:
    """Write a decoder of transformers, every layer in its format, to a GGUF file.

    The file is written to another place first and read back; only if it holds the weights of the
    simulated network does it replace the file at `path`.

    Parameters
    ----------
    model, traced
        The decoder, and its trace.
    path
        The file.
    formats
        Layer name -> format, one of `aiq.gguf.blocks.TYPES`; others are stored in float32.
    calibration
        Inputs for which biases make up for rounded weights; read only if layers have biases.
    tokenizer
        Tokenizer of transformers, a folder that holds one, or ``None``.

    Raises
    ------
    GraphError
        If the model is not a decoder that GGUF files can hold.
    InputError
        If a format has no type in GGUF files, or the tokenizer cannot be written.
    VerificationError
        If the file holds other numbers than the simulated network.
    """
    architecture = header.architecture(model)
    files.check_target(path)
    folded, simulator = weight_only(traced, calibration)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        writer = gguf.GGUFWriter(draft, architecture)
        header.write_header(writer, model.config, tokenizer)
        stored = list(tensors(model, architecture, folded, simulator, formats))
        for tensor in stored:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        _check(draft, stored)
        files.write_atomic(path, draft.read_bytes())


def _check(draft: Path, stored: Sequence[Stored]) -> None:
    """Raise `VerificationError` unless the file holds the values of all tensors."""
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(draft).tensors}
    for tensor in stored:
        read = found[tensor.name]
        value = torch.tensor(gguf.dequantize(read.data, read.tensor_type)).float()
        exact = tensor.value.reshape(value.shape)
        allowed = _TOLERANCE * exact.abs().amax(-1, keepdim=True)
        if not bool(((value - exact).abs() <= allowed).all()):
            raise VerificationError(
                f"The file does not hold the weights of the simulated network in {tensor.name!r}; "
                "pin that layer to fp32, and report this."
            )
