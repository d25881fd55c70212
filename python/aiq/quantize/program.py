"""A traced network as a list of steps, of which a run can be stopped, resumed and altered.

Steps never change a value in place. A state can therefore be kept, and several runs can continue
from it, so that what they have in common is computed once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from aiq.errors import DataError, type_of
from aiq.fingerprint import Fingerprint
from aiq.graph import Trace
from aiq.graph.export import Inputs, call_arguments
from aiq.graph.simplify import attribute, operator_name

Values = dict[str, Any]
"""Name of a graph node -> its value."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference, among the arguments of a step, to the value of a graph node."""

    name: str


@dataclass(frozen=True, slots=True)
class Step:
    """One call of an operator.

    Attributes
    ----------
    name
        Name of the graph node whose value the step computes.
    function, args, kwargs
        The function and its arguments, with a `Ref` for the value of a node.
    dead
        Names of the nodes whose values no later step reads.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dead: tuple[str, ...]

    @property
    def operator(self) -> str:
        """Name of the operator without namespace and overload: ``conv2d``, ``add``, ``relu``."""
        return operator_name(self.function)

    def __reduce__(self) -> tuple[Any, ...]:
        function: Any = self.function
        if isinstance(function, torch._ops.OpOverload):  # it cannot be pickled, but its name can
            function = (function._schema.name, function._overloadname)
        return _step, (self.name, function, self.args, self.kwargs, self.dead)


def _step(
    name: str,
    function: Any,  # noqa: ANN401
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dead: tuple[str, ...],
) -> Step:
    if isinstance(function, tuple):
        (namespace, operator), overload = function[0].split("::"), function[1]
        function = getattr(getattr(getattr(torch.ops, namespace), operator), overload)
    return Step(name, function, args, kwargs, dead)


@dataclass(frozen=True, slots=True)
class _Expected:
    """Shape and dtype of an exported input; a size of ``None`` is a batch of any size."""

    shape: tuple[int | None, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, value: object) -> "_Expected | None":
        """Return what is expected of an input that was `value` in the export."""
        if not isinstance(value, Tensor):
            return None
        sizes: list[int | torch.SymInt] = list(value.shape)
        fixed = (size if isinstance(size, int) else None for size in sizes)
        return cls(tuple(fixed), value.dtype)

    def check(self, leaf: object) -> None:
        """Raise `DataError` if `leaf` does not fit the graph, in which sizes are constants."""
        if not isinstance(leaf, Tensor):
            raise DataError(
                f"An input is {type_of(leaf)} where the example inputs have a tensor; give "
                "inputs like the example inputs."
            )
        sizes = zip(self.shape, leaf.shape, strict=False)
        if len(self.shape) != leaf.ndim or any(a not in (None, b) for a, b in sizes):
            expected = "x".join("N" if size is None else str(size) for size in self.shape)
            raise DataError(
                f"An input has the shape {'x'.join(map(str, leaf.shape)) or '()'} and the model "
                f"was exported for {expected or '()'}; give inputs like the example inputs."
            )
        integers = not any(
            d.is_floating_point or d.is_complex or d == torch.bool for d in (self.dtype, leaf.dtype)
        )
        if leaf.dtype != self.dtype and not integers:
            raise DataError(
                f"An input is {leaf.dtype} and the model was exported for {self.dtype}; convert "
                "it, or give inputs like the example inputs."
            )


class Program:
    """The steps of a trace.

    Attributes
    ----------
    steps
        The steps in the order of execution.
    position
        Node name -> index of the step that computes it.
    constants
        Node name -> parameter or buffer.
    """

    def __init__(self, trace: Trace) -> None:
        graph = trace.module.graph
        self.constants: dict[str, Any] = {}
        last_use: dict[fx.Node, fx.Node] = {}
        calls: list[tuple[fx.Node, Callable[..., Any]]] = []
        for node in graph.nodes:
            if node.op == "get_attr":
                value = attribute(trace.module, str(node.target))
                self.constants[node.name] = value.detach() if isinstance(value, Tensor) else value
            elif node.op == "call_function" and not isinstance(node.target, str):
                calls.append((node, _any_order(node.target)))
                last_use[node] = node  # a value that no step reads is dropped at once
            for source in node.all_input_nodes:
                last_use[source] = node
        dead: dict[fx.Node, list[str]] = {}
        for source, user in last_use.items():
            if source.op != "get_attr":
                dead.setdefault(user, []).append(source.name)
        self.steps = tuple(
            Step(n.name, function, _refs(n.args), _refs(n.kwargs), tuple(dead.get(n, ())))
            for n, function in calls
        )
        self.position = {step.name: i for i, step in enumerate(self.steps)}
        self._placeholders = {
            n.name: _Expected.of(n.meta.get("val")) for n in graph.find_nodes(op="placeholder")
        }
        (output,) = graph.find_nodes(op="output")
        self._results = _refs(output.args[0])
        self._structure = getattr(graph._codegen, "pytree_info").out_spec  # noqa: B009  (untyped)

    def fingerprint(self, hashed: Fingerprint) -> None:
        """Add everything that determines the result of a run to a hash."""
        for step in self.steps:
            hashed.add("step", (step.name, str(step.function), step.args, step.kwargs))
        for name, value in self.constants.items():
            hashed.add(name, value if isinstance(value, Tensor) else str(value))

    def start(self, inputs: Inputs) -> Values:
        """Return the values of the placeholders in a call of the model on `inputs`.

        Raises
        ------
        DataError
            If the inputs do not have the number, shapes and dtypes of the example inputs.
        """
        args, kwargs = call_arguments(inputs)
        leaves = pytree.arg_tree_leaves(*args, **kwargs)
        if len(leaves) != len(self._placeholders):
            raise DataError(
                f"The inputs hold {len(leaves)} tensors and the model reads "
                f"{len(self._placeholders)}; give inputs like the example inputs."
            )
        for leaf, expected in zip(leaves, self._placeholders.values(), strict=True):
            if expected is not None:
                expected.check(leaf)
        return {
            name: _channels_last(leaf)
            for name, leaf in zip(self._placeholders, leaves, strict=True)
        }

    @property
    def reads(self) -> int:
        """Number of inputs of a call."""
        return len(self._placeholders)

    def call(self, step: Step, values: Values, altered: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Return the value of `step`, with the values in `altered` in place of those of nodes."""
        args, kwargs = self.arguments(step, values, altered)
        return step.function(*args, **kwargs)

    def arguments(
        self, step: Step, values: Values, altered: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments that `call` passes to the function of `step`."""

        def value(ref: Ref) -> Any:  # noqa: ANN401
            name = ref.name
            if name in altered:
                return altered[name]
            return values[name] if name in values else self.constants[name]

        args, kwargs = _mapped((step.args, step.kwargs), Ref, value)
        return args, kwargs

    def finish(self, values: Values) -> Any:  # noqa: ANN401
        """Return the outputs of the model, once all steps are done."""
        results = _mapped(
            self._results, Ref, lambda ref: values.get(ref.name, self.constants.get(ref.name))
        )
        leaves = results if isinstance(results, (list, tuple)) else [results]
        return pytree.tree_unflatten(leaves, self._structure)


def _refs(arguments: Any) -> Any:  # noqa: ANN401
    """Return `arguments` with a `Ref` in place of each graph node."""
    return _mapped(arguments, fx.Node, lambda node: Ref(node.name))


def _mapped(arguments: Any, kind: type, function: Callable[[Any], Any]) -> Any:  # noqa: ANN401
    """Return the nested `arguments` with `function` applied to every item of a `kind`."""
    if isinstance(arguments, kind):
        return function(arguments)
    if isinstance(arguments, (list, tuple)):
        items = [_mapped(item, kind, function) for item in arguments]
        return tuple(items) if isinstance(arguments, tuple) else items
    if isinstance(arguments, dict):
        return {key: _mapped(item, kind, function) for key, item in arguments.items()}
    if isinstance(arguments, slice):
        bounds = (arguments.start, arguments.stop, arguments.step)
        return slice(*(_mapped(bound, kind, function) for bound in bounds))
    return arguments


def _any_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, or its equivalent for any memory format if it requires one."""
    return torch.ops.aten.reshape.default if function is torch.ops.aten.view.default else function


def _channels_last(value: Any) -> Any:  # noqa: ANN401
    """Return images in the memory format in which CPU convolutions are fastest."""
    if isinstance(value, Tensor) and value.ndim == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value
