"""What the command line calls a model or a data set, turned into objects.

Naming ``package.module:callable`` imports that module and calls that function: it is the user's own
code, run because the user asked for it.
"""

import contextlib
import importlib
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch

from aiq import data as datasets
from aiq import models, userpath
from aiq.data.reading import first_inputs, read_batches
from aiq.errors import AiqError, InputError, type_of
from aiq.evaluate.metrics import Metric
from aiq.graph.export import Inputs
from aiq.plan import InputSpec


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model and the inputs of one forward call; ``None`` if these are not needed.

    Attributes
    ----------
    module
        The model, in evaluation mode.
    example_inputs
        Arguments of one call, or ``None``.
    data
        The batches that were named, or ``None``.
    """

    module: torch.nn.Module
    example_inputs: Inputs | None
    data: Iterable[Any] | None = None

    @property
    def is_random(self) -> bool:
        """Whether the inputs have a shape that was named, and random values."""
        return self.example_inputs is not None and self.data is None

    @property
    def inputs(self) -> Inputs:
        """Arguments of one call, which are known."""
        assert self.example_inputs is not None
        return self.example_inputs


def load_model(
    spec: str, shape: str | None = None, data: str | None = None, *, needs_inputs: bool = True
) -> LoadedModel:
    """Return the model that `spec` names, and the inputs of one call.

    What the user's code prints goes to stderr: stdout is for results.

    Parameters
    ----------
    spec
        A built-in name, ``torchvision:NAME``, or ``package.module:callable``.
    shape
        Shape of the inputs, and their dtype unless it is float32: ``1x3x224x224``,
        ``1x128:int64``. Default: the inputs of the first batch of `data`; the built-in networks
        have inputs of their own.
    data
        Data to load, as `load_data` takes it.
    needs_inputs
        Whether it is an error if nothing says what the inputs are.

    Raises
    ------
    InputError
        If the spec names nothing that can be called to give a module, that raises, or the shape is
        not one, too large, or missing.
    """
    given = None if shape is None else _example(*_parse_shape(shape))
    if not _is_own(spec):
        module: Any = models.load(spec)
    elif spec.startswith("torchvision:"):
        module = _called(spec, _torchvision(spec.removeprefix("torchvision:")))
    else:
        named = _user_attribute(spec)
        module = named if isinstance(named, torch.nn.Module) else _called(spec, named)
    if not isinstance(module, torch.nn.Module):
        raise InputError(
            f"{spec} returned {type_of(module)}; name a callable that returns an nn.Module."
        )
    batches = None if data is None else load_data(data)
    if given is None and needs_inputs:
        if batches is not None:
            given = first_inputs(batches)
        elif ":" not in spec:
            given = _example((1, 3, datasets.SIDE, datasets.SIDE), torch.float32)
        else:
            raise InputError(
                f"It is not known what inputs {spec} takes; give --data, or --input with their "
                "shape, for example --input 1x3x224x224 or --input 1x128:int64."
            )
    return LoadedModel(module.eval(), given, batches)


def load_data(spec: str) -> Iterable[Any]:
    """Return the batches that `spec` names: ``sample``, or ``package.module:callable``.

    Raises
    ------
    InputError
        If the spec names nothing that can be called, or that raises.
    """
    if spec == "sample":
        return datasets.batches(datasets.sample("val"))
    if not _is_own(spec):
        raise InputError(
            f"There is no data {spec!r}; use sample, or package.module:callable that returns "
            "batches of (inputs, targets)."
        )
    batches = _called(spec, _user_attribute(spec))
    if not isinstance(batches, Iterable):
        raise InputError(
            f"{spec} returned {type_of(batches)}; return an iterable of (inputs, targets)."
        )
    printing = _Printing(batches)
    # what can be read once only is needed more often
    return list(read_batches(printing)) if isinstance(batches, Iterator) else printing


class _Printing:
    """Batches of the user's; what they print goes to stderr."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        with _printing():
            iterator = iter(self._batches)
        return _until_its_end(iterator)


def _until_its_end(iterator: Iterator[Any]) -> Iterator[Any]:
    end = object()
    while True:
        with _printing():
            batch = next(iterator, end)
        if batch is end:
            return
        yield batch


def load_metric(spec: str) -> str | Metric:
    """Return the metric that `spec` names: a name of aiq's, or ``package.module:function``.

    Raises
    ------
    InputError
        If the spec names nothing that can be called.
    """
    if not _is_own(spec):
        return spec
    function = _user_attribute(spec)
    if not callable(function):
        raise InputError(
            f"{spec} is {type_of(function)}; name a function of outputs and targets that returns "
            "one score per sample."
        )
    return cast("Metric", function)


def parse_pins(pins: Sequence[str]) -> dict[str, str]:
    """Turn ``["*.fc=fp32"]`` into ``{"*.fc": "fp32"}``.

    Raises
    ------
    InputError
        If an entry has no ``=``.
    """
    pairs = [pin.partition("=") for pin in pins]
    for pattern, equals, name in pairs:
        if not (pattern and equals and name):
            raise InputError(f"--pin {pattern!r} is not PATTERN=FORMAT; write for example fc=fp32.")
    return {pattern: name for pattern, _, name in pairs}


def _parse_shape(text: str) -> tuple[tuple[int, ...], torch.dtype]:
    shape, _, name = text.partition(":")
    dtype = getattr(torch, name or "float32", None)
    if not re.fullmatch(r"[1-9]\d{0,17}(x[1-9]\d{0,17}){0,15}", shape, re.ASCII):
        raise InputError(f"--input {text!r} is not a shape; write for example 1x3x224x224.")
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"--input {text!r} names no dtype; write for example 1x128:int64.")
    sizes = tuple(int(size) for size in shape.split("x"))
    if 4 * math.prod(sizes) > _memory() / 2:
        raise InputError(
            f"--input {text} has {math.prod(sizes):,} elements, which do not fit into the memory "
            "of this machine; give the shape of one batch."
        )
    return sizes, dtype


def _memory() -> float:
    """Return the bytes of memory that this machine has, as far as it says."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError):
        return math.inf


def _example(sizes: tuple[int, ...], dtype: torch.dtype) -> Inputs:
    try:
        return InputSpec("tensor", sizes, str(dtype).removeprefix("torch.")).example()
    except RuntimeError:
        raise InputError(
            f"An input of shape {'x'.join(map(str, sizes))} does not fit into memory; give a "
            "smaller one."
        ) from None


def _torchvision(name: str) -> object:
    """Return what torchvision calls `name`; the current folder is not searched."""
    try:
        vision = importlib.import_module("torchvision.models")
    except ImportError as error:
        raise InputError(
            f"torchvision:{name} cannot be imported ({error}); pip install torchvision."
        ) from None
    known = vision.list_models(module=vision)
    function = getattr(vision, name, None)
    if function is None:
        raise InputError(f"There is no torchvision model {name!r}; {_close(name, known)}")
    return function


def _close(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return (
        f"did you mean {close[0]!r}?"
        if close
        else "choose one that torchvision.models.list_models() lists."
    )


def _is_own(spec: str) -> bool:
    """Whether `spec` means something in a module of the user's, by its name or by its file."""
    return ":" in spec or spec.endswith(".py")


def _user_attribute(spec: str) -> object:
    """Return what ``package.module:name`` names, from a module of the user's."""
    path, _, name = spec.partition(":")
    if path.endswith(".py"):
        raise InputError(
            f"{spec!r} names a file; run aiq in its folder, and write "
            f"{Path(path).stem}:{name or 'callable'}."
        )
    if not all(part.isidentifier() for part in [*path.split("."), name]):
        raise InputError(
            f"{spec!r} is not of the form package.module:callable; write it like that."
        )
    userpath.add_current_folder()
    module = _imported(spec, path)
    try:
        return getattr(module, name)
    except AttributeError:
        file = getattr(module, "__file__", None)
        own = Path.cwd() / f"{path.replace('.', '/')}.py"
        hidden = own.is_file() and (file is None or not own.samefile(file))
        raise InputError(
            f"{spec} cannot be imported (there is no {name!r} in {file or path}); "
            + (
                f"rename {own.name}, which has the name of an installed module."
                if hidden
                else "check the spelling."
            )
        ) from None


def _imported(spec: str, path: str) -> ModuleType:
    try:
        with _printing():
            return importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{path}.".startswith(f"{missing}."):
            raise InputError(
                f"{spec} cannot be imported (it imports {missing!r}, which is not installed); "
                "install it."
            ) from error
        raise InputError(
            f"{spec} cannot be imported ({error}); check the spelling, or run aiq where the module "
            "can be imported."
        ) from None
    except (Exception, SystemExit) as error:
        raise InputError(f"{spec} cannot be imported ({_said(error)}); mend the module.") from error


def _called(spec: str, function: object) -> object:
    """Return what the user's function returns."""
    if not callable(function):
        raise InputError(f"{spec} is {type_of(function)}, which cannot be called; name a function.")
    try:
        with _printing():
            return function()
    except AiqError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{spec} failed when it was called without arguments ({_said(error)}); mend it, or "
            "name another function."
        ) from error


def _said(error: BaseException) -> str:
    """Return the type and the first line of an exception."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line[:200].rstrip('.')}" if line else type(error).__name__


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """Send what the user's code prints to stderr: stdout is for results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
