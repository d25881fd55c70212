"""What a runtime is: it compiles a model in the formats asked for and says what really runs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils import _pytree as pytree

from aiq.errors import InputError, RuntimeUnavailableError
from aiq.formats import Format, parse
from aiq.graph import LayerGraph, Op
from aiq.graph.export import Inputs, call_arguments
from aiq.runtimes.kernels import Kernel


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
    keywords
        Names of the inputs that are passed by name, in their order after the positional ones.
    threads
        Threads it was compiled for.
    function
        The compiled program: takes the tensors of a call, returns what the model returns.
    """

    runtime: str
    asked: Mapping[str, str]
    realised: Mapping[str, str]
    kernels: Mapping[str, str]
    shapes: tuple[tuple[int, ...], ...]
    keywords: tuple[str, ...]
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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the model's
        """Run the program on the arguments of the model.

        Raises
        ------
        InputError
            If they are not those of the example, in number, name or shape.
        """
        if kwargs.keys() != set(self.keywords):
            raise InputError(
                f"The program was compiled for the keywords ({', '.join(self.keywords)}) and was "
                f"given ({', '.join(kwargs)}); pass the arguments as in the example inputs."
            )
        inputs = pytree.tree_leaves((args, [kwargs[name] for name in self.keywords]))
        shapes = tuple(x.shape for x in inputs)
        if shapes != self.shapes:
            raise InputError(
                f"The program was compiled for inputs of shape {_say(self.shapes)} and was given "
                f"{_say(shapes)}; compile it again for the new shape."
            )
        with torch.no_grad():
            return self.function(*inputs)


def leaves(inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """Return the tensors of a call in the order in which a program takes them.

    Raises
    ------
    InputError
        If something else than tensors is passed to the model.
    """
    found = pytree.tree_leaves(call_arguments(inputs))
    for value in found:
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"The example inputs hold a {type(value).__name__}, and a compiled program takes "
                "tensors only; wrap the model in a module that fixes the other arguments."
            )
    return tuple(found)


def _say(shapes: Iterable[Iterable[int]]) -> str:
    return ", ".join("x".join(map(str, shape)) or "()" for shape in shapes) or "nothing"


class Runtime(Protocol):
    """What executes a plan."""

    name: str

    @property
    def version(self) -> str:
        """Version of the software behind it."""
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
            Arguments of one call; the program is compiled for their shapes.
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


class _Entry(NamedTuple):
    path: str
    needs: tuple[str, ...] = ()
    extra: str = ""


_RUNTIMES = {
    "eager": _Entry("aiq.runtimes.eager:Eager"),
    "inductor": _Entry("aiq.runtimes.inductor:Inductor"),
    "onnxruntime": _Entry(
        "aiq.runtimes.onnxruntime:OnnxRuntime", ("onnx", "onnxruntime", "onnxscript"), "onnx"
    ),
    "openvino": _Entry(
        "aiq.runtimes.openvino:OpenVino", ("onnx", "onnxscript", "openvino"), "openvino"
    ),
}


def names() -> tuple[str, ...]:
    """Return the names of all runtimes, installed or not."""
    return tuple(_RUNTIMES)


def available() -> tuple[str, ...]:
    """Return the names of the runtimes that can run here."""
    found = []
    for name in _RUNTIMES:
        try:
            get(name)
        except RuntimeUnavailableError:
            continue
        found.append(name)
    return tuple(found)


def get(name: str) -> Runtime:
    """Return the runtime called `name`.

    Raises
    ------
    RuntimeUnavailableError
        If there is no such runtime, or something that it needs is not installed.
    """
    if name not in _RUNTIMES:
        raise RuntimeUnavailableError(
            f"Unknown runtime {name!r}; choose one of {', '.join(_RUNTIMES)}."
        )
    path, needs, extra = _RUNTIMES[name]
    missing = [package for package in needs if find_spec(package) is None]
    if missing:
        raise RuntimeUnavailableError(
            f"Runtime {name} needs {' and '.join(missing)}: `pip install 'aiq[{extra}]'`."
        )
    module, _, attribute = path.partition(":")
    runtime: Runtime = getattr(import_module(module), attribute)()
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


def compiled(
    runtime: Runtime,
    formats: Mapping[str, Format],
    kernels: Mapping[str, Kernel],
    example_inputs: Inputs,
    function: Callable[..., Any],
) -> Compiled:
    """Return `function` with what was asked for and the kernels found; for runtimes.

    A layer without a kernel is ``unknown``: its work was folded away, or the runtime's names have
    changed.
    """
    unknown = Kernel("unknown", "unknown", ())
    found = {name: kernels.get(name, unknown) for name in formats}
    return Compiled(
        runtime=runtime.name,
        asked={name: fmt.name for name, fmt in formats.items()},
        realised={name: kernel.format for name, kernel in found.items()},
        kernels={name: kernel.name for name, kernel in found.items()},
        shapes=tuple(tuple(x.shape) for x in leaves(example_inputs)),
        keywords=tuple(call_arguments(example_inputs)[1]),
        threads=torch.get_num_threads(),
        function=function,
    )
