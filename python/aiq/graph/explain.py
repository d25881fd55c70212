"""Explain in one sentence why a model cannot be traced, and in another what to do about it."""

import contextlib
import copy
import os
import re
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree

import aiq
from aiq.errors import GraphError

_UNKNOWN_TYPE = re.compile(r"Found <class '([^']+)'> in (input|output), which is not a known type")
_WRITTEN = re.compile(r"Constant (\S+) is mutated in the forward method")
_LINE = re.compile(r'File "([^"]+)", line (\d+), in (\w+)\n\s*(.+)')
_TORCH, _AIQ = (f"{Path(file).parent}{os.sep}" for file in (torch.__file__, aiq.__file__))
_CONTEXTLIB = contextlib.__file__
"""Paths of code that does not belong to a model."""


def explain(
    error: Exception, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> GraphError:
    """Return the error to raise instead of the `error` of an export.

    The model is run on copies of its inputs and buffers, to distinguish failures of the model
    itself from those of the export.
    """
    name = type(model).__name__
    buffers = {key: buffer.clone() for key, buffer in model.named_buffers()}
    args, kwargs = pytree.tree_map(
        lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, (args, kwargs)
    )
    with contextlib.suppress(Exception):  # a model that cannot be copied is run itself
        model = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    try:
        torch.func.functional_call(model, buffers, args, kwargs)
    except Exception as own:  # noqa: BLE001  (a model may raise anything)
        return GraphError(
            f"The model fails on the example inputs: {_first_sentence(own)} "
            "Pass inputs of the shapes and dtypes that the model expects."
        )
    if found := _UNKNOWN_TYPE.search(str(error)):
        kind = found[1].rsplit(".", 1)[-1]
        verb = "returns" if found[2] == "output" else "takes"
        cure = (
            "set model.config.use_cache = False"
            if "Cache" in kind
            else "wrap it in a module with tensors in tuples, lists or dicts"
        )
        return GraphError(f"{name} {verb} a {kind}, which is no tensor; {cure}.")
    if found := _WRITTEN.search(str(error)):
        return GraphError(
            f"{name} writes into its tensor {found[1]!r}; a compiled program keeps no state: pass "
            "it in as an input and return it."
        )
    place = _place(error)
    if isinstance(error, GuardOnDataDependentSymNode):
        return GraphError(
            f"The model cannot be exported: its control flow depends on the values of a tensor"
            f"{place}. Write the branch with torch.cond or torch.where, or pass the submodule "
            "without it (of a detection model, its backbone)."
        )
    return GraphError(
        f"The model cannot be exported{place}: {_first_sentence(error)} Rewrite that part with "
        "PyTorch operators, or pass the submodule without it."
    )


def _place(error: Exception) -> str:
    """Return the line of the model at which an export failed, as far as that is known."""
    if where := _LINE.search(str(error)):
        return f" at `{where[4].strip()}` (line {where[2]} of {where[1]})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((_TORCH, _AIQ, _CONTEXTLIB, "<"))]
    return f" at `{own[-1].line}` (line {own[-1].lineno} of {own[-1].filename})" if own else ""


def _first_sentence(error: Exception) -> str:
    line = next((part.strip() for part in str(error).splitlines() if part.strip()), "")
    line = line or type(error).__name__
    if len(line) > 200:
        line = line[:200].rsplit(" ", 1)[0] + " ..."
    return line if line.endswith((".", "...", "!", "?")) else line + "."
