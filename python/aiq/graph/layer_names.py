"""Names of layers: the paths of their modules, or what is nearest to them."""

from collections.abc import Mapping

from torch import nn

from aiq.graph.composites import module_path
from aiq.graph.fusion import Group
from aiq.graph.operators import argument, is_constant
from aiq.graph.simplify import CONSTANT, name_of


def layer_name(group: Group, modules: Mapping[str, nn.Module]) -> str:
    """Return the path of the ``torch.nn`` module that computes a group, or another unique name.

    A functional ``F.linear(x, self.qkv.weight)`` is named after its weight (``qkv``), a composite
    after its module, and any other operator after the module that calls it (``layer1.0.add``).
    """
    node, composite = group.nodes[0], group.composite
    path = module_path(node)
    module = modules.get(path)
    is_whole = composite is not None and not composite.name
    if path and module is not None and (is_whole or _is_torch_layer(module)):
        return path
    weight = argument(node, "weight")
    owner = str(weight.target).removesuffix("weight").rstrip("._") if is_constant(weight) else ""
    if owner and not owner.startswith(CONSTANT):
        return owner
    name = composite.name if composite is not None else ""
    return f"{path}.{name or name_of(node)}".lstrip(".") if module is not None else node.name


def _is_torch_layer(module: nn.Module) -> bool:
    return set(dict(module.named_children())) <= {"parametrizations"} and any(
        base.__module__.startswith("torch.nn.modules.") and base is not nn.Module
        for base in type(module).__mro__
    )
