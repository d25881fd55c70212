"""Run a decoder from a folder: it reads tokens after others, and writes new ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from numbers import Integral
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from aiq.errors import InputError
from aiq.runtimes.door import door

Logits = npt.NDArray[np.float32]
Feed = Mapping[str, npt.NDArray[Any]]


LONGER_BUFFERS = "aiq.longer_cache_buffers"
"""Property of an ONNX model whose buffers of the cache may be longer than what they hold."""

_LEAST_ROOM = 256
"""Tokens for which buffers of a cache have room at first; the room doubles when it is used up."""


@dataclass(frozen=True, slots=True)
class PromptTimes:
    """The times of a prompt.

    Attributes
    ----------
    first, token
        Seconds to read the prompt, and median of the seconds of each token after it.
    """

    first: float
    token: float


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

    def run(self, prompt: Sequence[int], tokens: int) -> PromptTimes:
        """Read a prompt after a reset, and return the times of it and of `tokens` tokens after it.

        The tokens are those of the prompt again, as times do not depend on them.
        """
        self.reset()
        began, seconds = perf_counter(), []
        self.logits(prompt)
        first = perf_counter() - began
        for token in islice(cycle(prompt), tokens):
            began = perf_counter()
            self.logits([token])
            seconds.append(perf_counter() - began)
        return PromptTimes(first, float(np.median(seconds)))


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
    """A model that reads its cache as inputs, and returns the longer one.

    Attention adds to a buffer in place if the program allows buffers that are longer than what they
    hold, as those of aiq do. The buffer of another program is replaced by a longer one in each
    step.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy
        shapes = {value.name: value.shape for value in self._session.get_inputs()}
        self._fed = [name for name in shapes if not name.startswith("input.")]
        self._sizes = {n: shape[1::2] for n, shape in shapes.items() if n not in self._fed}
        self._adds_in_place = LONGER_BUFFERS in self._session.get_modelmeta().custom_metadata_map
        self.reset()

    def reset(self) -> None:
        self._room = 0
        self._cache = self._buffers(0)

    def run(self, feed: Feed) -> list[Logits]:
        length = feed["attention_mask"].shape[1]
        if self._adds_in_place and length > self._room:
            self._room = max(_LEAST_ROOM, 2 * length)
            earlier, self._cache = self._arrays, self._buffers(self._room)
            for name, array in earlier.items():
                self._arrays[name][:, :, : array.shape[2]] = array
        binding = self._session.io_binding()
        for name in self._fed:
            binding.bind_cpu_input(name, feed[name])
        binding.bind_output("logits")
        for name, buffer in self._cache.items():
            binding.bind_ortvalue_input(name, buffer)
            if self._adds_in_place:
                binding.bind_ortvalue_output(_written(name), buffer)
            else:
                binding.bind_output(_written(name))
        self._session.run_with_iobinding(binding)
        logits, *buffers = binding.get_outputs()
        if not self._adds_in_place:
            self._cache = dict(zip(self._cache, buffers, strict=True))
        return list(logits.numpy())

    def _buffers(self, room: int) -> dict[str, Any]:
        """Return empty buffers for some tokens; they share the memory of `_arrays`."""
        self._arrays = {
            name: np.zeros([1, heads, room, size], np.float32)
            for name, (heads, size) in self._sizes.items()
        }
        return {name: self._value(array) for name, array in self._arrays.items()}


def _written(name: str) -> str:
    """Return the name of the output that is the longer cache of an input."""
    return name.replace("input.", "output.", 1)


_OPENERS: Mapping[str, type[_OpenVino] | type[_OnnxRuntime]] = {
    "openvino_model.xml": _OpenVino,
    "model.onnx": _OnnxRuntime,
}
"""File of the program in a folder -> what opens it."""
