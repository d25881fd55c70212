"""A choice of formats written into an exported graph: quantize nodes, casts, and labels.

Integer formats become the quantize/dequantize pairs that torchao's x86 quantizer inserts, bfloat16
layers become casts. The graph still computes in float32 until a compiler lowers it, and runs
anywhere.
"""

from collections.abc import Iterable, Mapping
from operator import attrgetter

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._pytree import tree_leaves
from torchao.quantization.pt2e import HistogramObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationSpec
from torchao.quantization.pt2e.quantizer.utils import QuantizationConfig
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    QUANT_ANNOTATION_KEY,
    X86InductorQuantizer,
    _X86InductorQuantizationAnnotation,
)

from aiq.errors import InputError
from aiq.formats import Format
from aiq.graph import Layer, Trace
from aiq.runtimes.base import Inputs

LABEL = "aiq_layers"
"""Key of ``node.meta["custom"]``: names of the layers whose kernel may absorb the node."""


def quantize(
    traced: Trace,
    example_inputs: Inputs,
    formats: Mapping[str, Format],
    calibration: Iterable[Inputs],
    *,
    reduce_range: bool = False,
) -> GraphModule:
    """Return the graph of `traced` with every layer in its format, batch norms folded.

    Parameters
    ----------
    traced
        Exported model; its module is consumed.
    example_inputs
        Positional arguments of one call.
    formats
        Format of every quantizable layer.
    calibration
        Batches on which the ranges of activations are observed.
    reduce_range
        Use seven bits for eight-bit activations: instruction sets older than VNNI add pairs of
        products in 16 bits, which saturates.

    Raises
    ------
    InputError
        If a format quantises activations and `calibration` is empty.
    """
    by_node = {layer.nodes[0]: formats[layer.name] for layer in traced.graph.quantizable}
    names = {layer.nodes[0]: layer.name for layer in traced.graph.quantizable}
    choices = {layer: formats[layer.name] for layer in traced.graph.quantizable}
    prepared = prepare_pt2e(traced.module, _PlanQuantizer(choices, reduce_range=reduce_range))
    # The weights' observers run too, so one pass is needed even where only weights are quantised.
    observed = any(fmt.quantizes_activations for fmt in by_node.values())
    seen = 0
    with torch.no_grad():
        for inputs in calibration if observed else [example_inputs]:
            prepared(*inputs)
            seen += 1
    if not seen:
        raise InputError(
            "Quantised activations need calibration data and none was given; pass at least one "
            "batch of inputs."
        )
    module: GraphModule = convert_pt2e(prepared)
    _widen(module, by_node)
    _narrow(module, by_node, example_inputs)
    _label(module, names)
    module.recompile()
    return module


class _PlanQuantizer(X86InductorQuantizer):  # type: ignore[misc]
    """torchao's annotations for x86, placed by the layer graph instead of by module patterns."""

    def __init__(self, choices: Mapping[Layer, Format], *, reduce_range: bool) -> None:
        super().__init__()
        self._choices = choices
        self._reduce_range = reduce_range

    def annotate(self, model: GraphModule) -> GraphModule:
        nodes = {node.name: node for node in model.graph.nodes}
        configs = {}
        for layer, fmt in self._choices.items():
            if fmt.quantizes_weights and nodes[layer.nodes[0]].target in _ANNOTATED:
                configs[fmt] = _config(fmt, reduce_range=self._reduce_range)
                # Batch norms are folded by now, so their nodes are gone.
                covered = [nodes[name] for name in layer.nodes if name in nodes]
                self._annotate_layer(covered, configs[fmt])
        for config in configs.values():
            if config.input_activation is not None:  # let integers through pools and the like
                self._annotate_propagation_quantizable_pattern_entry(
                    model, config, lambda nodes: True
                )
        self._annotate_output_for_int8_in_int8_out_pattern_entry(model)
        return model

    def _annotate_layer(self, covered: list[Node], config: QuantizationConfig) -> None:
        head, *fused = covered
        if head.target is torch.ops.aten.linear.default:
            self._annotate_linear_node_helper(head, False, config)
        else:
            self._annotate_conv_node_helper(head, False, config)
        for node in fused:
            residual = [n for n in node.all_input_nodes if n not in covered]
            is_add = node.target is torch.ops.aten.add.Tensor and config.input_activation
            node.meta[QUANT_ANNOTATION_KEY] = _X86InductorQuantizationAnnotation(
                input_qspec_map=dict.fromkeys(residual if is_add else (), config.input_activation),
                _annotated=True,
            )
        covered[-1].meta[QUANT_ANNOTATION_KEY]._is_output_of_quantized_pattern = True


_ANNOTATED = {
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.linear.default,
}
"""What the lowering knows; other layers stay in float32 and are reported as a mismatch."""


def _config(fmt: Format, *, reduce_range: bool) -> QuantizationConfig:
    limit = 2 ** (fmt.weight.bits - 1) - 1
    weight = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-limit,
        quant_max=limit,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=_EPS),
    )
    activation = None
    if fmt.quantizes_activations:
        bits = min(fmt.activation.bits, 7) if reduce_range else fmt.activation.bits
        activation = QuantizationSpec(
            dtype=torch.uint8,
            quant_min=0,
            quant_max=2**bits - 1,
            qscheme=torch.per_tensor_affine,
            observer_or_fake_quant_ctr=HistogramObserver.with_args(eps=_EPS),
        )
    return QuantizationConfig(activation, activation, weight, None, is_qat=False)


_EPS = 2.0**-23
"""Least scale: keeps an all-zero tensor from dividing by zero."""


def _widen(module: GraphModule, formats: Mapping[str, Format]) -> None:
    """Store the dequantised weights of weight-only layers, so that float kernels can pack them."""
    for node in list(module.graph.nodes):
        fmt = formats.get(node.name)
        if fmt is None or not fmt.quantizes_weights or fmt.quantizes_activations:
            continue
        dequantize = node.args[1]
        read = [
            attrgetter(str(a.target))(module) if isinstance(a, Node) else a for a in dequantize.args
        ]
        name = f"_widened_{node.name}"
        module.register_buffer(name, dequantize.target(*read))
        with module.graph.inserting_before(node):
            node.update_arg(1, module.graph.get_attr(name))
    module.graph.eliminate_dead_code()


def _narrow(module: GraphModule, formats: Mapping[str, Format], example_inputs: Inputs) -> None:
    """Make the bfloat16 layers compute in bfloat16, and what follows them up to the next layer.

    A node without a format of its own computes in bfloat16 when all it reads is bfloat16, so
    that casts stand only where formats meet.
    """
    if all(fmt.name != "bf16" for fmt in formats.values()):
        return
    FakeTensorProp(module, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*example_inputs)
    graph = module.graph
    narrow: set[Node] = set()
    for node in list(graph.nodes):
        operands = [n for n in node.all_input_nodes if _is_float32(n)]
        if not operands or node.op not in {"call_function", "output"} or node.target in _QUANTIZE:
            continue
        fmt = formats.get(node.name)
        if fmt is not None:
            is_narrow = fmt.name == "bf16"
        else:
            is_narrow = node.op != "output" and all(n in narrow for n in operands)
        if is_narrow and node.target not in _CASTS:
            narrow.add(node)
        for operand in operands:
            if (operand in narrow) != is_narrow:
                dtype = torch.bfloat16 if is_narrow else torch.float32
                with graph.inserting_before(node):
                    cast = graph.call_function(torch.ops.aten.to.dtype, (operand, dtype))
                node.replace_input_with(operand, cast)


_QUANTIZE = {torch.ops.quantized_decomposed.quantize_per_tensor.default}  # reads either float type
_CASTS = {torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default}  # their result type is fixed


def _is_float32(node: Node) -> bool:
    leaves = tree_leaves(node.meta.get("val"))
    return any(isinstance(x, torch.Tensor) and x.dtype is torch.float32 for x in leaves)


def _label(module: GraphModule, names: Mapping[str, str]) -> None:
    """Write into each node which layers' kernels may absorb it, the likeliest first.

    Compilers fuse a layer with nodes that follow it and keep the metadata of the last one. Labels
    of all of them, carried along the graph up to the next layer, let `kernels` tell whose it is.
    """
    order = {name: index for index, name in enumerate(names.values())}
    labels: dict[Node, tuple[str, ...]] = {}
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        if node.name in names:
            labels[node] = (names[node.name],)
        else:
            heard = {name for n in node.all_input_nodes for name in labels.get(n, ())}
            labels[node] = tuple(sorted(heard, key=lambda name: -order[name]))
        node.meta["custom"] = {**node.meta.get("custom", {}), LABEL: labels[node]}


def assign(labels: Iterable[tuple[str, ...]]) -> list[str | None]:
    """Return the layer of each kernel, given the labels of the kernels of a compiled graph.

    Every layer has one kernel, so those with a single label settle the others.
    """
    candidates = list(labels)
    owner: list[str | None] = [None] * len(candidates)
    taken: set[str] = set()
    for index in sorted(range(len(candidates)), key=lambda i: len(candidates[i])):
        free = [name for name in candidates[index] if name not in taken]
        if free:
            owner[index] = free[0]
            taken.add(free[0])
    return owner
