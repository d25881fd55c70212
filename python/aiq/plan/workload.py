"""What a plan was made for: the inputs of one call, the runtime, and the structure of the model."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

from aiq.errors import InputError
from aiq.typed import Count, Name, Text

if TYPE_CHECKING:
    from torch import Generator

    from aiq.graph import LayerGraph
    from aiq.graph.export import Inputs


def _torch() -> Any:  # noqa: ANN401 - a module
    """Return PyTorch, which takes seconds to load: a plan that is only shown does without it."""
    return import_module("torch")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The structure of the inputs of one call, without their values.

    Attributes
    ----------
    kind
        A ``tensor``, a ``tuple`` or a ``dict``, or another ``value``.
    shape, dtype
        Sizes of a tensor, and its dtype as ``float32``; for another value, its type.
    keys
        Keys of a dict.
    parts
        Members of a tuple or dict, in order.
    """

    kind: Literal["tensor", "tuple", "dict", "value"]
    shape: tuple[Count, ...] = ()
    dtype: Text = ""
    keys: tuple[Text, ...] = ()
    parts: tuple["InputSpec", ...] = ()

    @classmethod
    def of(cls, inputs: Any) -> "InputSpec":  # noqa: ANN401 - any structure
        """Return the structure of `inputs`."""
        torch = _torch()
        match inputs:
            case torch.Tensor():
                return cls("tensor", tuple(inputs.shape), str(inputs.dtype).removeprefix("torch."))
            case tuple() | list():
                return cls("tuple", parts=tuple(map(cls.of, inputs)))
            case Mapping():
                keys, parts = tuple(map(str, inputs)), tuple(map(cls.of, inputs.values()))
                return cls("dict", keys=keys, parts=parts)
        return cls("value", dtype=type(inputs).__name__)

    def tensors(self) -> Iterator["InputSpec"]:
        """Yield the tensors, in order."""
        if self.kind == "tensor":
            yield self
        for part in self.parts:
            yield from part.tensors()

    def example(self) -> "Inputs":
        """Return inputs of this structure: normal floating-point numbers, and ones of other types.

        One is an index that nearly every embedding has, and lets every position of a mask count.

        Raises
        ------
        InputError
            If a value is not a tensor, or its dtype is not one of PyTorch's.
        """
        found: Inputs = self._example(_torch().Generator().manual_seed(0))
        return found

    def _example(self, generator: "Generator") -> Any:  # noqa: ANN401
        torch = _torch()
        if self.kind == "tensor":
            dtype = getattr(torch, self.dtype, None)
            if not isinstance(dtype, torch.dtype):
                raise InputError(f"There is no dtype {self.dtype!r}; give one batch of inputs.")
            if dtype.is_floating_point:
                return torch.randn(self.shape, generator=generator).to(dtype)
            return torch.ones(self.shape, dtype=dtype)
        if self.kind == "value":
            raise InputError(
                f"The plan does not keep an input of type {self.dtype}; give the arguments of one "
                "call as example_inputs, or data."
            )
        parts = [part._example(generator) for part in self.parts]
        return dict(zip(self.keys, parts, strict=True)) if self.kind == "dict" else tuple(parts)

    def __str__(self) -> str:
        if self.kind == "tensor":
            suffix = "" if self.dtype == "float32" else f" {self.dtype}"
            return ("x".join(map(str, self.shape)) or "one number") + suffix
        if self.kind == "value":
            return self.dtype
        names = [f"{key} " for key in self.keys] or [""] * len(self.parts)
        return ", ".join(f"{n}{part}" for n, part in zip(names, self.parts, strict=True))


@dataclass(frozen=True, slots=True)
class Workload:
    """How a plan was made to run, and what the model was made of.

    Attributes
    ----------
    inputs
        Structure of the arguments of one call.
    batch
        Samples in them.
    runtime
        Name of the runtime, or ``None``.
    threads
        Threads for which times are predicted.
    operators
        One text for every operator of the layer graph, in order: its name, its class, and the shape
        of its weight if it has one. The values of the weights are not part of it: a model may be
        trained further and keep its plan.
    torch
        Version of PyTorch that exported the model: others may export it with other operators.
    """

    inputs: InputSpec
    batch: Count
    runtime: Name | None
    threads: Count
    operators: tuple[Text, ...]
    torch: Text

    @property
    def fingerprint(self) -> str:
        """Hash of the structure of the model, 16 hexadecimal digits."""
        return hashlib.sha256("\n".join(self.operators).encode()).hexdigest()[:16]

    def check_model(self, layers: "LayerGraph", inputs: "Inputs") -> None:
        """Refuse a model of another structure.

        Layers with weights must be the same. All other operators must be, too, if the model was
        exported by the same version of PyTorch for the same inputs; else they may differ without
        a difference in the model.

        Raises
        ------
        InputError
            If the model differs; the message names the first difference.
        """
        mine, other = self.operators, operators(layers)
        if (self.torch, self.inputs) != (_torch().__version__, InputSpec.of(inputs)):
            mine, other = _weights(mine), _weights(other)
        for a, b in zip_longest(mine, other):
            if a != b:
                raise InputError(
                    f"The plan is for another model: it has {a or 'nothing more'} where this model "
                    f"has {b or 'nothing more'}; give the model that was searched, or search this "
                    "one."
                )

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return f"{self.runtime or 'no runtime'}, {self.inputs}, {threads}"


_WEIGHT = " with weight "


def operators(layers: "LayerGraph") -> tuple[str, ...]:
    """Return what `Workload.operators` holds of a model."""
    return tuple(
        f"layer {layer.name!r}"
        + (f"{_WEIGHT}{'x'.join(map(str, layer.weight_shape))}" if layer.weight_shape else "")
        + f" ({' + '.join((str(layer.op), *layer.fused))})"
        for layer in layers.layers
    )


def _weights(operators: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the layers with weights, and the shapes of these."""
    return tuple(text.rpartition(" (")[0] for text in operators if _WEIGHT in text)
