"""The C interface of llama.cpp inside the Python package xllamacpp, for what its classes lack.

These are the logits of all tokens of a text, and the quantisers of all block types. Structures are
passed as opaque bytes: only the three sizes at the beginning of ``llama_context_params`` are set,
and only if their defaults are those that this file expects.
"""

import ctypes
from pathlib import Path
from types import TracebackType
from typing import Self

import gguf
import numpy as np
import numpy.typing as npt
import xllamacpp

DEFAULTS = (512, 2048, 512)  # n_ctx, n_batch, n_ubatch


class _Options(ctypes.Structure):
    _fields_ = (("sizes", ctypes.c_uint32 * 3), ("others", ctypes.c_ubyte * 500))


class _Batch(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embedding", ctypes.c_void_p),
        ("position", ctypes.POINTER(ctypes.c_int32)),
        ("sequences", ctypes.POINTER(ctypes.c_int32)),
        ("sequence", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


def _library() -> ctypes.CDLL:
    """Return the library with the types of the functions that are used."""
    found = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("*.so"))))
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    types = {
        "llama_model_default_params": (_Options, ()),
        "llama_context_default_params": (_Options, ()),
        "llama_model_load_from_file": (pointer, (ctypes.c_char_p, _Options)),
        "llama_init_from_model": (pointer, (pointer, _Options)),
        "llama_set_n_threads": (None, (pointer, number, number)),
        "llama_get_memory": (pointer, (pointer,)),
        "llama_memory_clear": (None, (pointer, ctypes.c_bool)),
        "llama_batch_init": (_Batch, (number, number, number)),
        "llama_batch_free": (None, (_Batch,)),
        "llama_decode": (number, (pointer, _Batch)),
        "llama_get_logits": (ctypes.POINTER(ctypes.c_float), (pointer,)),
        "llama_free": (None, (pointer,)),
        "llama_model_free": (None, (pointer,)),
        "llama_log_set": (None, (pointer, pointer)),
        "ggml_quantize_chunk": (
            ctypes.c_size_t,
            (number, pointer, pointer, *(ctypes.c_int64,) * 3, pointer),
        ),
    }
    for name, (result, arguments) in types.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


LIBRARY = _library()
_SILENT = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
LIBRARY.llama_log_set(ctypes.cast(_SILENT, ctypes.c_void_p), None)


def quantize(
    weight: npt.NDArray[np.float32], kind: gguf.GGMLQuantizationType
) -> npt.NDArray[np.uint8]:
    """Return a matrix as blocks, rounded by llama.cpp without an importance matrix."""
    rows, columns = weight.shape
    weight = np.ascontiguousarray(weight, np.float32)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.empty((rows, columns // block * size), np.uint8)
    written = LIBRARY.ggml_quantize_chunk(
        int(kind), weight.ctypes.data, blocks.ctypes.data, 0, rows, columns, None
    )
    assert written == blocks.nbytes, (kind, written, blocks.nbytes)
    return blocks


class Model:
    """A GGUF file in llama.cpp, of which the logits of all tokens can be read."""

    def __init__(self, path: Path, context: int, threads: int = 1) -> None:
        options = LIBRARY.llama_context_default_params()
        if tuple(options.sizes) != DEFAULTS:
            raise SystemExit("This version of xllamacpp has another interface; see llm_native.py.")
        options.sizes[:] = context, context, context
        self._model = LIBRARY.llama_model_load_from_file(
            str(path).encode(), LIBRARY.llama_model_default_params()
        )
        self._context = LIBRARY.llama_init_from_model(self._model, options)
        LIBRARY.llama_set_n_threads(self._context, threads, threads)
        self._batch = LIBRARY.llama_batch_init(context, 0, 1)

    def logits(self, tokens: list[int], vocabulary: int, start: int = 0) -> npt.NDArray[np.float32]:
        """Return the logits of all tokens, (tokens, vocabulary), after `start` earlier ones."""
        if start == 0:
            LIBRARY.llama_memory_clear(LIBRARY.llama_get_memory(self._context), True)
        batch = self._batch
        batch.count = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.position[i] = token, start + i
            batch.sequences[i], batch.sequence[i][0], batch.logits[i] = 1, 0, 1
        if LIBRARY.llama_decode(self._context, batch):
            raise SystemExit("llama.cpp could not decode the text.")
        found = LIBRARY.llama_get_logits(self._context)
        return np.ctypeslib.as_array(found, (len(tokens), vocabulary)).copy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        LIBRARY.llama_batch_free(self._batch)
        LIBRARY.llama_free(self._context)
        LIBRARY.llama_model_free(self._model)
