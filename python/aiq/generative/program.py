"""Run a decoder from a folder: it reads tokens after others, and writes new ones."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aiq.errors import InputError
from aiq.runtimes.door import door

Logits = npt.NDArray[np.float32]
Feed = Mapping[str, npt.NDArray[Any]]


class Generator:
    """A decoder in a folder that `aiq.export` wrote, with its cache.

    Parameters
    ----------
    folder
        The folder.
    threads
        Number of threads.

    Attributes
    ----------
    length
        Number of tokens in the cache.

    Raises
    ------
    InputError
        If the folder holds no such decoder.
    RuntimeUnavailableError
        If its runtime is not installed, or cannot open it.
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        found = [(Path(folder) / name, opener) for name, opener in _OPENERS.items()]
        known = [(path, opener) for path, opener in found if path.is_file()]
        if not known:
            raise InputError(
                f"{folder} holds no decoder; give a folder that aiq.export wrote, with "
                f"{' or '.join(_OPENERS)} in it."
            )
        path, opener = known[0]
        self.length = 0
        with door(opener.name, f"open {path}", "export the plan again"):
            self._program = opener(path, threads)

    def reset(self) -> None:
        """Forget all tokens."""
        self.length = 0
        self._program.reset()

    def logits(self, tokens: Sequence[int]) -> Logits:
        """Read tokens after those in the cache, and return their logits, (tokens, vocabulary)."""
        if not len(tokens):
            raise InputError("There is no token to read; give at least one.")
        if not all(isinstance(token, Integral) and token >= 0 for token in tokens):
            raise InputError("A token is no number of 0 or more; give the numbers of a tokenizer.")
        start, stop = self.length, self.length + len(tokens)
        feed: Feed = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, stop), np.int64),
            "position_ids": np.arange(start, stop, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        (found,) = self._program.run(feed)
        if max(tokens) >= found.shape[-1]:
            self.reset()
            raise InputError(
                f"Token {max(tokens)} is none of the decoder's {found.shape[-1]}; give the numbers "
                "of its own tokenizer."
            )
        self.length = stop
        return found

    def generate(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """Read a prompt after a reset, and return the likeliest tokens that follow, one by one."""
        if type(tokens) is not int or tokens < 0:
            raise InputError(f"tokens is {tokens!r:.50}; give a number of 0 or more.")
        self.reset()
        written: list[int] = []
        unread = list(prompt)
        for _ in range(tokens):
            unread = [int(self.logits(unread)[-1].argmax())]
            written += unread
        return written


class _OpenVino:
    """A stateful model, which keeps its cache."""

    name = "openvino"

    def __init__(self, path: Path, threads: int) -> None:
        from aiq.runtimes.openvino_core import core  # noqa: PLC0415

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        program = core().compile_model(path, "CPU", settings)
        self._names = {name for port in program.inputs for name in port.get_names()}
        self._request = program.create_infer_request()

    def reset(self) -> None:
        self._request.reset_state()

    def run(self, feed: Feed) -> list[Logits]:
        given = {name: value for name, value in feed.items() if name in self._names}
        return list(self._request.infer(given)["logits"].copy())


class _OnnxRuntime:
    """A model that reads its cache as inputs, and returns the longer one."""

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {value.name: value.shape for value in self._session.get_inputs()}
        self._outputs = [value.name for value in self._session.get_outputs()]
        self.reset()

    def reset(self) -> None:
        self._cache = {
            name: np.zeros([1, shape[1], 0, shape[3]], np.float32)
            for name, shape in self._inputs.items()
            if name.startswith("input.")
        }

    def run(self, feed: Feed) -> list[Logits]:
        given = {name: value for name, value in feed.items() if name in self._inputs}
        values = self._session.run(self._outputs, {**given, **self._cache})
        found = dict(zip(self._outputs, values, strict=True))
        self._cache = {n: found[n.replace("input.", "output.", 1)] for n in self._cache}
        return list(found["logits"])


_OPENERS: Mapping[str, type[_OpenVino] | type[_OnnxRuntime]] = {
    "openvino_model.xml": _OpenVino,
    "model.onnx": _OnnxRuntime,
}
"""File of the program in a folder -> what opens it."""
