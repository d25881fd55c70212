"""Passes over an exported graph that leave only computation, in whole operators."""

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import fx, nn

aten = torch.ops.aten

CONSTANT = "constant_"
"""Prefix of the names of folded constants."""

TRAINED = "trained"
"""Key of ``node.meta`` for whether a constant is a parameter or was computed from one."""

_PRODUCTS = {aten.mm.default, aten.matmul.default, aten.addmm.default}
_TRANSPOSES = {aten.t.default, aten.transpose.int, aten.permute.default, aten.numpy_T.default}

_COMPOSITES = (
    *(aten.einsum.default, aten.tensordot.default, aten.inner.default, aten.chain_matmul.default),
    *(aten.linalg_multi_dot.default, aten.lstm_cell.default, aten.gru_cell.default),
    *(aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default),
)


@cache  # because PyTorch's table takes longer to build than a small network to trace
def decompositions() -> dict[torch._ops.OperatorBase, Callable[..., Any]]:
    """Return the decompositions of operators that hide matrix products; all others stay whole."""
    table = torch.export.default_decompositions()
    return {op: table[op] for op in _COMPOSITES}


def simplify(module: fx.GraphModule) -> fx.GraphModule:
    """Return `module` with only computation left.

    Batch norms and linear layers become single operators, tied weights get one name, needless
    copies are removed, and constant expressions are computed.
    """
    _restore_batch_norm(module.graph)
    _merge_tied(module)
    _drop_identities(module.graph)
    _products_to_linear(module.graph)
    _free_factories(module.graph)
    _fold_constants(module)
    for check in module.graph.find_nodes(
        op="call_function", target=aten._assert_tensor_metadata.default
    ):
        module.graph.erase_node(check)
    module.graph.eliminate_dead_code()
    return fx.GraphModule(module, module.graph)


def _restore_batch_norm(graph: fx.Graph) -> None:
    """Undo the one decomposition that ``run_decompositions({})`` always does."""
    for node in graph.find_nodes(
        op="call_function", target=aten._native_batch_norm_legit_no_training.default
    ):
        x, weight, bias, mean, var, momentum, eps = node.args
        with graph.inserting_before(node):
            whole = graph.create_node(
                "call_function",
                aten.batch_norm.default,
                (x, weight, bias, mean, var, False, momentum, eps, True),
                name="batch_norm",
            )
        for item in list(node.users):
            if item.target is operator.getitem and item.args[1] == 0:
                whole.meta = dict(item.meta)
                item.replace_all_uses_with(whole)
                graph.erase_node(item)
        graph.erase_node(node)


def name_of(node: fx.Node) -> str:
    """Return the operator's name without namespace and overload: ``conv2d``, ``add``, ``relu``."""
    return operator_name(node.target)


def operator_name(target: object) -> str:
    """Return the name of the function that a node calls, as `name_of` does."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name).split("::")[-1]
    return str(getattr(target, "__name__", target))


def reads_only_metadata(node: fx.Node) -> bool:
    """Whether the operator uses only the dtype, device and size of its operand."""
    return name_of(node) in {
        *("new_zeros", "new_ones", "new_full", "new_empty"),
        *("zeros_like", "ones_like", "full_like", "empty_like"),
    }


def attribute(module: nn.Module | None, name: str) -> Any:  # noqa: ANN401  (a tensor or a module)
    """Return the parameter, buffer or submodule at the dotted path `name`."""
    return operator.attrgetter(name)(module)


def _merge_tied(module: fx.GraphModule) -> None:
    """Give a shared parameter its first name in all of its readers."""
    first: dict[int, str] = {}
    for node in module.graph.find_nodes(op="get_attr"):
        node.target = first.setdefault(id(attribute(module, node.target)), node.target)


def _drop_identities(graph: fx.Graph) -> None:
    """Replace aliases, and copies of the same dtype and memory order, by their operands."""
    for node in graph.nodes:
        if node.target in {aten.clone.default, aten.type_as.default}:
            before, after = node.args[0].meta["val"], node.meta["val"]
            if tuple(before.stride()) != tuple(after.stride()) or before.dtype != after.dtype:
                continue
        elif node.target not in {aten.alias.default, aten.detach.default}:
            continue
        node.replace_all_uses_with(node.args[0])


def _products_to_linear(graph: fx.Graph) -> None:
    """Replace ``x @ w``, ``x @ w.t()`` and ``addmm`` with a parameter ``w`` by linear layers."""
    for node in [n for n in graph.nodes if n.target in _PRODUCTS]:
        *bias, x, weight = node.args
        transposed = _is_transpose(weight) and weight.args[0].op == "get_attr"
        if node.kwargs or not (transposed or weight.op == "get_attr"):
            continue
        shape = weight.meta["val"].shape
        if len(shape) != 2 or any(
            b.op != "get_attr" or b.meta["val"].shape != shape[1:] for b in bias
        ):
            continue
        with graph.inserting_before(node):
            rows = weight.args[0] if transposed else _transpose(graph, weight)
            linear = graph.create_node(
                "call_function", aten.linear.default, (x, rows, *bias), name="linear"
            )
        linear.meta = dict(node.meta)
        node.replace_all_uses_with(linear)
        graph.erase_node(node)


def _transpose(graph: fx.Graph, weight: fx.Node) -> fx.Node:
    name = f"{weight.name}_t"
    return graph.create_node("call_function", aten.t.default, (weight,), name=name)


def _is_transpose(node: fx.Node) -> bool:
    if node.target not in _TRANSPOSES or node.meta["val"].ndim != 2:
        return False
    probe = torch.empty(2, 3, device="meta")
    return bool(node.target(probe, *node.args[1:]).shape == (3, 2))


def _free_factories(graph: fx.Graph) -> None:
    """Make new tensors of a fixed size independent of the activation they are made like."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if not reads_only_metadata(node) or not all(isinstance(n, int) for n in value.shape):
            continue
        name = name_of(node)
        fill: Any = 1 if "ones" in name else 0
        if "full" in name:
            fill = node.args[1 if name == "full_like" else 2]
        with graph.inserting_before(node):
            free = graph.call_function(
                aten.full.default,
                (list(value.shape), fill),
                {"dtype": value.dtype, "device": value.device},
            )
        free.meta = dict(node.meta)
        node.replace_all_uses_with(free)
        graph.erase_node(node)


def _fold_constants(module: fx.GraphModule) -> None:
    """Compute constant expressions once: attention masks, weight norms, transposed weights."""
    graph = module.graph
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            values[node] = attribute(module, node.target)
            node.meta[TRAINED] = isinstance(values[node], nn.Parameter)
        elif _is_pure(node) and all(operand in values for operand in node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)
            node.meta[TRAINED] = any(n.meta[TRAINED] for n in node.all_input_nodes)
    for node, value in values.items():
        used = any(user not in values for user in node.users)
        if node.op == "get_attr" or not used or not isinstance(value, torch.Tensor):
            continue
        name = f"{CONSTANT}{node.name}"
        module.register_buffer(name, value)
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
        constant.meta = dict(node.meta)
        node.replace_all_uses_with(constant, lambda user: user not in values)


def _is_pure(node: fx.Node) -> bool:
    return node.target is operator.getitem or (
        isinstance(node.target, torch._ops.OpOverload)
        and torch.Tag.nondeterministic_seeded not in node.target.tags
        and not node.target._schema.is_mutable
    )
