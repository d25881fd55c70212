"""A network as pieces of work, each done by one kernel of a runtime.

The pieces depend on the plan: the format of a layer selects its kernel, and a conversion is needed
between two layers of different formats. A piece therefore names the layers, at most two, on whose
formats it depends. The calibrated table prices the pieces; the calibration fits their kernels.

Layers without weights have no format of their own. Each follows its *root*, the first layer with
weights upstream. It computes in bfloat16 or integers if the root does and the runtime has such a
kernel, otherwise in the floating-point dtype that the format of the root has between layers. If the
runtime fuses the operator (`RuntimeProfile.fuses`), conversions next to it cost nothing, and a
sequence of such operators starts only once.

A tensor that several layers read is converted once for all of them. With k readers, the conversion
for each reader counts 1/k, and each pair of readers that differ counts another 1/k. The sum is
exact if either one reader or all readers differ from the writer.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from aiq.cost import rows
from aiq.cost.shape import features
from aiq.formats import FP32, KERNEL_DTYPES, DType, Format, Kind
from aiq.graph import Edge, Layer, LayerGraph, Op
from aiq.typed import Count, Name, NonNegative

FUNCTIONS: Mapping[str, str] = {
    **{name: name for name in ("silu", "gelu", "sigmoid")},
    **dict.fromkeys(("hardswish", "hardsigmoid"), "hardswish"),
    **dict.fromkeys(("tanh", "softplus", "mish", "elu", "selu", "log_sigmoid"), "sigmoid"),
}
"""Activation function -> kernel that stands for it, for functions that are more than a clamp."""


def _kind(layer: Layer) -> str:
    """Return the kernel of a layer without weights: its operator class, or a part of the class."""
    function = re.sub(r"_*\d*$", "", layer.nodes[0])
    if layer.op is Op.ACTIVATION:
        return FUNCTIONS.get(function, "activation")
    if layer.op is Op.POOL and layer.output_elements * 8 < layer.input_elements:
        return "mean"  # a mean over whole images reads much and writes little
    if layer.op is Op.POOL and "avg" in function:
        return "average"
    return str(layer.op)


def _reversed(work: rows.Work) -> rows.Work:
    """Return work with inputs and outputs exchanged.

    The bytes are the same, and the time per element written then applies to the elements read.
    """
    return work._replace(inputs=work.outputs, outputs=work.inputs, is_output=False)


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of work that a run includes if the layers of the piece have its formats.

    Attributes
    ----------
    kernel
        ``<operator class>.<dtype>``, or ``<dtype>_to_<dtype>``.
    work, storage
        FLOPs and elements of the piece, and how the elements are stored.
    resident
        Bytes that the whole network keeps in memory between two runs.
    layers, formats
        Positions of the layers on whose formats the piece depends, and of these formats.
    starts
        Whether the piece takes the time of a kernel's start.
    share
        Share of its time that counts, from 0 to 1.
    shape
        `aiq.cost.shape.FEATURES` of a layer with weights, otherwise empty.
    """

    kernel: Name
    work: rows.Work
    storage: rows.Storage
    resident: NonNegative
    layers: tuple[Count, ...]
    formats: tuple[Count, ...]
    starts: bool = True
    share: NonNegative = 1.0
    shape: tuple[float, ...] = ()


def dtypes(formats: Iterable[Format]) -> list[DType]:
    """Return the dtypes to which indices in the pieces of `formats` refer, float32 first."""
    used = [dtype for f in formats for dtype in (f.compute, f.between)]
    return list(dict.fromkeys([FP32, *used]))


def stored_as(format_: Format) -> str:
    """Return the dtype in which activations are stored: ``fp32``, ``bf16`` or ``int8``."""
    return "int8" if format_.activation.kind is Kind.INT else format_.activation.name


def pieces(
    graph: LayerGraph,
    formats: Sequence[Format],
    kernels: Mapping[str, Collection[str]],
    fuses: Collection[str],
) -> list[Piece]:
    """Return all pieces of work of a network, for every combination of formats.

    Parameters
    ----------
    graph
        The network.
    formats
        Formats in which layers are executed (`RuntimeProfile.executed`).
    kernels
        Operator class, or part of a class -> dtypes in which the runtime computes it.
    fuses
        Operator classes without weights that the runtime fuses.
    """
    cutter = _Cutter(graph, formats, kernels, fuses)
    found: list[Piece] = []
    for index, layer in enumerate(graph.layers):
        cut = cutter.weighted if layer.quantizable else cutter.unweighted
        found += cut(index, layer)
    readers = defaultdict(list)
    for edge in graph.edges:
        if not cutter.absorbs(edge.source) and not cutter.absorbs(edge.target):
            if graph.layers[edge.target].quantizable and not edge.fused:
                readers[edge.source].append(edge)
            else:
                found += cutter.residual(edge) if edge.fused else cutter.conversions(edge, 1.0)
    for edges in readers.values():
        share = 1 / len(edges)
        for edge in edges:
            found += cutter.conversions(edge, share)
        for first, second in combinations(edges, 2):
            found += cutter.disagreement(first, second, share)
    return found


class _Cutter:
    def __init__(
        self,
        graph: LayerGraph,
        formats: Sequence[Format],
        kernels: Mapping[str, Collection[str]],
        fuses: Collection[str],
    ) -> None:
        self._layers = graph.layers
        self._formats = formats
        self._kernels = kernels
        self._fuses = fuses
        self._stored = [stored_as(f) for f in formats]
        self._dtypes = dtypes(formats)
        self._sources: dict[int, list[Edge]] = defaultdict(list)
        for edge in graph.edges:
            self._sources[edge.target].append(edge)
        # Convolutions that read equally many elements of the network's inputs are taken to read the
        # same input, which is reordered once.
        self._reading = Counter(
            self._outside(index, layer)
            for index, layer in enumerate(graph.layers)
            if layer.quantizable and layer.op is not Op.LINEAR
        )
        self._root: list[int | None] = []
        weighted = 0
        for index, layer in enumerate(graph.layers):
            if layer.quantizable:
                self._root.append(weighted)
                weighted += 1
            else:
                roots = [self._root[edge.source] for edge in self._sources[index]]
                self._root.append(next((root for root in roots if root is not None), None))
        self._resident = [
            sum(layer.weight_elements for layer in graph.quantizable) * f.weight.bits / 8
            + rows.largest_activations(graph.layers, KERNEL_DTYPES[stored].bits)
            for f, stored in zip(formats, self._stored, strict=True)
        ]

    def absorbs(self, index: int) -> bool:
        """Whether conversions of the inputs and outputs of this layer are fused into it."""
        layer = self._layers[index]
        return not layer.quantizable and str(layer.op) in self._fuses

    def weighted(self, index: int, layer: Layer) -> Iterable[Piece]:
        root = self._root[index]
        assert root is not None
        outside = self._outside(index, layer)
        for k, (fmt, stored) in enumerate(zip(self._formats, self._stored, strict=True)):
            yield Piece(
                f"{layer.op}.{fmt.compute.name}",
                # Fused operands are pieces of their own, below.
                rows.stored_work(layer, fmt)._replace(fused=0),
                rows.storage(fmt, self._dtypes.index(fmt.compute)),
                self._resident[k],
                (root,),
                (k,),
                shape=features(layer),
            )
            if layer.fused_elements:
                n = layer.fused_elements
                yield self._pass("residual", stored, (2 * n, n), (root,), (k,))
            for name in layer.fused:
                if name in FUNCTIONS:
                    n = layer.output_elements
                    yield self._pass(FUNCTIONS[name], stored, (n, n), (root,), (k,))
            if outside > 0 and layer.op is not Op.LINEAR:
                # Convolutions need channels last, so the input is copied in every format.
                kernel = self._reorder(stored)
                share = 1 / self._reading[outside]
                yield self._copy(kernel, outside, "fp32", stored, (root,), (k,), share)
            elif outside > 0 and stored != "fp32":
                yield self._convert(outside, "fp32", stored, (root,), (k,))
            if layer.is_output and stored == "bf16":
                yield self._convert(layer.output_elements, stored, "fp32", (root,), (k,))

    def _outside(self, index: int, layer: Layer) -> int:
        """Return how many float32 elements a layer reads from the inputs of the network."""
        inside = sum(edge.elements for edge in self._sources[index] if not edge.fused)
        return layer.input_elements - inside

    def _reorder(self, stored: str) -> str:
        """Return the kernel that converts an input to the layout of a convolution.

        Old profiles have one such kernel for all dtypes, or none.
        """
        known = self._kernels.get("reorder")
        if known is None:
            return f"{Op.LAYOUT}.fp32"
        return f"reorder.{stored if stored in known else 'fp32'}"

    def unweighted(self, index: int, layer: Layer) -> Iterable[Piece]:
        root = self._root[index]
        starts = not self.absorbs(index) or not any(
            self.absorbs(edge.source) for edge in self._sources[index]
        )
        work = rows.work(layer)
        if layer.op is Op.POOL:
            work = _reversed(work)
        for k in [None] if root is None else range(len(self._formats)):
            computed = self._computed(layer, k)
            stored = "fp32" if k is None else self._stored[k]
            bits = KERNEL_DTYPES[stored if self.absorbs(index) else computed].bits
            yield Piece(
                f"{_kind(layer)}.{computed}",
                work,
                rows.Storage(32, bits, bits, False, self._dtypes.index(KERNEL_DTYPES[computed])),
                0.0 if k is None else self._resident[k],
                () if root is None else (root,),
                () if k is None else (k,),
                starts,
            )

    def _pass(
        self,
        kernel: str,
        stored: str,
        elements: tuple[int, int],
        layers: tuple[int, ...],
        formats: tuple[int, ...],
    ) -> Piece:
        work = rows.Work(inputs=elements[0], outputs=elements[1])
        bits, compute = KERNEL_DTYPES[stored].bits, self._dtypes.index(KERNEL_DTYPES[stored])
        storage = rows.Storage(32, bits, bits, False, compute)
        return Piece(f"{kernel}.{stored}", work, storage, 0.0, layers, formats)

    def conversions(self, edge: Edge, share: float) -> Iterable[Piece]:
        """Yield the conversions of a tensor, for every two formats at the ends of its edge."""
        for source, target, layers, formats in self._ends(edge):
            if source != target:
                yield self._convert(edge.elements, source, target, layers, formats, share)

    def residual(self, edge: Edge) -> Iterable[Piece]:
        """Yield the extra work for a residual operand of another format.

        An operand that is converted to float32 can still be added by the kernel of the layer;
        otherwise the addition becomes a separate pass.
        """
        for source, target, layers, formats in self._ends(edge):
            if source == target:
                continue
            if target == "fp32":
                yield self._convert(edge.elements, source, target, layers, formats)
            else:
                work = rows.Work(inputs=2 * edge.elements, outputs=edge.elements)
                storage = rows.Storage(32, 32, 32, False, 0)
                yield Piece("add.fp32", work, storage, 0.0, layers, formats)

    def disagreement(self, first: Edge, second: Edge, share: float) -> Iterable[Piece]:
        """Yield the conversions that are needed if two readers of a tensor differ in format."""
        layers = (self._root[first.target], self._root[second.target])
        assert layers[0] is not None
        assert layers[1] is not None
        for a, b in product(range(len(self._formats)), repeat=2):
            one, other = self._stored[a], self._stored[b]
            if one != other:
                for pair in ((one, other), (other, one)):
                    yield self._convert(
                        first.elements, *pair, (layers[0], layers[1]), (a, b), share / 2
                    )

    def _ends(self, edge: Edge) -> Iterable[tuple[str, str, tuple[int, ...], tuple[int, ...]]]:
        """Yield dtype written, dtype read, and the layers and formats on which they depend."""
        source, target = self._root[edge.source], self._root[edge.target]
        choices = range(len(self._formats))
        for a, b in product(
            [None] if source is None else choices, [None] if target is None else choices
        ):
            if source == target and a != b:
                continue
            ends = {source: a, target: b}
            owners = {i: k for i, k in ends.items() if i is not None and k is not None}
            yield (
                self._computed(self._layers[edge.source], a),
                self._computed(self._layers[edge.target], b),
                tuple(owners),
                tuple(owners.values()),
            )

    def _computed(self, layer: Layer, k: int | None) -> str:
        """Return the dtype in which a layer reads and writes if its root has format `k`."""
        if k is None:
            return "fp32"
        if layer.quantizable:
            return self._stored[k]
        known = self._kernels.get(_kind(layer)) or self._kernels.get(layer.op, ())
        wanted = (self._stored[k], self._formats[k].between.name)
        return next((dtype for dtype in wanted if dtype in known), "fp32")

    def _convert(
        self,
        elements: int,
        source: str,
        target: str,
        layers: tuple[int, ...],
        formats: tuple[int, ...],
        share: float = 1.0,
    ) -> Piece:
        key = f"{source}_to_{target}"
        return self._copy(key, elements, source, target, layers, formats, share)

    def _copy(
        self,
        kernel: str,
        elements: int,
        source: str,
        target: str,
        layers: tuple[int, ...],
        formats: tuple[int, ...],
        share: float = 1.0,
    ) -> Piece:
        work = rows.Work(inputs=elements, outputs=elements)
        storage = rows.Storage(32, KERNEL_DTYPES[source].bits, KERNEL_DTYPES[target].bits, False, 0)
        return Piece(kernel, work, storage, 0.0, layers, formats, share=share)
