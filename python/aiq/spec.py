"""What the command line calls a model or a data set, turned into objects.

Naming ``package.module:callable`` imports that module and calls that function: it is the user's own
code, run because the user asked for it.
"""

import importlib
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aiq import data as datasets
from aiq import models
from aiq.errors import InputError

DEFAULT_SHAPE = (1, 3, 224, 224)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model and the inputs of one forward call."""

    module: torch.nn.Module
    example_inputs: torch.Tensor


def load_model(spec: str, shape: str | None = None) -> LoadedModel:
    """Return the model that `spec` names and an example input of `shape` (``1x3x224x224``).

    Raises
    ------
    InputError
        If the spec names nothing that can be called to give a module, or the shape is not one.
    """
    if ":" not in spec:
        module: Any = models.load(spec)
        default = (1, 3, datasets.SIDE, datasets.SIDE)
    elif spec.startswith("torchvision:"):
        name = spec.removeprefix("torchvision:")
        module = _call("torchvision.models", name, "pip install torchvision")
        default = DEFAULT_SHAPE
    else:
        module = _call(*_split(spec))
        default = DEFAULT_SHAPE
    if not isinstance(module, torch.nn.Module):
        raise InputError(
            f"{spec} returned a {type(module).__name__}; name a callable that returns an nn.Module."
        )
    generator = torch.Generator().manual_seed(0)
    sizes = default if shape is None else _parse_shape(shape)
    return LoadedModel(module.eval(), torch.randn(sizes, generator=generator))


def load_data(spec: str) -> Iterable[Any]:
    """Return the batches that `spec` names: ``sample``, or ``package.module:callable``.

    Raises
    ------
    InputError
        If the spec names nothing that can be called.
    """
    if spec == "sample":
        return datasets.batches(datasets.sample("val"))
    batches = _call(*_split(spec))
    if not isinstance(batches, Iterable):
        raise InputError(
            f"{spec} returned a {type(batches).__name__}; return an iterable of (inputs, targets)."
        )
    return batches


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


def _parse_shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise InputError(f"--input {text!r} is not a shape; write for example 1x3x224x224.")
    return tuple(int(size) for size in text.split("x"))


def _split(spec: str) -> tuple[str, str, str]:
    module, _, name = spec.partition(":")
    return module, name, "check the spelling, or run aiq where the module can be imported"


def _call(module: str, name: str, hint: str) -> object:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{module}:{name} cannot be imported ({error}); {hint}.") from None
    return function()
