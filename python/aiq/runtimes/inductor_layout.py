"""The memory order of the inputs of quantised linear layers in Inductor."""

import torch
from torch._subclasses import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from aiq.graph.operators import argument
from aiq.graph.simplify import name_of
from aiq.runtimes.narrow import QUANTIZE
from aiq.runtimes.rewrite import Rewritten


def copy_permuted(rewritten: Rewritten, inputs: tuple[torch.Tensor, ...]) -> None:
    """Copy permuted integers into contiguous order before the linear layers that read them.

    A linear layer on a permuted tensor becomes a batched product, for which Inductor has no integer
    kernel: it would multiply in float32 and dequantise the weights in every run.
    """
    module, graph = rewritten.module, rewritten.module.graph
    sources = [
        argument(node, "input")
        for node in graph.nodes
        if node.name in rewritten.heads and name_of(node) == "linear"
    ]
    quantized = [x for x in sources if x.all_input_nodes and x.args[0].target is QUANTIZE]
    if not quantized:
        return
    FakeTensorProp(module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*inputs)
    for source in quantized:
        if not source.meta["val"].is_contiguous():
            integers = source.args[0]
            with graph.inserting_before(source):
                ordered = graph.call_function(
                    torch.ops.aten.clone.default,
                    (integers,),
                    {"memory_format": torch.contiguous_format},
                )
            source.replace_input_with(integers, ordered)
    module.recompile()
