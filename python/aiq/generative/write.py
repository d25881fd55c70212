"""Write a decoder, every layer in its planned format, to a folder from which a runtime writes text.

The folder holds what ``save_pretrained`` of an exported model of transformers writes: the program,
``export.json``, and the configuration of the model. Programs that read such folders, as OpenVINO
GenAI and ``transformers.exporters`` do, therefore open it without aiq.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from aiq.decoders import check_decoder, read_tokenizer, token_input
from aiq.errors import GraphError, InputError, RuntimeUnavailableError, VerificationError
from aiq.exporting import exporting
from aiq.files import explained
from aiq.formats import Format
from aiq.generative.matrices import Matrix, rounded
from aiq.generative.program import Generator
from aiq.graph import Trace
from aiq.graph.export import Inputs
from aiq.quantize.weights import weight_only
from aiq.runtimes import registry
from aiq.runtimes.door import door
from aiq.runtimes.verification import FLOAT32_ROUNDING

MANIFEST = "export.json"
"""File that every such folder has."""

RUNTIMES = ("openvino", "onnxruntime")
"""Runtimes for which folders are written."""

ADVICE = "export the plan to a .gguf file, or choose another runtime"
"""What to do if a runtime cannot run a decoder."""

_CACHED, _NEW = 3, 2
"""Tokens in the cache and after it while a decoder is traced; both numbers are free later."""

_CHECKED = 24
"""Tokens of the text on which a program is compared."""


def write_folder(
    model: nn.Module,
    folder: Path,
    formats: Mapping[str, Format],
    traced: Trace,
    calibration: Sequence[Inputs],
    tokenizer: Any = None,  # noqa: ANN401
    *,
    runtime: str,
) -> None:
    """Write a decoder of transformers, every layer in its format, to a folder.

    The folder is written to another place first, and opened there. Only if its logits are those of
    the network with rounded weights does it replace the folder at `folder`.

    Parameters
    ----------
    model, traced
        The decoder, and its trace.
    folder
        The folder. One that exists must be empty, or hold an exported model.
    formats
        Layer name -> format; layers that are not named stay float32.
    calibration
        Inputs by which weights are rounded and biases corrected, if the plan or model needs it.
    tokenizer
        Tokenizer of transformers, a folder that holds one, or ``None``.
    runtime
        One of `RUNTIMES`.

    Raises
    ------
    RuntimeUnavailableError
        If a package is not installed, or cannot export the decoder.
    GraphError
        If the model is not a decoder of transformers.
    InputError
        If a format has no kernel, or the folder cannot be written.
    VerificationError
        If the program computes other logits than the network with rounded weights.
    """
    check_decoder(model)
    check_target_folder(folder)
    folded, simulator = weight_only(traced, calibration)
    own, matrices = rounded(model, folded, simulator, formats)
    words = read_tokenizer(tokenizer, own.get_input_embeddings().num_embeddings)
    with tempfile.TemporaryDirectory(dir=_parent(folder)) as place:
        draft = Path(place) / "draft"
        with door(runtime, "export this decoder", ADVICE), exporting():
            exported = exported_decoder(own, runtime)
            store(exported.program, runtime, matrices)
            exported.generation_config = getattr(model, "generation_config", None)
            exported.save_pretrained(draft)
            _save_tokenizer(words, draft, runtime)
        del exported
        with door(runtime, "run this decoder", ADVICE):
            _check(own, draft, calibration)
        with explained(folder):
            _replace(folder, draft, Path(place) / "replaced")


def _replace(folder: Path, draft: Path, replaced: Path) -> None:
    """Put `draft` in the place of a folder, which stays as it was if that fails or is interrupted.

    A process that is killed between the two renames leaves the folder at `replaced`.
    """
    try:
        if folder.exists():
            folder.rename(replaced)
        draft.rename(folder)
    except BaseException:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        raise


def folder_writer(runtime: str | None) -> Callable[..., None]:
    """Return `write_folder` for a runtime.

    Raises
    ------
    InputError
        If folders are not written for the runtime.
    RuntimeUnavailableError
        If the runtime or transformers is not installed.
    """
    if runtime not in RUNTIMES:
        raise InputError(
            f"A name without suffix is that of a folder for {' or '.join(RUNTIMES)}, and the "
            f"runtime is {runtime}; give one of these as runtime, or a file such as model.gguf."
        )
    registry.get(runtime)
    if not find_spec("transformers") or not find_spec("transformers.exporters.runners"):
        raise RuntimeUnavailableError(
            "Decoders are exported by transformers 5.23 or later: `pip install 'aiq[llm]'`."
        )
    return partial(write_folder, runtime=runtime)


def check_target_folder(folder: Path) -> None:
    """Check that `write_folder` may write a folder of this name.

    Raises
    ------
    InputError
        If it is a file, or holds something else than an exported model.
    """
    if folder.is_file():
        raise InputError(f"{folder} is a file; give a folder, or a name that ends in .gguf.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise InputError(f"The folder {folder} holds other files; give a new one.")
    _parent(folder)


def _parent(folder: Path) -> Path:
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.parent


def exported_decoder(model: Any, runtime: str) -> Any:  # noqa: ANN401 - objects of transformers
    """Return a decoder as an exported model of transformers, with a cache of any length."""
    from transformers.exporters import (  # noqa: PLC0415
        OnnxConfig,
        OnnxExporter,
        OpenVINOConfig,
        OpenVINOExporter,
    )
    from transformers.exporters.exporter_dynamo import get_auto_dynamic_shapes  # noqa: PLC0415

    # OpenVINO's CPU plugin forgets the cache of an earlier text only if a call may read several.
    batch = 2 if runtime == "openvino" else 1
    inputs, cache = _example(model, batch), _cache_name(model)
    free = dict.fromkeys((0, 1) if batch > 1 else (1,), torch.export.Dim.AUTO)
    grows = {2 if axis else 0: dim for axis, dim in free.items()}
    shapes: dict[str, Any] = dict.fromkeys(("input_ids", "attention_mask", "position_ids"), free)
    every = get_auto_dynamic_shapes(inputs[cache])
    if runtime != "openvino" and any(len(dims) != 4 for dims in every):
        raise GraphError(
            f"{type(model).__name__} attends to a window of tokens in some layers, and aiq writes "
            "no such cache for ONNX Runtime; export it with runtime openvino."
        )
    shapes[cache] = [grows if len(dims) == 4 else {} for dims in every]
    if runtime == "openvino":
        config = OpenVINOConfig(dynamic=True, dynamic_shapes=shapes)
        return OpenVINOExporter().export(model, inputs, config)
    config = OnnxConfig(dynamic=True, dynamic_shapes=shapes, ort_fusions="cpu")
    silent = partial(torch.onnx.export, verbose=False)  # it prints its steps otherwise
    with patch.object(torch.onnx, "export", silent):
        return OnnxExporter().export(model, inputs, config)


def _example(model: Any, batch: int) -> dict[str, Any]:  # noqa: ANN401
    """Return the arguments of a call that reads a few tokens after others in the cache."""
    tokens, name = torch.ones(batch, _CACHED + _NEW, dtype=torch.int64), _cache_name(model)
    with torch.no_grad():
        cache = model(tokens[:, :_CACHED], use_cache=True)[name]
    return {
        "input_ids": tokens[:, _CACHED:],
        "attention_mask": tokens,
        "position_ids": torch.arange(_CACHED, _CACHED + _NEW).expand(batch, -1),
        name: cache,
        "use_cache": True,
    }


def _cache_name(model: Any) -> str:  # noqa: ANN401
    """Return what transformers calls the cache; versions before 5.24 have another name."""
    return "cache" if "cache" in signature(model.forward).parameters else "past_key_values"


def store(program: Any, runtime: str, matrices: Sequence[Matrix]) -> None:  # noqa: ANN401
    """Store the weights of an exported program in their formats."""
    if runtime == "openvino":
        from aiq.generative.ir import compress  # noqa: PLC0415

        compress(program, matrices)
        # For those who open the folder: the plugin would round what matrices read to eight bits.
        program.set_rt_info("0", ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    else:
        from aiq.generative.nbits import pack  # noqa: PLC0415
        from aiq.generative.onnx_cache import allow_longer_buffers  # noqa: PLC0415

        pack(program, matrices)
        allow_longer_buffers(program)


def _save_tokenizer(tokenizer: Any, folder: Path, runtime: str) -> None:  # noqa: ANN401
    """Save a tokenizer as transformers reads it, and as OpenVINO GenAI, if it is installed."""
    if tokenizer is None:
        return
    tokenizer.save_pretrained(folder)
    if runtime == "openvino" and find_spec("openvino_tokenizers"):
        import openvino  # noqa: PLC0415
        from openvino_tokenizers import convert_tokenizer  # noqa: PLC0415

        parts = convert_tokenizer(tokenizer, with_detokenizer=True)
        for part, name in zip(parts, ("tokenizer", "detokenizer"), strict=True):
            openvino.save_model(part, folder / f"openvino_{name}.xml")


@torch.no_grad()
def _check(model: Any, folder: Path, calibration: Sequence[Inputs]) -> None:  # noqa: ANN401
    """Raise `VerificationError` unless a folder computes the logits of a decoder.

    One half of a text is read together, and the other token by token after it.
    """
    tokens = token_input(calibration[0])[:1, :_CHECKED]
    expected = model(tokens, use_cache=False).logits[0].double()
    half = tokens.shape[1] // 2
    program = Generator(folder)
    parts = [program.logits(tokens[0, :half].tolist())] if half else []
    parts += [program.logits([token]) for token in tokens[0, half:].tolist()]
    found = torch.from_numpy(np.concatenate(parts)).double()
    error = float((found - expected).norm() / expected.norm())
    if not error <= FLOAT32_ROUNDING:
        raise VerificationError(
            f"The exported decoder computes other logits than the network with rounded weights "
            f"(relative difference {error:.1e}); export the plan to a .gguf file, and report this."
        )
