"""A compiled program: a callable that reports the format in which each layer really runs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from aiq.formats import parse
from aiq.runtimes.door import door
from aiq.runtimes.kernels import RealisedKernel
from aiq.runtimes.signature import Signature


class Mismatch(NamedTuple):
    """A layer that runs in another format than the plan's."""

    layer: str
    asked: str
    realised: str


@runtime_checkable
class Reuses(Protocol):
    """A function that can also return its outputs in memory that it uses again."""

    def reusing(self, *inputs: torch.Tensor) -> Iterable[torch.Tensor]:
        """Return the outputs, which the next call from the same thread overwrites."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A model that a runtime has compiled for the shapes of its example inputs.

    Attributes
    ----------
    runtime
        Name of the runtime.
    signature
        Arguments and results of the program.
    kernels
        Layer name -> kernel of the layer in the program. The format of a layer without a kernel is
        ``unknown``: either its work was folded away, or the runtime's names have changed.
    threads
        Number of threads for which the program was compiled.
    function
        Function from the tensors of a call to the tensors of the result.
    """

    runtime: str
    signature: Signature
    kernels: Mapping[str, RealisedKernel]
    threads: int
    function: Callable[..., Iterable[torch.Tensor]]

    @property
    def asked(self) -> Mapping[str, str]:
        """Layer name -> format in the plan."""
        return self.signature.asked

    @property
    def realised(self) -> dict[str, str]:
        """Layer name -> format of the kernel that the program really calls."""
        return {name: self.kernels.get(name, _UNKNOWN).format for name in self.asked}

    @property
    def mismatches(self) -> tuple[Mismatch, ...]:
        """The layers whose realised format differs from that in the plan."""
        return tuple(
            Mismatch(layer, self.asked[layer], realised)
            for layer, realised in self.realised.items()
            if realised != parse(self.asked[layer]).kernel.name
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the model's
        """Run the program on the arguments of the model.

        Several threads may call it at the same time.

        Raises
        ------
        InputError
            If the arguments differ from the example inputs in number, name, structure, shape or
            dtype.
        RuntimeUnavailableError
            If the runtime fails on their values, such as indices beyond an embedding.
        """
        tensors = self.signature.arguments.tensors(args, kwargs)
        try:  # a `with` around each call would take as long as a small layer
            results = self.function(*tensors)
        except Exception:
            with door(self.runtime, "run on these inputs", _ADVICE):
                raise
        return self.signature.returns.fill(results)

    def reusing_outputs(self) -> "Compiled":
        """Return the same program, which hands out its outputs without a copy.

        The tensors of a result are then overwritten by the next call from the same thread; each
        thread has tensors of its own. Only OpenVINO copies outputs; the programs of other runtimes
        write every result to new memory, and remain as they are.
        """
        if isinstance(self.function, Reuses):
            return replace(self, function=self.function.reusing)
        return self


_ADVICE = "pass values that the model accepts, or choose another runtime"

_UNKNOWN = RealisedKernel("unknown", "unknown", ())
