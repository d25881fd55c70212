"""Linear layers with eight- or four-bit weights in Inductor: PyTorch's packed kernels.

They read bfloat16 activations (their float32 variants are slower than a float32 product) and give
bfloat16 results; the scales are applied to those in float32.
"""

import torch
from torch import fx

from aiq.graph.export import SHAPES
from aiq.graph.operators import argument
from aiq.graph.simplify import attribute
from aiq.runtimes.kernels import LABEL
from aiq.runtimes.rewrite import Rewritten, weight_only_layers

aten = torch.ops.aten

FORMATS = frozenset({"w8", "w4"})
"""The formats that have a kernel."""

_GROUPS = (256, 128, 64, 32)
_ROWS = 16  # of a tile of four-bit weights


def pack(rewritten: Rewritten) -> None:
    """Replace the weight-only linear layers of `rewritten` by packed kernels.

    A shape that the four-bit kernel cannot tile keeps its codes in bytes.
    """
    module, graph = rewritten.module, rewritten.module.graph
    for head, weight in weight_only_layers(rewritten):
        codes, scale = (attribute(module, str(n.target)) for n in weight.all_input_nodes[:2])
        bits = 4 if weight.args[5] == 7 else 8
        rows, columns = codes.shape
        group = next((g for g in _GROUPS if columns % g == 0), None)
        source, bias = argument(head, "input"), argument(head, "bias")
        with graph.inserting_before(head):
            flat = graph.call_function(aten.reshape.default, (source, [-1, columns]))
            x = graph.call_function(aten.to.dtype, (flat, torch.bfloat16))
            if bits == 4 and group is not None and rows % _ROWS == 0:
                unsigned = codes.to(torch.int32) + 8
                tiles = aten._convert_weight_to_int4pack_for_cpu(unsigned, 1)
                ones = torch.ones(columns // group, rows, dtype=torch.bfloat16)
                steps = torch.stack((ones, torch.zeros_like(ones)), -1)
                tiled = _constant(module, head, "tiles", tiles)
                step = _constant(module, head, "steps", steps)
                product = graph.call_function(
                    aten._weight_int4pack_mm_for_cpu.default, (x, tiled, group, step)
                )
            else:
                ones = torch.ones(rows, dtype=torch.bfloat16)
                step = _constant(module, head, "steps", ones)
                product = graph.call_function(
                    aten._weight_int8pack_mm.default, (x, weight.args[0], step)
                )
            product.meta["custom"] = {LABEL: (rewritten.heads[head.name],)}
            wide = graph.call_function(aten.to.dtype, (product, torch.float32))
            scales = _constant(module, head, "scales", scale)
            result = graph.call_function(aten.mul.Tensor, (wide, scales))
            if bias is not None:
                result = graph.call_function(aten.add.Tensor, (result, bias))
            shape = list(head.meta[SHAPES][0])
            result = graph.call_function(aten.reshape.default, (result, shape))
        head.replace_all_uses_with(result)
        graph.erase_node(head)
    graph.eliminate_dead_code()
    module.recompile()


def _constant(module: fx.GraphModule, head: fx.Node, key: str, value: torch.Tensor) -> fx.Node:
    name = f"{head.name}_{key}"
    module.register_buffer(name, value)
    return module.graph.get_attr(name)
