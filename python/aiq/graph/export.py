"""Export an ``nn.Module`` to a functional ATen graph that can be run and edited.

`export_model` wraps ``torch.export``. It tries a dynamic batch first, removes nodes that compute
nothing in a run (in-place updates, guards, constants), and turns exceptions of PyTorch into plain
errors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.fx.experimental.symbolic_shapes import free_symbols
from torch.utils import _pytree as pytree

from aiq.errors import AiqError, GraphError
from aiq.exporting import exporting
from aiq.graph.batch import BatchDim, batch_dims, batch_size
from aiq.graph.cached import forget_results
from aiq.graph.explain import explain
from aiq.graph.model import check_model, in_evaluation_mode, outside_inference
from aiq.graph.mutation import forget_writes
from aiq.graph.repeat import check_repeats
from aiq.graph.simplify import attribute, decompositions, simplify

Inputs = torch.Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
"""Inputs of a model: a tensor, a sequence of positional or a mapping of keyword arguments."""

SHAPES = "shapes"
"""Key of ``node.meta``: the shapes of the node's tensors at the example's batch size."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A functional graph module and its properties.

    Attributes
    ----------
    module
        Graph module without in-place operators.
    batch
        Batch size of the example inputs.
    dynamic_batch
        Whether `module` accepts other batch sizes.
    writes_inputs
        Whether the model itself changes its inputs in place.
    random
        Whether the model's outputs are random.
    """

    module: fx.GraphModule
    batch: int
    dynamic_batch: bool
    writes_inputs: bool
    random: bool


def call_arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments with which a model is called on `inputs`."""
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return tuple(inputs), {}


def export_model(model: nn.Module, example_inputs: Inputs, batch_dim: BatchDim = 0) -> Exported:
    """Export `model` in evaluation mode; the model itself is not changed.

    Parameters
    ----------
    model
        Any module that ``torch.export`` can capture; it may be on the ``meta`` device.
    example_inputs
        A tensor, a sequence of positional or a mapping of keyword arguments.
    batch_dim
        Dimension of the inputs that counts samples, see `aiq.graph.batch.BatchDim`.

    Returns
    -------
    Exported
        The exported module, which shares its parameters with `model`. Parameters may be replaced,
        but must not be changed in place.

    Raises
    ------
    GraphError
        If the model or its inputs are not valid, or the model cannot be exported.
    InputError
        If `batch_dim` does not fit the inputs.
    """
    check_model(model)
    args, kwargs = call_arguments(_checked_inputs(example_inputs))
    dims = batch_dims(batch_dim, example_inputs)
    batch = batch_size(dims, pytree.tree_leaves((args, kwargs)))
    with exporting(), in_evaluation_mode(model) as own:
        args, kwargs = pytree.tree_map_only(torch.Tensor, outside_inference, (args, kwargs))
        program, dynamic = _capture(own, args, kwargs, batch, dims)
        written = forget_writes(program, type(model).__name__)
        module = simplify(program.module(check_guards=False))
    with exporting(), in_evaluation_mode(model) as own:
        random = check_repeats(own, args, kwargs)
        forget_results(own)
    _record_shapes(module, batch)
    return Exported(module, batch, dynamic, written, random)


def _checked_inputs(inputs: object) -> Inputs:
    if isinstance(inputs, (torch.Tensor, tuple, list, Mapping)) and any(
        isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(inputs)
    ):
        return inputs
    raise GraphError(
        f"The example inputs are {type(inputs).__name__} without a tensor; pass a tensor, "
        "a tuple of positional or a dict of keyword arguments, such as torch.randn(1, 3, 32, 32)."
    )


def _capture(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch: int,
    dims: list[int | None],
) -> tuple[ExportedProgram, bool]:
    """Export with a dynamic batch if the model allows it, or else with the example's batch size."""
    table = decompositions()
    examples, shapes = _dynamic_batch(args, kwargs, batch, dims)
    try:
        program = _decomposed(model, *examples, table, shapes)
    except (AiqError, MemoryError):
        raise
    except Exception:  # noqa: BLE001  (a model may raise anything if its sizes are symbols)
        program = None
    if program is not None and _batch_symbols(program.graph):  # tracing did not fix the size
        return program, True
    try:
        return _decomposed(model, args, kwargs, table), False
    except (AiqError, MemoryError):
        raise
    except Exception as error:
        raise explain(error, model, args, kwargs) from error


def _decomposed(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    table: dict[torch._ops.OperatorBase, Callable[..., Any]],
    shapes: ShapesCollection | None = None,
) -> ExportedProgram:
    """Export a model, and decompose the operators in `table`."""
    try:
        program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    finally:
        forget_results(model)
    found: ExportedProgram = program.run_decompositions(table)
    return found


def _dynamic_batch(
    args: tuple[Any, ...], kwargs: dict[str, Any], batch: int, dims: list[int | None]
) -> tuple[tuple[tuple[Any, ...], dict[str, Any]], ShapesCollection]:
    """Return examples from which any batch size can be traced, and their dynamic dimensions."""
    leaves, structure = pytree.tree_flatten((args, kwargs))
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    for index, dim in enumerate(dims):
        leaf = leaves[index]
        if not isinstance(leaf, torch.Tensor) or dim is None or not leaf.ndim:
            continue
        if leaf.shape[dim] == batch:
            # torch.export makes a size of 1 a constant, so trace a batch of two. It marks tensors
            # as dynamic for good, so the example itself is not given to it.
            leaves[index] = torch.cat([leaf] * 2, dim) if batch == 1 else leaf.clone()
            shapes[leaves[index]] = {dim: Dim.AUTO}
    return pytree.tree_unflatten(leaves, structure), shapes


def _batch_symbols(graph: fx.Graph) -> set[Any]:
    """Return the symbols in the shapes of the inputs, which stand for the batch size."""
    inputs = (node.meta.get("val") for node in graph.find_nodes(op="placeholder"))
    return {
        symbol
        for value in inputs
        if isinstance(value, torch.Tensor) and value.ndim
        for symbol in free_symbols(value.shape)
    }


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
