"""Write the formats of a plan into a graph, as quantize nodes, integer weights and casts.

In float32, the rewritten graph computes the same as `aiq.quantize.simulate`; it also shows the
dtype in which each tensor is stored. All compilers in `aiq.runtimes` start from it, so all of them
round with the scales with which the plan's accuracy was measured.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import fx
from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers quantized_decomposed

from aiq.errors import InputError
from aiq.formats import BF16, INTEGERS, REFERENCE, Format
from aiq.graph import Layer, Op, Trace
from aiq.graph.export import Inputs
from aiq.graph.operators import argument, bounds, is_view
from aiq.graph.simplify import attribute, name_of
from aiq.quantize.affine import Affine, to_rows
from aiq.quantize.fold import fold
from aiq.quantize.moments import second_moments
from aiq.quantize.points import Absorbs, absorbs_all
from aiq.quantize.simulate import Simulator
from aiq.quantize.statistics import input_node, observe
from aiq.runtimes.arguments import leaves
from aiq.runtimes.calibration import calibration_batches
from aiq.runtimes.narrow import QUANTIZE, keeps_grid, narrow
from aiq.runtimes.structure import Template, take_values

_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
_DEQUANTIZE_WEIGHT = torch.ops.quantized_decomposed.dequantize_per_channel.default
_RESHAPE = torch.ops.aten.reshape.default


@dataclass(frozen=True, slots=True)
class Target:
    """Description of the graphs that the kernels of a runtime expect.

    Attributes
    ----------
    weight_bits
        Largest number of bits of a weight that is multiplied by integer activations. It is seven if
        kernels add pairs of products in sixteen bits, where eight would overflow.
    absorbs
        Whether an integer kernel absorbs an operator, see `aiq.quantize.points`.
    packed
        Names of the weight-only formats whose integer weights the runtime can store and multiply by
        in float32. Weights of other weight-only formats are stored as rounded float32.
    """

    weight_bits: int = 8
    absorbs: Absorbs = absorbs_all
    packed: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A graph in which every layer computes in its format.

    Attributes
    ----------
    module
        Graph module from the tensors of a call to a tuple of tensors.
    heads
        Name of the graph node that multiplies by a layer's weights -> name of the layer, in the
        order in which they run.
    returns
        Structure of the model's outputs, without the tensors.
    """

    module: fx.GraphModule
    heads: Mapping[str, str]
    returns: Template


def rewrite(
    trace: Trace,
    example_inputs: Inputs,
    formats: Mapping[str, Format],
    calibration: Iterable[Inputs],
    target: Target,
) -> Rewritten:
    """Return `trace` with every layer in its format and batch norms folded.

    Parameters
    ----------
    trace
        Exported model, which is not changed.
    example_inputs
        Arguments of one call.
    formats
        Format by layer name; layers that are not named stay float32.
    calibration
        Batches of inputs that calibrate the ranges of activations, and the biases that correct the
        error of rounded weights; read only if a format quantises.
    target
        Description of the graphs that the kernels expect.

    Raises
    ------
    InputError
        If a format quantises activations and `calibration` is empty.
    """
    folded = fold(trace)
    chosen = [
        (layer, formats.get(layer.name, REFERENCE).held_to(target.weight_bits))
        for layer in folded.graph.quantizable
    ]
    quantizes = any(fmt.quantizes_weights for _, fmt in chosen)
    batches = calibration_batches(calibration, folded) if quantizes else []
    if any(fmt.quantizes_activations for _, fmt in chosen) and not batches:
        raise InputError(
            "Quantised activations need calibration data and none was given; pass batches of "
            "inputs as `calibration`."
        )
    statistics = observe(folded, batches, target.absorbs) if batches else {}
    simulator = Simulator(
        folded,
        statistics,
        correct_bias=bool(batches),
        absorbs=target.absorbs,
        moments=second_moments(folded, batches),
    )
    writer = _Writer(folded, simulator, target)
    for layer, fmt in chosen:
        writer.rewrite(layer, fmt)
    module, graph = folded.module, folded.module.graph
    returns = take_values(graph, folded.graph.batch)
    graph.set_codegen(fx.graph.CodeGen())
    narrow(
        module,
        {layer.nodes[0]: fmt for layer, fmt in chosen},
        writer.either,
        writer.ends,
        leaves(example_inputs),
    )
    graph.eliminate_dead_code()
    module.recompile()
    heads = {layer.nodes[0]: layer.name for layer, _ in chosen}
    return Rewritten(module, heads, returns)


class _Writer:
    """Writes formats into the graph of a folded trace, layer by layer."""

    def __init__(self, folded: Trace, simulator: Simulator, target: Target) -> None:
        self._module = folded.module
        self._nodes = {node.name: node for node in folded.module.graph.nodes}
        self._reads = {layer.name: input_node(folded, layer) for layer in folded.graph.quantizable}
        self._poolings = {x.nodes[-1] for x in folded.graph.layers if x.op is Op.POOL}
        self._simulator = simulator
        self._target = target
        self._grids: dict[fx.Node, tuple[int, Affine]] = {}
        self._quantized: dict[tuple[fx.Node, int], fx.Node] = {}
        self._own: set[fx.Node] = set()  # clamps and quantize nodes
        self.either: set[fx.Node] = set()
        """Dequantize nodes whose value may be bfloat16 by the formats of the layers."""
        self.ends: set[fx.Node] = set()
        """Last nodes of integer layers that write bfloat16 by their format, as nothing rounds."""

    def rewrite(self, layer: Layer, fmt: Format) -> None:
        """Write the format of one layer; call it for layers in the order in which they run."""
        head = self._nodes[layer.nodes[0]]
        if fmt.quantizes_weights:
            self._weights(layer.name, head, fmt)
            self._bias(layer.name, head, fmt)
        if not fmt.quantizes_activations:
            return
        bits = fmt.activation.bits
        tensor, source = self._reads[layer.name], argument(head, "input")
        self._pool(source, tensor, bits)
        head.replace_input_with(source, self._on_grid(source, tensor, bits, head))
        points = self._simulator.points[layer.name]
        if fmt.between == BF16 and not points and not layer.is_output:
            self.ends.add(self._nodes[layer.nodes[-1]])
        for end in (self._nodes[name] for name in points):
            for user in [user for user in end.users if user not in self._own]:
                rounded = self._on_grid(end, end.name, bits, user)
                user.replace_input_with(end, rounded)
                if fmt.between == BF16:
                    self.either.add(rounded)

    def _pool(self, source: fx.Node, tensor: str, bits: int) -> None:
        """Round a pooling of which only a view is read before that view is taken.

        The values are the same, and kernels can then write the pooling as integers.
        """
        reader, value = source, source
        while is_view(value) and len(value.users) == 1:
            reader, value = value, value.all_input_nodes[0]
        if value is not source and value.name in self._poolings and len(value.users) == 1:
            reader.replace_input_with(value, self._on_grid(value, tensor, bits, reader))

    def _on_grid(self, node: fx.Node, tensor: str, bits: int, user: fx.Node) -> fx.Node:
        """Return the node that `user` reads instead of `node`: its value rounded to `bits`.

        Compilers expect a separate dequantize node before every reader.
        """
        grid = self._grid(node)
        if grid is not None and grid[0] == bits and node in self._grids:
            return node
        if grid is not None and grid[0] == bits:
            affine = grid[1]  # views and maxima of integers have the same scale
        else:
            affine = self._simulator.activation(tensor, INTEGERS[bits])
        graph = self._module.graph
        scale, zero_point = float(affine.scale), int(affine.zero_point)
        limits = (affine.scheme.low, affine.scheme.high)
        if (node, bits) not in self._quantized:
            source = last = node
            if bits < 8:  # kernels that write integers clamp to all eight bits
                ends = [(limit - zero_point) * scale for limit in limits]
                with graph.inserting_after(node):
                    source = last = graph.call_function(torch.ops.aten.clamp.default, (node, *ends))
                self._own.add(last)
            elif _saturates(node, affine):
                # The clamp is left out, as it may keep a compiler from using its integer kernel.
                source = argument(node, "input", node.args[0])
            with graph.inserting_after(last):
                arguments = (source, scale, zero_point, *limits, torch.uint8)
                self._quantized[node, bits] = graph.call_function(QUANTIZE, arguments)
            self._own.add(self._quantized[node, bits])
        with graph.inserting_before(user):
            result = graph.call_function(
                _DEQUANTIZE,
                (self._quantized[node, bits], scale, zero_point, *limits, torch.uint8),
            )
        self._grids[result] = (bits, affine)
        return result

    def _grid(self, node: fx.Node) -> tuple[int, Affine] | None:
        """Return the bits and the quantiser to which the values of `node` are rounded already."""
        if node in self._grids:
            return self._grids[node]
        return self._grid(node.all_input_nodes[0]) if keeps_grid(node) else None

    def _weights(self, name: str, head: fx.Node, fmt: Format) -> None:
        source = argument(head, "weight")
        exact = attribute(self._module, str(source.target)).detach()
        key = (name, fmt.weight, fmt.weight_granularity, fmt.activation)
        affine = self._simulator.weight_quantizer(*key)
        scheme, graph = affine.scheme, self._module.graph
        transposed = self._simulator.operands[name].transposed
        tiles = scheme.group is None or exact.shape[1] % scheme.group == 0
        is_packed = fmt.name in self._target.packed and name_of(head) == "linear" and tiles
        with graph.inserting_before(head):
            rows = scheme.axis == 0 and not transposed
            if (fmt.quantizes_activations and rows) or is_packed:
                codes = affine.quantize(self._simulator.weight(*key))
                if scheme.group is not None:
                    codes = to_rows(codes, scheme)
                zeros = torch.zeros_like(affine.scale, dtype=torch.int64)
                parts = {
                    "codes": codes.to(torch.int8),
                    "scale": affine.scale,
                    "zero_point": zeros,
                }
                operands = [self._constant(head, key, value) for key, value in parts.items()]
                weight = graph.call_function(
                    _DEQUANTIZE_WEIGHT,
                    (*operands, 0, scheme.low, scheme.high, torch.int8),
                )
                if scheme.group is not None:
                    arguments = (weight, list(exact.shape))
                    weight = graph.call_function(_RESHAPE, arguments)
            else:
                weight = self._constant(head, "rounded", self._simulator.weight(*key))
        head.replace_input_with(source, weight)

    def _bias(self, name: str, head: fx.Node, fmt: Format) -> None:
        source = argument(head, "bias")
        if source is not None:
            corrected = self._simulator.bias(
                name, fmt.weight, fmt.weight_granularity, fmt.activation
            )
            with self._module.graph.inserting_before(head):
                head.replace_input_with(source, self._constant(head, "bias", corrected))

    def _constant(self, head: fx.Node, key: str, value: torch.Tensor) -> fx.Node:
        name = f"{head.name}_{key}"
        # Inductor packs integer weights without regard to their strides, and with channels-last
        # weights a convolution returns a result of which views in the graph may be impossible.
        self._module.register_buffer(name, value.contiguous())
        return self._module.graph.get_attr(name)


def _saturates(node: fx.Node, affine: Affine) -> bool:
    """Whether rounding with `affine` includes the clamp `node`, which is then superfluous."""
    limits = bounds(node)
    if limits is None:
        return False
    scale, zero_point = float(affine.scale), int(affine.zero_point)
    low, high = (limit / scale + zero_point for limit in limits)
    # Up to half a step beyond the last integer, rounding saturates as well.
    return low - 0.5 < affine.scheme.low and high + 0.5 > affine.scheme.high
