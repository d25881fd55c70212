"""What a runtime is: it compiles a model in the formats asked for and says what really runs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import torch

from aiq.errors import InputError, RuntimeUnavailableError
from aiq.formats import Format, parse
from aiq.graph import LayerGraph, Op

Inputs = tuple[torch.Tensor, ...]
"""Positional arguments of one call of a model."""


class Support(StrEnum):
    """How a runtime executes an operator in a format.

    ``native`` computes in the format's own arithmetic; ``dequant`` stores the weights small and
    computes wide; ``emulated`` gives the format's results at the speed of another format;
    ``none`` cannot run it.
    """

    NATIVE = "native"
    DEQUANT = "dequant"
    EMULATED = "emulated"
    NONE = "none"


class Mismatch(NamedTuple):
    """A layer that runs in another format than the one asked for."""

    layer: str
    asked: str
    realised: str


@dataclass(frozen=True, slots=True)
class Compiled:
    """A model that a runtime has compiled for the shapes of its example inputs.

    Attributes
    ----------
    runtime
        Name of the runtime.
    asked
        Format asked for, by layer.
    realised
        Format of the kernel that the compiled program really calls, by layer.
    kernels
        Name of that kernel, by layer: the evidence for `realised`.
    shapes
        Shapes of the inputs it was compiled for.
    threads
        Threads it was compiled for.
    function
        The compiled program.
    """

    runtime: str
    asked: Mapping[str, str]
    realised: Mapping[str, str]
    kernels: Mapping[str, str]
    shapes: tuple[tuple[int, ...], ...]
    threads: int
    function: Callable[..., Any]

    @property
    def mismatches(self) -> tuple[Mismatch, ...]:
        """The layers whose realised format differs from the one asked for."""
        return tuple(
            Mismatch(layer, asked, self.realised[layer])
            for layer, asked in self.asked.items()
            if self.realised[layer] != asked
        )

    def __call__(self, *inputs: torch.Tensor) -> Any:  # noqa: ANN401 - what the model returns
        """Run the program.

        Raises
        ------
        InputError
            If the shapes of `inputs` are not the ones it was compiled for.
        """
        shapes = tuple(tuple(x.shape) for x in inputs)
        if shapes != self.shapes:
            raise InputError(
                f"The program was compiled for inputs of shape {_say(self.shapes)} and was given "
                f"{_say(shapes)}; compile it again for the new shape."
            )
        with torch.no_grad():
            return self.function(*inputs)


def _say(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join("x".join(map(str, shape)) or "()" for shape in shapes) or "nothing"


class Runtime(Protocol):
    """What executes a plan."""

    name: str

    @property
    def version(self) -> str:
        """Version of the software behind it."""
        ...

    def unavailable(self) -> str | None:
        """Say in one sentence why it cannot run here and what to install; ``None`` if it can."""
        ...

    def support(self, op: Op, fmt: Format) -> Support:
        """Return how operator `op` is executed in format `fmt` on this machine."""
        ...

    def compile(
        self,
        model: torch.nn.Module,
        example_inputs: Inputs,
        formats: Mapping[str, Format],
        calibration: Iterable[Inputs],
        *,
        emulate: bool = False,
    ) -> Compiled:
        """Compile `model` so that each layer runs in its format.

        Parameters
        ----------
        model
            Module in evaluation mode; it is not modified.
        example_inputs
            Positional arguments of one call; the program is compiled for their shapes.
        formats
            Format by layer name (names of `aiq.graph.trace`); layers not named run in float32.
        calibration
            Batches on which the ranges of quantised activations are observed. Only read where a
            format quantises activations.
        emulate
            Allow formats that the runtime can only emulate.

        Raises
        ------
        RuntimeUnavailableError
            If the runtime is not installed, or has no kernel for a format of the plan.
        InputError
            If `formats` names a layer that the model does not have, or no calibration batch is
            given for a format that needs one.
        """
        ...


_RUNTIMES = {
    "eager": "aiq.runtimes.eager:Eager",
    "inductor": "aiq.runtimes.inductor:Inductor",
}


def names() -> tuple[str, ...]:
    """Return the names of all runtimes, installed or not."""
    return tuple(_RUNTIMES)


def get(name: str) -> Runtime:
    """Return the runtime called `name`.

    Raises
    ------
    RuntimeUnavailableError
        If there is no such runtime, or it is not installed.
    """
    if name not in _RUNTIMES:
        raise RuntimeUnavailableError(
            f"Unknown runtime {name!r}; choose one of {', '.join(_RUNTIMES)}."
        )
    module, _, attribute = _RUNTIMES[name].partition(":")
    runtime: Runtime = getattr(import_module(module), attribute)()
    reason = runtime.unavailable()
    if reason is not None:
        raise RuntimeUnavailableError(reason)
    return runtime


def resolve(
    runtime: Runtime, graph: LayerGraph, formats: Mapping[str, Format], *, emulate: bool
) -> dict[str, Format]:
    """Return the format of every quantizable layer of `graph`, checked against the runtime.

    Raises
    ------
    InputError
        If `formats` names a layer that `graph` does not have.
    RuntimeUnavailableError
        If the runtime cannot run one of the formats, or only by emulation and `emulate` is false.
    """
    layers = {layer.name: layer for layer in graph.quantizable}
    for name in formats:
        if name not in layers:
            close = get_close_matches(name, layers, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see `aiq graph` for its layers."
            raise InputError(f"The model has no quantizable layer {name!r}; {hint}")
    resolved = {name: formats.get(name, parse("fp32")) for name in layers}
    for name, fmt in resolved.items():
        op = layers[name].op
        support = runtime.support(op, fmt)
        if support is Support.NONE:
            raise RuntimeUnavailableError(
                f"Runtime {runtime.name} cannot run {op} layer {name!r} in {fmt}; choose another "
                "format for it or another runtime."
            )
        if support is Support.EMULATED and not emulate:
            raise RuntimeUnavailableError(
                f"Runtime {runtime.name} has no {fmt} kernel for {op} layer {name!r} on this "
                "machine and can only emulate it; choose another format, or allow emulation."
            )
    return resolved
