"""Convert the arguments of a call to the tensors that a compiled program reads.

A program was compiled for tensors of given shapes, dtypes and strides. A tensor of other strides is
copied; a tensor of another shape or dtype is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from aiq.errors import InputError, type_of
from aiq.graph.export import Inputs, call_arguments
from aiq.runtimes.structure import GAP, Template, listed

_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """The tensor that a program expects.

    Attributes
    ----------
    shape
        Size of each dimension.
    dtype
        Dtype of the elements.
    stride
        Stride of each dimension, in elements.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    stride: tuple[int, ...]

    @classmethod
    def of(cls, x: torch.Tensor, *, keep_layout: bool) -> "TensorSpec":
        """Return the tensor that a program expects if it was compiled for `x`.

        Its elements are contiguous in memory: with `keep_layout` in the order of the dimensions of
        `x` in memory, and otherwise row by row.
        """
        layout = torch.preserve_format if keep_layout else torch.contiguous_format
        stride = torch.empty_like(x, device="meta", memory_format=layout).stride()
        return cls(tuple(x.shape), x.dtype, tuple(stride))

    def fit(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, or a copy with the expected strides.

        Raises
        ------
        InputError
            If `x` is not a dense tensor of this shape and dtype on the CPU.
        """
        x = plain_tensor(x)
        if x.shape != self.shape:
            _refuse_shapes([self], [x])
        if x.dtype is not self.dtype:
            raise InputError(
                f"The program was compiled for {self.dtype} and was given {x.dtype}; convert the "
                "input, or compile it again."
            )
        if self._lies_in(x):
            return x
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype).copy_(x)

    def _lies_in(self, x: torch.Tensor) -> bool:
        """Whether the elements of `x` are in the expected places in memory."""
        if x.stride() == self.stride:
            return True
        return not x.numel() or all(
            size == 1 or found == expected
            for size, found, expected in zip(x.shape, x.stride(), self.stride, strict=True)
        )

    def holds(self, x: object) -> bool:
        """Whether the program can certainly read `x` without a copy."""
        return (
            type(x) is torch.Tensor
            and x.dtype is self.dtype
            and x.layout is torch.strided
            and not x.is_nested  # a nested tensor has no shape to compare
            and x.shape == self.shape
            and x.stride() == self.stride
            and x.is_cpu
            and not (x.requires_grad or x.is_neg() or x.is_conj())
        )


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a program.

    Attributes
    ----------
    template
        Structure of ``(args, kwargs)``.
    specs
        Description of each tensor, in the order in which the program reads them.
    """

    template: Template
    specs: tuple[TensorSpec, ...]
    _flat: bool = field(init=False)

    def __post_init__(self) -> None:
        flat = pytree.tree_structure(((0,) * len(self.specs), {}))
        object.__setattr__(self, "_flat", self.template.spec == flat)

    @classmethod
    def of(cls, inputs: Inputs, *, keep_layout: bool) -> "Arguments":
        """Return the arguments of a program that is compiled for `inputs`."""
        tensors = leaves(inputs)
        specs = tuple(TensorSpec.of(x, keep_layout=keep_layout) for x in tensors)
        return cls(Template.of(call_arguments(inputs)), specs)

    def fit(self, tensors: Iterable[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return `tensors` with the expected strides."""
        return tuple(s.fit(x) for s, x in zip(self.specs, tensors, strict=True))

    def tensors(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sequence[torch.Tensor]:
        """Return the tensors of a call with the expected strides.

        Raises
        ------
        InputError
            If the arguments differ from the example inputs in number, name, structure, shape or
            dtype.
        """
        specs = self.specs
        is_usual = self._flat and not kwargs and len(args) == len(specs)
        if is_usual and all(map(TensorSpec.holds, specs, args)):  # which must be fast
            return args
        found = self._leaves(args, kwargs)
        for x in found:
            if not isinstance(x, torch.Tensor):
                raise InputError(
                    f"The program takes tensors and was given {type_of(x)}; pass "
                    "torch.as_tensor of it."
                )
            plain_tensor(x)
        if any(x.shape != spec.shape for x, spec in zip(found, specs, strict=True)):
            _refuse_shapes(specs, found)
        return self.fit(found)

    def _leaves(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """Return the values that a call has in the places of the tensors."""
        expected_args, expected_kwargs = self.template.fill([GAP] * self.template.count)
        if kwargs.keys() != expected_kwargs.keys():
            raise InputError(
                f"The program was compiled for the keywords ({listed(expected_kwargs)}) and was "
                f"given ({listed(kwargs)}); pass the arguments as in the example inputs."
            )
        if len(args) != len(expected_args):
            raise InputError(
                f"The program was compiled for {len(expected_args)} positional arguments and was "
                f"given {len(args)}; pass the arguments as in the example inputs."
            )
        try:
            return self.template.spec.flatten_up_to((args, dict(kwargs)))
        except ValueError as error:
            raise InputError(
                f"The arguments are not nested like the example inputs ({error!s:.200}); pass "
                "tuples, lists and dicts as there."
            ) from None


def leaves(inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """Return the tensors of a call in the order in which a program reads them.

    Raises
    ------
    InputError
        If the inputs contain anything but tensors.
    """
    found = pytree.tree_leaves(call_arguments(inputs))
    for value in found:
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"The example inputs hold {type_of(value)}, and a compiled program takes "
                "tensors only; wrap the model in a module that fixes the other arguments."
            )
    return tuple(map(plain_tensor, found))


def plain_tensor(x: torch.Tensor) -> torch.Tensor:
    """Return `x` as an ordinary tensor without gradient, whose memory holds its values.

    Raises
    ------
    InputError
        If `x` is not dense, not on the CPU, or of a subclass that holds its values elsewhere.
    """
    if type(x) not in _PLAIN:
        if is_lazy(x) or type(x).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
            _refuse(type_of(x), "an ordinary tensor")
        x = x.as_subclass(torch.Tensor)
    if x.is_nested or x.layout is not torch.strided:
        _refuse("a nested tensor" if x.is_nested else f"a tensor of {x.layout}", "a dense one")
    if not x.is_cpu:
        _refuse(f"a tensor on {x.device}", "one on the CPU, such as x.cpu()")
    return x.detach().resolve_conj().resolve_neg()


def _refuse(given: str, advice: str) -> NoReturn:
    raise InputError(f"The program was given {given}, which it cannot read; pass {advice}.")


def _refuse_shapes(specs: Iterable[TensorSpec], given: Iterable[torch.Tensor]) -> NoReturn:
    raise InputError(
        f"The program was compiled for inputs of shape {_say(x.shape for x in specs)} and was "
        f"given {_say(x.shape for x in given)}; compile it again for the new shape."
    )


def _say(shapes: Iterable[Iterable[int]]) -> str:
    return ", ".join("x".join(map(str, shape)) or "()" for shape in shapes) or "nothing"
