"""Run a decoder from a folder: it reads tokens after others, and writes new ones."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from numbers import Integral
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from aiq import files
from aiq.errors import InputError, reason, type_of
from aiq.runtimes.door import door

Logits = npt.NDArray[np.float32]
Feed = Mapping[str, npt.NDArray[Any]]


LONGER_BUFFERS = "aiq.longer_cache_buffers"
"""Property of an ONNX model whose buffers of the cache may be longer than what they hold."""

_LEAST_ROOM = 256
"""Tokens for which buffers of a cache have room at first; the room doubles when it is used up."""


_LONGEST_CONFIG = 2**20
"""Largest size of a configuration in bytes."""


class _Config(msgspec.Struct):
    """What a configuration of transformers says of texts; GPT-2 has another name for positions."""

    vocab_size: int
    max_position_embeddings: int | None = None
    n_positions: int | None = None


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

    It holds one text, so it works for one thread at a time.

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
        If the folder holds no such decoder. All methods raise it while another thread is in one,
        and if tokens are not in the vocabulary or more than the decoder has positions for; the
        cache is then as it was.
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
        self._vocabulary, self._positions = _limits(path.parent / "config.json")
        self._lock = threading.RLock()
        self.length = 0
        with door(opener.name, f"open {path}", "export the plan again"):
            self._program = opener(path, threads)

    def reset(self) -> None:
        """Forget all tokens."""
        with self._alone():
            self.length = 0
            self._program.reset()

    def logits(self, tokens: Sequence[int]) -> Logits:
        """Read tokens after those in the cache, and return their logits, (tokens, vocabulary)."""
        with self._alone():
            numbers = self._checked(tokens, self.length)
            start, stop = self.length, self.length + len(numbers)
            feed: Feed = {
                "input_ids": np.array([numbers], np.int64),
                "attention_mask": np.ones((1, stop), np.int64),
                "position_ids": np.arange(start, stop, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
            try:
                with door(self._program.name, "read these tokens", "export the plan again"):
                    (found,) = self._program.run(feed)
            except BaseException:
                self.reset()  # the cache may hold a part of them
                raise
            self.length = stop
            return found

    def generate(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """Read a prompt after a reset, and return the likeliest tokens that follow, one by one."""
        if type(tokens) is not int or tokens < 0:
            raise InputError(f"tokens is {tokens!r:.50}; give a number of 0 or more.")
        with self._alone():
            unread = self._checked(prompt, max(tokens - 1, 0))  # nothing reads the last token
            self.reset()
            written: list[int] = []
            for _ in range(tokens):
                unread = [int(self.logits(unread)[-1].argmax())]
                written += unread
            return written

    def run(self, prompt: Sequence[int], tokens: int) -> PromptTimes:
        """Read a prompt after a reset, and return the times of it and of `tokens` tokens after it.

        The tokens are those of the prompt again, as times do not depend on them.
        """
        if type(tokens) is not int or tokens < 1:
            raise InputError(f"tokens is {tokens!r:.50}; give a number of 1 or more.")
        with self._alone():
            numbers = self._checked(prompt, tokens)
            self.reset()
            began, seconds = perf_counter(), []
            self.logits(numbers)
            first = perf_counter() - began
            for token in islice(cycle(numbers), tokens):
                began = perf_counter()
                self.logits([token])
                seconds.append(perf_counter() - began)
            return PromptTimes(first, float(np.median(seconds)))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuse to work for two threads at a time."""
        if not self._lock.acquire(blocking=False):
            raise InputError(
                "The decoder is at work in another thread, and holds one text only; open a "
                "Generator in each thread."
            )
        try:
            yield
        finally:
            self._lock.release()

    def _checked(self, tokens: Sequence[int], others: int) -> list[int]:
        """Return tokens as a list, if the decoder can read them and so many others."""
        if not hasattr(tokens, "__iter__"):
            raise InputError(
                f"The tokens are {type_of(tokens)}; give a list of the numbers of a tokenizer."
            )
        found = list(tokens)
        if not found:
            raise InputError("There is no token to read; give at least one.")
        if not all(isinstance(token, Integral) and token >= 0 for token in found):
            raise InputError("A token is no number of 0 or more; give the numbers of a tokenizer.")
        if max(found) >= self._vocabulary:
            raise InputError(
                f"Token {max(found)} is none of the decoder's {self._vocabulary}; give the numbers "
                "of its own tokenizer."
            )
        if self._positions is not None and len(found) + others > self._positions:
            raise InputError(
                f"The text would have {len(found) + others} tokens, and the decoder has positions "
                f"for {self._positions}; give a shorter prompt, or write fewer tokens."
            )
        return found


def _limits(path: Path) -> tuple[int, int | None]:
    """Return the size of the vocabulary and the number of positions, ``None`` if any will do."""
    text = files.read_text(path, _LONGEST_CONFIG, "export the plan again")
    try:
        found = msgspec.convert(json.loads(text), _Config)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InputError(
            f"{path} is no configuration of a decoder ({reason(error)}); export the plan again."
        ) from None
    return found.vocab_size, found.max_position_embeddings or found.n_positions


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
