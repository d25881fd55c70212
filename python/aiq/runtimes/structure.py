"""The structure around the tensors of a call or a result: tuples, dicts, and plain values.

In memory it is a `Template`, which has the model's own types. A file keeps a `Node`, which has only
tuples, lists, dicts and plain values, so that reading it imports nothing.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from aiq.errors import GraphError, InputError, type_of


class _Gap:
    """Placeholder of a tensor."""

    def __repr__(self) -> str:
        return "tensor"


GAP = _Gap()


@dataclass(frozen=True, slots=True)
class Node:
    """One value, as a file keeps it.

    Attributes
    ----------
    kind
        Kind of the value. A ``tensor`` is the next tensor. A ``float`` has its digits in `value`,
        since JSON has neither infinity nor NaN.
    value
        The value, if it is a plain one.
    keys
        Keys of a dict.
    parts
        Items of a tuple or list, or values of a dict.
    """

    kind: Literal["tensor", "value", "float", "tuple", "list", "dict"]
    value: bool | int | str | None = None
    keys: tuple[str | int, ...] = ()
    parts: tuple["Node", ...] = ()


@dataclass(frozen=True, slots=True)
class Template:
    """A nested value without its tensors.

    Attributes
    ----------
    spec
        The containers.
    leaves
        The values in the containers, in order, with `GAP` in place of each tensor.
    """

    spec: pytree.TreeSpec
    leaves: tuple[Any, ...]

    @classmethod
    def of(cls, value: object) -> "Template":
        """Return the template of `value`, which may contain tensors or `GAP`."""
        leaves, spec = pytree.tree_flatten(value)
        return cls(spec, tuple(GAP if isinstance(x, torch.Tensor) else x for x in leaves))

    @property
    def count(self) -> int:
        """Number of tensors."""
        return sum(leaf is GAP for leaf in self.leaves)

    def fill(self, tensors: Iterable[object]) -> Any:  # noqa: ANN401 - any structure
        """Return the value with `tensors` in the places of the gaps, in order."""
        if self.spec.is_leaf() and self.leaves == (GAP,):
            (tensor,) = tensors
            return tensor
        rest = iter(tensors)
        filled = [next(rest) if leaf is GAP else leaf for leaf in self.leaves]
        return pytree.tree_unflatten(filled, self.spec)

    def to_node(self) -> Node:
        """Return the template as a file keeps it: named tuples as tuples, dataclasses as dicts.

        Raises
        ------
        InputError
            If it has a value or a container that a file cannot keep.
        """
        gaps = [torch.empty(0) for _ in range(self.count)]  # some containers accept only tensors
        return _node(self.fill(gaps))

    @classmethod
    def from_node(cls, node: Node) -> "Template":
        """Return the template that a file keeps.

        Raises
        ------
        ValueError
            If a node contradicts itself.
        """
        return cls.of(_value(node))


def _node(value: object) -> Node:
    match value:
        case torch.Tensor():
            return Node("tensor")
        case float():
            return Node("float", repr(float(value)))
        case None | bool() | int() | str():
            return Node("value", value)
        case tuple() | list():
            kind: Literal["tuple", "list"] = "list" if isinstance(value, list) else "tuple"
            return Node(kind, parts=tuple(map(_node, value)))
        case Mapping():
            return _dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _dict({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    raise InputError(
        f"The model takes or returns {type_of(value)}, and a file keeps only tensors, "
        "numbers, strings, None, tuples, lists, dicts and dataclasses; use one of these."
    )


def _dict(value: Mapping[Any, object]) -> Node:
    strange = [key for key in value if type(key) not in {str, int}]
    if strange:
        raise InputError(
            f"The model takes or returns a dict with the key {strange[0]!r:.50}, and a file keeps "
            "only strings and whole numbers as keys; use such keys."
        )
    return Node("dict", keys=tuple(value), parts=tuple(map(_node, value.values())))


def _value(node: Node) -> Any:  # noqa: ANN401 - any structure
    parts = [_value(part) for part in node.parts]
    match node.kind:
        case "tuple":
            return tuple(parts)
        case "list":
            return parts
        case "dict":
            return dict(zip(node.keys, parts, strict=True))
        case "tensor":
            return GAP
        case "float":
            return float(str(node.value))
        case "value":
            return node.value


def take_values(graph: fx.Graph, batch: int) -> Template:
    """Remove results that are not tensors from an exported graph; return the template of all.

    Parameters
    ----------
    graph
        The graph, whose output is changed.
    batch
        Size of the batch, from which results that depend on it are computed.

    Raises
    ------
    GraphError
        If a result is a number that depends on the values of the inputs.
    """
    codegen = graph._codegen
    assert isinstance(codegen, fx.graph._PyTreeCodeGen), "exported graphs have one"
    spec = codegen.pytree_info.out_spec
    assert spec is not None
    (output,) = graph.find_nodes(op="output")
    results: Any = output.args[0]
    leaves = tuple(_result(x, batch) for x in results)
    output.args = (tuple(x for x, leaf in zip(results, leaves, strict=True) if leaf is GAP),)
    return Template(spec, leaves)


def _result(x: object, batch: int) -> Any:  # noqa: ANN401 - whatever the model returns
    value = x.meta.get("val") if isinstance(x, fx.Node) else x
    if isinstance(value, torch.Tensor) or (isinstance(x, fx.Node) and x.op == "get_attr"):
        return GAP
    if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value
    expression = value.node.expr
    if free_unbacked_symbols(value):
        raise GraphError(
            "The model returns a number that depends on the values of its inputs, and a program "
            "returns those as tensors; return the tensor instead of its .item()."
        )
    return value.node.pytype(expression.subs(dict.fromkeys(expression.free_symbols, batch)))


def listed(keys: Iterable[object]) -> str:
    """Return keys as a list for a message."""
    return ", ".join(map(str, keys))
