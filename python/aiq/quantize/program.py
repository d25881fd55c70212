"""A traced network as a list of steps that can be stopped, resumed and altered.

Values are never written into, so the state after some steps can be kept and continued from in
several ways: what two runs have in common is computed once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from aiq.errors import DataError
from aiq.export import Inputs, call_arguments
from aiq.graph import Trace

Values = dict[str, Any]
"""Name of a graph node -> its value."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operator.

    Attributes
    ----------
    name
        Graph node whose value it computes.
    function, args, kwargs
        The call; nodes stand for values.
    dead
        Nodes that nothing reads after this step.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    dead: tuple[str, ...]


class Program:
    """The steps of a trace.

    Attributes
    ----------
    steps
        In order of execution.
    position
        Node name -> index of its step.
    constants
        Node name -> parameter or buffer.
    """

    def __init__(self, trace: Trace) -> None:
        module = trace.module
        self._graph = module.graph
        self.constants: dict[str, Tensor] = {}
        last_use: dict[fx.Node, fx.Node] = {}
        calls: list[fx.Node] = []
        for node in module.graph.nodes:
            if node.op == "get_attr":
                self.constants[node.name] = _detached(_attribute(module, node.target))
            elif node.op == "call_function":
                calls.append(node)
            for source in node.all_input_nodes:
                last_use[source] = node
        for node in calls:  # what nothing reads dies at birth
            last_use.setdefault(node, node)
        self._placeholders = [n.name for n in module.graph.find_nodes(op="placeholder")]
        (self._output,) = module.graph.find_nodes(op="output")
        dead: dict[fx.Node, list[str]] = {}
        for source, user in last_use.items():
            if source.op != "get_attr":
                dead.setdefault(user, []).append(source.name)
        self.steps = tuple(
            Step(n.name, n.target, n.args, n.kwargs, tuple(dead.get(n, ())))
            for n in calls
            if not isinstance(n.target, str)
        )
        self.position = {step.name: i for i, step in enumerate(self.steps)}

    def start(self, inputs: Inputs) -> Values:
        """Return the values of the placeholders for a call of the model on `inputs`."""
        args, kwargs = call_arguments(inputs)
        leaves = pytree.arg_tree_leaves(*args, **kwargs)
        if len(leaves) != len(self._placeholders):
            raise DataError(
                f"The inputs hold {len(leaves)} tensors and the model reads "
                f"{len(self._placeholders)}; give inputs like the example inputs."
            )
        return {
            name: _channels_last(leaf)
            for name, leaf in zip(self._placeholders, leaves, strict=True)
        }

    def call(self, step: Step, values: Values, altered: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Return the value of `step`, reading `altered` in place of what the graph says."""

        def value(node: fx.Node) -> Any:  # noqa: ANN401
            name = node.name
            if name in altered:
                return altered[name]
            return values[name] if name in values else self.constants[name]

        args, kwargs = fx.map_arg((step.args, step.kwargs), value)
        return step.function(*args, **kwargs)

    def finish(self, values: Values) -> Any:  # noqa: ANN401
        """Return what the model returns, once all steps are done."""
        (result,) = fx.map_arg(
            self._output.args,
            lambda n: values[n.name] if n.name in values else self.constants[n.name],
        )
        return self._graph.process_outputs(result)


def _attribute(module: torch.nn.Module, name: str) -> Any:  # noqa: ANN401
    for part in name.split("."):
        module = getattr(module, part)
    return module


def _detached(value: Any) -> Any:  # noqa: ANN401
    return value.detach() if isinstance(value, Tensor) else value


def _channels_last(value: Any) -> Any:  # noqa: ANN401
    """Return images in the memory format that CPU convolutions like."""
    if isinstance(value, Tensor) and value.ndim == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value
