"""A compiled program: a callable that says in which format each of its layers really runs."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from aiq.errors import InputError
from aiq.formats import parse
from aiq.graph.export import Inputs, call_arguments
from aiq.runtimes.kernels import Kernel

METADATA = "aiq"
"""Key under which a file keeps its `Signature`."""

_SCHEMA = "aiq/program/v1"


class Mismatch(NamedTuple):
    """A layer that runs in another format than the one asked for."""

    layer: str
    asked: str
    realised: str


@dataclass(frozen=True, slots=True)
class Signature:
    """What a program takes, what it returns, and what it was asked to be.

    Attributes
    ----------
    asked
        Format asked for, by layer.
    shapes, dtypes
        Of the tensors of a call.
    keywords
        Names of the inputs that are passed by name, in their order after the positional ones.
    returns
        Structure of what the model returns.
    """

    asked: Mapping[str, str]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    keywords: tuple[str, ...]
    returns: pytree.TreeSpec

    def to_json(self, **more: object) -> str:
        """Return it as JSON, with what `more` a runtime keeps in its files."""
        document = {
            "schema": _SCHEMA,
            "formats": dict(self.asked),
            "shapes": self.shapes,
            "dtypes": self.dtypes,
            "keywords": self.keywords,
            "returns": pytree.treespec_dumps(self.returns),
        }
        return json.dumps(document | more)

    @classmethod
    def from_json(cls, text: str | None, file: object) -> tuple["Signature", dict[str, Any]]:
        """Return what `to_json` wrote into `file`, and the whole document.

        Raises
        ------
        InputError
            If it is something else, or was written by another version.
        """
        try:
            document = json.loads(text or "")
            if document["schema"] != _SCHEMA:
                raise ValueError(f"schema is not {_SCHEMA}")
            signature = cls(
                asked={str(layer): str(fmt) for layer, fmt in document["formats"].items()},
                shapes=tuple(tuple(map(int, shape)) for shape in document["shapes"]),
                dtypes=tuple(map(str, document["dtypes"])),
                keywords=tuple(map(str, document["keywords"])),
                returns=pytree.treespec_loads(document["returns"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
            raise InputError(
                f"{file} was not written by this version of aiq ({error}); export the plan again."
            ) from None
        return signature, document


@dataclass(frozen=True, slots=True)
class Compiled:
    """A model that a runtime has compiled for the shapes of its example inputs.

    Attributes
    ----------
    runtime
        Name of the runtime.
    signature
        What it takes and returns.
    kernels
        The kernel of each layer in the compiled program. A layer without one is ``unknown``: its
        work was folded away, or the runtime's names have changed.
    threads
        Threads it was compiled for.
    function
        The compiled program: takes the tensors of a call, returns the tensors of the result.
    """

    runtime: str
    signature: Signature
    kernels: Mapping[str, Kernel]
    threads: int
    function: Callable[..., Iterable[torch.Tensor]]

    @property
    def asked(self) -> Mapping[str, str]:
        """Format asked for, by layer."""
        return self.signature.asked

    @property
    def realised(self) -> dict[str, str]:
        """Format of the kernel that the compiled program really calls, by layer."""
        return {name: self.kernels.get(name, _UNKNOWN).format for name in self.asked}

    @property
    def mismatches(self) -> tuple[Mismatch, ...]:
        """The layers whose realised format differs from the one asked for."""
        return tuple(
            Mismatch(layer, self.asked[layer], realised)
            for layer, realised in self.realised.items()
            if realised != parse(self.asked[layer]).kernel.name
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the model's
        """Run the program on the arguments of the model.

        Raises
        ------
        InputError
            If they are not those of the example, in number, name or shape.
        """
        expected = self.signature
        if kwargs.keys() != set(expected.keywords):
            raise InputError(
                f"The program was compiled for the keywords ({', '.join(expected.keywords)}) and "
                f"was given ({', '.join(kwargs)}); pass the arguments as in the example inputs."
            )
        inputs = pytree.tree_leaves((args, [kwargs[name] for name in expected.keywords]))
        shapes = tuple(x.shape for x in inputs)
        if shapes != expected.shapes:
            raise InputError(
                f"The program was compiled for inputs of shape {_say(expected.shapes)} and was "
                f"given {_say(shapes)}; compile it again for the new shape."
            )
        for x, dtype in zip(inputs, expected.dtypes, strict=True):
            if str(x.dtype) != dtype:
                raise InputError(
                    f"The program was compiled for {dtype} and was given {x.dtype}; convert the "
                    "input, or compile it again."
                )
        with torch.no_grad():
            return pytree.tree_unflatten(self.function(*inputs), expected.returns)


_UNKNOWN = Kernel("unknown", "unknown", ())


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
