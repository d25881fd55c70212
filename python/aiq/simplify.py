"""Passes over an exported graph: leave only computation, each operator whole."""

import operator
from typing import Any

import torch
from torch import fx, nn

aten = torch.ops.aten


def simplify(module: fx.GraphModule) -> fx.GraphModule:
    """Return `module` with whole batch norms, one name for tied weights, folded constants."""
    _restore_batch_norm(module.graph)
    _merge_tied(module)
    _free_factories(module.graph)
    _fold_constants(module)
    for check in module.graph.find_nodes(
        op="call_function", target=aten._assert_tensor_metadata.default
    ):
        module.graph.erase_node(check)
    module.graph.eliminate_dead_code()
    return fx.GraphModule(module, module.graph)


def _restore_batch_norm(graph: fx.Graph) -> None:
    """Undo the one decomposition that ``run_decompositions({})`` insists on."""
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
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.split("::")[-1]
    return str(getattr(node.target, "__name__", node.target))


def reads_only_metadata(node: fx.Node) -> bool:
    """Whether the operator makes a new tensor of the dtype, device or size of its operand."""
    return name_of(node) in {
        *("new_zeros", "new_ones", "new_full", "new_empty"),
        *("zeros_like", "ones_like", "full_like", "empty_like"),
    }


def attribute(module: nn.Module | None, name: str) -> Any:  # noqa: ANN401  (a tensor or a module)
    """Return the parameter, buffer or submodule at the dotted path `name`."""
    return operator.attrgetter(name)(module)


def _merge_tied(module: fx.GraphModule) -> None:
    """Let every reader of a shared parameter call it by its first name."""
    first: dict[int, str] = {}
    for node in module.graph.find_nodes(op="get_attr"):
        node.target = first.setdefault(id(attribute(module, node.target)), node.target)


def _free_factories(graph: fx.Graph) -> None:
    """Let tensors of a fixed size that are made like an activation no longer depend on it."""
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
    """Compute once what reads no input: attention masks, weight norms, transposed weights."""
    graph = module.graph
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            values[node] = attribute(module, node.target)
        elif _is_pure(node) and all(operand in values for operand in node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)
    for node, value in values.items():
        used = any(user not in values for user in node.users)
        if node.op == "get_attr" or not used or not isinstance(value, torch.Tensor):
            continue
        name = f"constant_{node.name}"
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
