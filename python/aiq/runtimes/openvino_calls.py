"""Calls of a program of OpenVINO, by several threads at once, that copy no more than they must."""

import threading
from collections.abc import Sequence
from typing import Any

import openvino
import torch
from numpy.typing import NDArray


class Request:
    """A request, which holds the tensors of one call.

    Parameters
    ----------
    program
        The compiled program.
    """

    def __init__(self, program: openvino.CompiledModel) -> None:
        self._request = program.create_infer_request()
        # That of the class itself would wrap a dictionary of copies of all outputs.
        self._infer = super(openvino.InferRequest, self._request).infer  # type: ignore[misc]
        self._bound = [0] * len(program.inputs)
        is_fixed = all(output.partial_shape.is_static for output in program.outputs)
        self._count = len(program.outputs)
        self._outputs = self._read() if is_fixed else None

    def run(self, inputs: Sequence[torch.Tensor]) -> list[NDArray[Any]]:
        """Return the outputs in the memory of the request, where the next run overwrites them."""
        for index, x in enumerate(inputs):
            # An input stays bound, and its memory in use, until another takes its place.
            if (address := x.data_ptr()) != self._bound[index]:
                tensor = openvino.Tensor(x.numpy(), shared_memory=True)
                self._request.set_input_tensor(index, tensor)
                self._bound[index] = address
        self._infer({}, True, True)  # share outputs, decode strings
        return self._read() if self._outputs is None else self._outputs

    @property
    def profile(self) -> Sequence[Any]:
        """Times of the kernels in the last run."""
        found: Sequence[Any] = self._request.profiling_info
        return found

    def _read(self) -> list[NDArray[Any]]:
        return [self._request.get_output_tensor(index).data for index in range(self._count)]


class Calls:
    """A function that runs a program, and that several threads may call at once.

    Parameters
    ----------
    program
        The compiled program.
    """

    def __init__(self, program: openvino.CompiledModel) -> None:
        self._program = program
        self._free = [Request(program)]
        self._own = threading.local()

    def __call__(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return copies of the outputs; a call uses a free request, or a new one if none is."""
        try:
            request = self._free.pop()
        except IndexError:
            request = Request(self._program)
        try:
            return [torch.from_numpy(output.copy()) for output in request.run(inputs)]
        finally:
            self._free.append(request)

    def reusing(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the outputs without a copy, in the memory of a request of the calling thread."""
        try:
            request, known, views = self._own.last
        except AttributeError:
            request, known, views = Request(self._program), None, []
        found = request.run(inputs)
        if found is not known:
            views = [torch.from_numpy(output) for output in found]
            self._own.last = request, found, views
        return [*views]
