"""Linear layers with eight- or four-bit weights in Inductor: PyTorch's packed kernels.

They read bfloat16 activations (their float32 variants are slower than a float32 product) and give
bfloat16 results. The scale of a channel is applied to those in float32; scales of groups are
applied inside the kernel, in bfloat16.
"""

import torch
from torch import fx

from aiq.graph.export import SHAPES
from aiq.graph.operators import argument
from aiq.runtimes.kernels import LABEL
from aiq.runtimes.rewrite import PackedLayer, Rewritten, packed_layers

aten = torch.ops.aten

FORMATS = frozenset({"w8", "w4", "w4g32", "w4g64", "w4g128"})
"""The formats that have a kernel."""

_GROUPS = (256, 128, 64, 32)
_ROWS = 16  # of a tile of four-bit weights


def pack(rewritten: Rewritten) -> None:
    """Replace the weight-only linear layers of `rewritten` by packed kernels.

    A shape that the four-bit kernel cannot tile keeps its codes in bytes, or, with a scale for each
    group, is left to float32.
    """
    module, graph = rewritten.module, rewritten.module.graph
    for layer in packed_layers(rewritten):
        head = layer.head
        source, bias = argument(head, "input"), argument(head, "bias")
        shape = list(head.meta[SHAPES][0])
        rows, columns = shape[-1], layer.codes.numel() // shape[-1]
        is_grouped = len(layer.scale) > rows
        tiles = rows % _ROWS == 0 and any(columns % group == 0 for group in _GROUPS)
        if is_grouped and not tiles:
            continue
        with graph.inserting_before(head):
            flat = graph.call_function(aten.reshape.default, (source, [-1, columns]))
            x = graph.call_function(aten.to.dtype, (flat, torch.bfloat16))
            if layer.bits == 4 and tiles:
                product = _four_bits(module, layer, x, rows, columns)
            else:
                codes = _constant(module, head, "bytes", layer.codes)
                ones = _constant(module, head, "steps", torch.ones(rows, dtype=torch.bfloat16))
                product = graph.call_function(aten._weight_int8pack_mm.default, (x, codes, ones))
            product.meta["custom"] = {LABEL: (rewritten.heads[head.name],)}
            result = graph.call_function(aten.to.dtype, (product, torch.float32))
            if not is_grouped:
                scales = _constant(module, head, "scales", layer.scale)
                result = graph.call_function(aten.mul.Tensor, (result, scales))
            if bias is not None:
                result = graph.call_function(aten.add.Tensor, (result, bias))
            result = graph.call_function(aten.reshape.default, (result, shape))
        head.replace_all_uses_with(result)
        graph.erase_node(head)
    graph.eliminate_dead_code()
    module.recompile()


def format_of(steps: torch.Tensor, group: int) -> str:
    """Return the format of a four-bit kernel with the given steps for groups of that size."""
    return "w4" if bool((steps[..., 0] == 1).all()) else f"w4g{group}"


def _four_bits(
    module: fx.GraphModule, layer: PackedLayer, x: fx.Node, rows: int, columns: int
) -> fx.Node:
    if len(layer.scale) > rows:
        group = columns * rows // len(layer.scale)
        scale = layer.scale.view(rows, -1).T
    else:
        group = next(g for g in _GROUPS if columns % g == 0)
        scale = torch.ones(columns // group, rows)
    unsigned = layer.codes.view(rows, columns).to(torch.int32) + 8
    tiles = aten._convert_weight_to_int4pack_for_cpu(unsigned, 1)
    steps = torch.stack((scale, torch.zeros_like(scale)), -1).to(torch.bfloat16)
    tiled = _constant(module, layer.head, "tiles", tiles)
    step = _constant(module, layer.head, "steps", steps.contiguous())
    return module.graph.call_function(
        aten._weight_int4pack_mm_for_cpu.default, (x, tiled, group, step)
    )


def _constant(module: fx.GraphModule, head: fx.Node, key: str, value: torch.Tensor) -> fx.Node:
    name = f"{head.name}_{key}"
    module.register_buffer(name, value)
    return module.graph.get_attr(name)
