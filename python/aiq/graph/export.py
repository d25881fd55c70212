"""From an ``nn.Module`` to a functional ATen graph that can be run, edited and counted.

`export` wraps ``torch.export``: it tries a dynamic batch first, drops what is not computation
(in-place updates, guards, constants that could be computed once), and turns the exceptions of
PyTorch into one sentence each.
"""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, free_symbols
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from aiq.errors import GraphError
from aiq.graph.batch import BatchDim, batch_dims, batch_size
from aiq.graph.simplify import attribute, decompositions, simplify

Inputs = torch.Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
"""Example inputs: one tensor, a sequence of positional or a mapping of keyword arguments."""

SHAPES = "shapes"
"""Key of ``node.meta``: the shapes of the node's tensors at the example's batch size."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A functional graph module, the batch size of its example, whether that size is free."""

    module: fx.GraphModule
    batch: int
    dynamic_batch: bool


def call_arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments with which a model is called on `inputs`."""
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return tuple(inputs), {}


def export(model: nn.Module, example_inputs: Inputs, batch_dim: BatchDim = 0) -> Exported:
    """Export `model` in evaluation mode; the model itself is left as it was.

    Parameters
    ----------
    model
        Any module ``torch.export`` can capture; it may live on the ``meta`` device.
    example_inputs
        A tensor, a sequence of positional or a mapping of keyword arguments.
    batch_dim
        The dimension of the inputs that counts samples, see `aiq.graph.batch.BatchDim`.

    Returns
    -------
    Exported
        The module shares its parameters with `model`: replace them, do not write into them.

    Raises
    ------
    GraphError
        If the model or its inputs are not what they should be, or cannot be exported.
    InputError
        If `batch_dim` does not fit the inputs.
    """
    _check_model(model)
    args, kwargs = call_arguments(_checked_inputs(example_inputs))
    dims = batch_dims(batch_dim, example_inputs)
    batch = batch_size(dims, pytree.tree_leaves((args, kwargs)))
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with _quiet():
            program, dynamic = _capture(model, args, kwargs, batch, dims)
    finally:
        for module, mode in training.items():
            module.training = mode
    module = simplify(program.module(check_guards=False))
    _record_shapes(module, batch)
    return Exported(module, batch, dynamic)


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise GraphError(
            f"The model is a {type(model).__name__}; pass a torch.nn.Module instance "
            "(a class or a function has to be called or wrapped first)."
        )
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise GraphError(
                f"Parameter {name!r} has no shape yet; run the model once on an example first."
            )
        if not parameter.is_meta and not torch.isfinite(parameter).all():
            raise GraphError(
                f"Parameter {name!r} holds NaN or infinite values; "
                "load a sound checkpoint or train again with a smaller learning rate."
            )
    for name, buffer in model.named_buffers():  # infinite is fine: attention masks hold -inf
        if not buffer.is_meta and torch.isnan(buffer).any():
            raise GraphError(f"Buffer {name!r} holds NaN values; load a sound checkpoint.")


def _checked_inputs(inputs: object) -> Inputs:
    if isinstance(inputs, (torch.Tensor, tuple, list, Mapping)) and any(
        isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(inputs)
    ):
        return inputs
    raise GraphError(
        f"The example inputs are {type(inputs).__name__} without a tensor; pass a tensor, "
        "a tuple of positional or a dict of keyword arguments, such as torch.randn(1, 3, 32, 32)."
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch's prints, warnings and logs of a failed attempt from the user's screen."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _capture(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch: int,
    dims: list[int | None],
) -> tuple[ExportedProgram, bool]:
    """Export with a dynamic batch if the model allows it, else with the example's."""
    try:
        program = _capture_dynamic(model, args, kwargs, batch, dims)
    except Exception:  # noqa: BLE001  (whatever it was, the static export below decides)
        program = None
    if program is not None:
        return program, True
    try:
        program = torch.export.export(model, args, kwargs, strict=False)
        return program.run_decompositions(decompositions()), False
    except Exception as error:
        raise _explained(error, model, args, kwargs) from error


def _capture_dynamic(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch: int,
    dims: list[int | None],
) -> ExportedProgram | None:
    """Export with a free batch; ``None`` where tracing tied the batch to the example's size."""
    leaves, structure = pytree.tree_flatten((args, kwargs))
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    for index, dim in enumerate(dims):
        leaf = leaves[index]
        if not isinstance(leaf, torch.Tensor) or dim is None or not leaf.ndim:
            continue
        if leaf.shape[dim] == batch:
            if batch == 1:  # torch.export takes a size of 1 for a constant, so trace a batch of two
                leaves[index] = torch.cat([leaf] * 2, dim)
            shapes[leaves[index]] = {dim: Dim.AUTO}
    args, kwargs = pytree.tree_unflatten(leaves, structure)
    program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    return program.run_decompositions(decompositions()) if _batch_symbols(program.graph) else None


def _batch_symbols(graph: fx.Graph) -> set[Any]:
    """Return the symbols in the shapes of the inputs: only the batch was left free."""
    inputs = (node.meta.get("val") for node in graph.find_nodes(op="placeholder"))
    return {
        symbol
        for value in inputs
        if isinstance(value, torch.Tensor) and value.ndim
        for symbol in free_symbols(value.shape)
    }


def _explained(
    error: Exception, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> GraphError:
    """Tell the model's own failure on these inputs from what only the export cannot do."""
    try:
        model(*args, **kwargs)
    except Exception as own:  # noqa: BLE001  (a model may raise anything)
        return GraphError(
            f"The model fails on the example inputs: {_first_sentence(own)} "
            "Pass inputs of the shapes and dtypes that the model expects."
        )
    where = re.search(r'File "([^"]+)", line (\d+), in (\w+)\n\s*(.+)', str(error))
    place = f" at `{where[4].strip()}` (line {where[2]} of {where[1]})" if where else ""
    if isinstance(error, GuardOnDataDependentSymNode):
        return GraphError(
            f"The model cannot be exported: its control flow depends on the values of a tensor"
            f"{place}. Write the branch with torch.cond or torch.where, or pass the submodule "
            "without it."
        )
    return GraphError(
        f"The model cannot be exported{place}: {_first_sentence(error)} Rewrite that part with "
        "PyTorch operators, or pass the submodule without it."
    )


def _first_sentence(error: Exception, limit: int = 200) -> str:
    line = next((part.strip() for part in str(error).splitlines() if part.strip()), "")
    line = line or type(error).__name__
    if len(line) > limit:
        line = line[:limit].rsplit(" ", 1)[0] + " ..."
    return line if line.endswith((".", "...", "!", "?")) else line + "."


def _record_shapes(module: fx.GraphModule, batch: int) -> None:
    """Write the shapes at the example's batch size into ``node.meta[SHAPES]``."""
    symbols = _batch_symbols(module.graph)

    def size(value: int | torch.SymInt, node: fx.Node) -> int:
        if isinstance(value, int):
            return value
        expression = value.node.expr.subs(dict.fromkeys(symbols, batch))
        if not expression.is_number:
            raise GraphError(
                f"The size of {node.name!r} depends on the values of a tensor, so its cost has no "
                "prediction; pass the submodule before it."
            )
        return int(expression)

    graphs = [m for m in module.modules() if isinstance(m, fx.GraphModule)]  # torch.cond's too
    for owner, node in ((g, node) for g in graphs for node in g.graph.nodes):
        value = attribute(owner, node.target) if node.op == "get_attr" else node.meta.get("val")
        tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
        node.meta[SHAPES] = tuple(tuple(size(n, node) for n in t.shape) for t in tensors)
